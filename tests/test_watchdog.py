"""A run that stands still ends with 42, and says where; one that is slow does not."""

import os
import queue
import socket
import subprocess
import sys
import threading
import time

import pytest

from vit_jax.runs import phases, watchdog


def run(body):
    """(exit code, standard error) of a process."""
    found = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True)
    return found.returncode, found.stderr


HANG = """
import threading
from vit_jax.runs import phases, watchdog
watchdog.POLL = 0.02
during = phases.Phases()
watch = watchdog.Watchdog(during, watchdog.Limits(step=0.1))
def stuck_in_a_collective():
    threading.Event().wait()
during.enter(phases.STEP)
during.stepped(7)
stuck_in_a_collective()
"""


def test_a_hang_ends_with_42_the_last_step_the_host_and_all_stacks():
    code, log = run(HANG)
    assert code == 42
    assert "stopped: hangs in step 8, for 0 s, and may take 0.1 s (--stall_" in log
    assert f"on {socket.gethostname()} (process " in log and "last step 7" in log
    assert "stuck_in_a_collective" in log and "Run the same command again" in log


LIMITS = watchdog.Limits(
    start=10, compile=20, first_step=30, step=40, save=50, evaluation=60
)


class Watched:
    """A watchdog whose clock and looks are turned by hand: a look is a second."""

    def __init__(self, limits):
        self.now = 0.0
        self.phases = phases.Phases(lambda: self.now)
        self.dog = watchdog.Watchdog(self.phases, limits)
        self.dog.close()  # its own thread

    def wait(self, seconds, look=1.0):
        """What the looks of so many seconds found, the first that found something."""
        for _ in range(seconds):
            self.now += look
            if found := self.dog.poll(look):
                return found
        return None


@pytest.fixture
def watched():
    return Watched(LIMITS)


@pytest.mark.parametrize(
    ("phase", "limit", "words"),
    [
        (phases.START, 10, "starting, for 11 s, and may take 10 s (--setup_timeout)"),
        (phases.COMPILE, 20, "compiling, for 21 s, and may take 20 s (--compile_time"),
        (phases.FIRST_STEP, 30, "the first step, for 31 s, and may take 30 s (--first"),
        (phases.STEP, 40, "step 8, for 41 s, and may take 40 s (--stall_timeout)"),
        (phases.INPUT, 40, "step 8 (waiting for images), for 41 s, and may take 40 s"),
        (phases.SAVE, 50, "saving, for 51 s, and may take 50 s (--save_timeout)"),
        (phases.EVALUATION, 60, "evaluating, for 61 s, and may take 60 s (--eval_ti"),
    ],
)
def test_every_phase_has_its_limit(watched, phase, limit, words):
    watched.wait(3)
    if phase in (phases.STEP, phases.INPUT):
        watched.phases.stepped(7)
    watched.phases.enter(phase)
    assert watched.wait(limit) is None
    assert words in watched.wait(1)


def test_images_of_the_first_step_have_its_limit(watched):
    watched.phases.enter(phases.FIRST_STEP)
    with watched.phases.within(phases.INPUT):
        assert watched.wait(30) is None
        assert "--first_step_timeout" in watched.wait(1)


def test_every_step_is_a_sign_of_life_and_so_is_the_end_of_a_phase(watched):
    watched.phases.enter(phases.FIRST_STEP)
    for number in range(1, 4):
        watched.phases.stepped(number)
        assert watched.wait(40) is None
    with watched.phases.within(phases.EVALUATION):
        assert watched.wait(60) is None
    assert watched.wait(40) is None
    assert watched.wait(1)


def test_a_limit_does_not_follow_a_stall(watched):
    watched.phases.enter(phases.STEP)
    watched.phases.stepped(1)
    assert watched.wait(39) is None
    watched.phases.stepped(2)
    assert watched.wait(40) is None and watched.wait(1)


def test_a_machine_that_slept_has_not_hung(watched):
    """A look counts for no more than three seconds, however late it comes."""
    watched.phases.enter(phases.STEP)
    assert watched.wait(1) is None
    assert watched.wait(9, look=3600.0) is None


