"""A run that stands still ends with 42, and says where; one that is slow does not."""

import os
import queue
import socket
import subprocess
import sys
import threading
import time

import pytest

from vit_jax.runs import watchdog


def run(body):
    """(exit code, standard error) of a process."""
    found = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True)
    return found.returncode, found.stderr


HANG = """
import threading
from vit_jax.runs import watchdog
watch = watchdog.Watchdog(0.1)
def stuck_in_a_collective():
    threading.Event().wait()
watch.step(7)
stuck_in_a_collective()
"""


def test_a_hang_ends_with_42_the_last_step_and_all_stacks():
    code, log = run(HANG)
    assert code == 42
    assert "stopped: nothing since step 7, for 0 s, on " in log
    assert "stuck_in_a_collective" in log and "Run the same command again" in log


class Watched:
    """A watchdog whose clock and polls are turned by hand: a poll is a second."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(watchdog.time, "monotonic", lambda: self.now)
        self.dog = watchdog.Watchdog(float(watchdog.POLLS))
        self.dog.close()  # its own thread

    def wait(self, seconds):
        """What the polls of so many seconds found, the first that found something."""
        for _ in range(seconds):
            self.now += 1
            if found := self.dog.poll():
                return found
        return None


@pytest.fixture
def watched(monkeypatch):
    return Watched(monkeypatch)


TIMEOUT = watchdog.POLLS  # seconds


def test_starting_and_compiling_may_take_as_long_as_they_need(watched):
    assert watched.wait(100 * TIMEOUT) is None


def test_no_step_in_time_is_a_hang(watched):
    watched.dog.step(7)
    assert watched.wait(TIMEOUT + 1) is None  # the first poll sees the step
    assert watched.wait(1) == (7, "", TIMEOUT + 1)


def test_every_step_is_a_sign_of_life(watched):
    for number in range(1, 4):
        watched.dog.step(number)
        assert watched.wait(TIMEOUT) is None


@pytest.mark.parametrize("doing", ["saving", "evaluating"])
def test_what_is_long_has_six_timeouts(watched, doing):
    watched.dog.step(3)
    with watched.dog.busy(doing):
        assert watched.wait(watchdog.LONG * TIMEOUT + 1) is None
        assert watched.wait(1) == (3, doing, watchdog.LONG * TIMEOUT + 1)
    assert watched.wait(TIMEOUT + 1) is None  # its end is a sign, too
    assert watched.wait(1) == (3, "", TIMEOUT + 1)


def test_a_step_may_take_20_times_the_slowest_so_far(watched):
    watched.dog.step(1)
    watched.wait(TIMEOUT // 2)
    watched.dog.step(2)
    assert watched.wait(watchdog.SLOWEST * TIMEOUT // 2 + 1) is None
    assert watched.wait(1) == (2, "", watchdog.SLOWEST * TIMEOUT // 2 + 1)


def test_without_a_timeout_nobody_watches(monkeypatch):
    started = threading.active_count()
    watchdog.Watchdog(0.0).step(1)
    assert threading.active_count() == started


def test_after_its_end_nobody_watches(monkeypatch):
    polls = queue.SimpleQueue()
    monkeypatch.setattr(watchdog.Watchdog, "poll", lambda self: polls.put(self))
    dog = watchdog.Watchdog(1e-3)
    (thread,) = (t for t in threading.enumerate() if t.name == watchdog.THREAD)
    assert polls.get(timeout=60) is dog
    dog.close()
    thread.join(timeout=60)
    assert not thread.is_alive()


HANGING_DATA = """
import itertools, threading
from configs import quickstart
from vit_jax import train
from vit_jax.parallel import mesh
from vit_jax.data import loader
from vit_jax.runs import watchdog
poll, hangs = watchdog.Watchdog.poll, threading.Event()
def poll_from_then_on(self):
    return poll(self) if hangs.is_set() else None
watchdog.Watchdog.poll = poll_from_then_on
watchdog.SLOWEST = 1  # not 20 times a first step on a busy machine
iterate = loader.TrainLoader.iterate
def hang(self, start):
    yield from itertools.islice(iterate(self, start), 6)
    hangs.set()
    threading.Event().wait()
loader.TrainLoader.iterate = hang
config = quickstart.get_config()
config.model.update({"depth": 1, "width": 16, "mlp_width": 16})
train.run(config, WORKDIR, mesh.make_mesh(), stall_timeout=0.5)
"""


def test_a_run_whose_data_stalls_ends_after_its_timeout(tmp_path):
    body = HANGING_DATA.replace("WORKDIR", repr(str(tmp_path)))
    code, log = run(body)
    assert code == 42, log
    assert "stopped: nothing since step" in log and "in hang" in log


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
        "iterate(self, start), 6", "iterate(self, start), 6 if one_hangs else 99"
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
    assert any("stopped: nothing since step" in log for log in logs)
    assert time.monotonic() - started < 150