def test_without_a_limit_nobody_watches():
    started = threading.active_count()
    watchdog.Watchdog(phases.Phases(), watchdog.Limits())
    assert threading.active_count() == started
    watched = Watched(watchdog.Limits(step=1))
    for phase in (phases.JOIN, phases.START, phases.COMPILE, phases.SAVE):
        watched.phases.enter(phase)
        assert watched.wait(10_000) is None


def test_after_its_end_nobody_watches(monkeypatch):
    polls = queue.SimpleQueue()
    monkeypatch.setattr(watchdog, "POLL", 1e-3)
    monkeypatch.setattr(watchdog.Watchdog, "poll", lambda self, _: polls.put(self))
    before = set(threading.enumerate())
    dog = watchdog.Watchdog(phases.Phases(), watchdog.Limits(step=1))
    (thread,) = set(threading.enumerate()) - before
    assert polls.get(timeout=60) is dog
    dog.close()
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_the_account_of_time_has_every_second_once():
    now = [0.0]
    during = phases.Phases(lambda: now[0])
    for phase, seconds in [
        (phases.START, 1),
        (phases.COMPILE, 2),
        (phases.FIRST_STEP, 4),
        (phases.SAVE, 8),
        (phases.EVALUATION, 16),
    ]:
        with during.within(phase):
            now[0] += seconds
            with during.within(phases.INPUT):
                now[0] += 32
    found = during.seconds()
    wanted = {"start": 1, "compile": 2, "step": 4, "save": 8, "evaluation": 16}
    assert found == wanted | {"input wait": 5 * 32}
    assert sum(found.values()) == now[0]


HANGING_DATA = """
import itertools, threading
from configs import quickstart
from vit_jax import train
from vit_jax.parallel import mesh
from vit_jax.data import loader
from vit_jax.runs import watchdog
poll, hangs = watchdog.Watchdog.poll, threading.Event()
def poll_from_then_on(self, seconds):  # a step of a busy machine takes its time
    return poll(self, seconds) if hangs.is_set() else None
watchdog.Watchdog.poll, watchdog.POLL = poll_from_then_on, 0.05
iterate = loader.TrainLoader.iterate
def hang(self, start, *rest):
    yield from itertools.islice(iterate(self, start, *rest), 6)
    hangs.set()
    threading.Event().wait()
loader.TrainLoader.iterate = hang
config = quickstart.get_config()
config.model.update({"depth": 1, "width": 16, "mlp_width": 16})
train.run(config, WORKDIR, mesh.make_mesh(), stall_timeout=0.5)
"""


@pytest.mark.slow
def test_a_run_whose_data_stalls_ends_after_its_timeout(tmp_path):
    body = HANGING_DATA.replace("WORKDIR", repr(str(tmp_path)))
    code, log = run(body)
    assert code == 42, log
    assert (
        "stopped: hangs in step" in log
        and "waiting for images" in log
        and "in hang" in log
    )


ONE_OF_TWO = """
from vit_jax import cli
from vit_jax.runs import distributed, guarding
cli.configure_logging()
def body():
    import jax
    one_hangs = jax.process_index() == 1
    BODY
cluster = distributed.find()
times = {"start_timeout": 300, "peer_timeout": 8}
with guarding.one_of_several(str(cluster), cluster.arguments(), **times):
    body()
"""


@pytest.mark.slow
def test_both_processes_end_where_one_hangs(tmp_path):
    """Heartbeats of one that hangs go on; it ends itself, then the other loses it."""
    body = HANGING_DATA.replace("WORKDIR", repr(str(tmp_path)))
    waits = "threading.Event().wait()"
    body = body.replace(waits, f"{waits} if one_hangs else None")
    body = body.replace(
        "iterate(self, start, *rest), 6",
        "iterate(self, start, *rest), 6 if one_hangs else 99",
    )
    code = ONE_OF_TWO.replace("BODY", body.strip().replace("\n", "\n    "))
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    started = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ
            | {
                "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
                "VIT_JAX_COORDINATOR": f"localhost:{port}",
                "VIT_JAX_PROCESSES": "2",
                "VIT_JAX_PROCESS": str(index),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    logs = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [42, 42], logs
    assert "in hang" in logs[1]
    assert any("stopped: hangs in step" in log for log in logs)
    assert time.monotonic() - started < 150
