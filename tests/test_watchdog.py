"""A run that stands still ends with 42, and says where; one that is slow does not."""

import os
import socket
import subprocess
import sys
import time

import pytest

PRELUDE = """
import sys, time
from vit_jax.runs import watchdog
watch = watchdog.Watchdog(0.4)
def stuck_in_a_collective():
    time.sleep(30)
"""


def run(body):
    """(exit code, standard error, seconds) of a process that watches itself."""
    started = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-c", PRELUDE + body], capture_output=True, text=True
    )
    return found.returncode, found.stderr, time.monotonic() - started


def test_a_hang_ends_with_42_the_last_step_and_all_stacks():
    code, log, _ = run("watch.step(7)\nstuck_in_a_collective()")
    assert code == 42
    assert "stopped: nothing since step 7, for 0 s, on " in log
    assert "stuck_in_a_collective" in log and "Run the same command again" in log


@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(1.5)",  # it starts, and compiles
        "watch.step(1)\nwith watch.busy('saving'): time.sleep(1.5)",
        "watch.step(1); time.sleep(0.3); watch.step(2); time.sleep(1.5)",  # 20 times
        "watch.step(1); watch.close(); time.sleep(1.5)",
        "watchdog.Watchdog(0).step(1); time.sleep(1.5)",
    ],
)
def test_slow_is_not_hanging(body):
    code, log, _ = run(body)
    assert code == 0, log


def test_an_evaluation_hangs_too():
    code, log, _ = run("watch.step(3)\nwith watch.busy('evaluating'): time.sleep(30)")
    assert code == 42 and "stopped: evaluating since step 3" in log


HANGING_DATA = """
import itertools, time
from configs import quickstart
from vit_jax import train
from vit_jax.parallel import mesh
from vit_jax.data import loader
iterate = loader.TrainLoader.iterate
def hang(self, start):
    yield from itertools.islice(iterate(self, start), 6)
    time.sleep(60)
loader.TrainLoader.iterate = hang
config = quickstart.get_config()
config.model.update({"depth": 1, "width": 16, "mlp_width": 16})
train.run(config, WORKDIR, mesh.make_mesh(), stall_timeout=2)
"""


def test_a_run_whose_data_stalls_ends_after_its_timeout(tmp_path):
    body = HANGING_DATA.replace("WORKDIR", repr(str(tmp_path)))
    code, log, _ = run(body)
    assert code == 42, log
    assert "stopped: nothing since step" in log and "in hang" in log


ONE_OF_TWO = """
from vit_jax import cli
from vit_jax.runs import distributed, guarding
cli.configure_logging()
def body():
    import jax
    hangs = jax.process_index() == 1
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
    body = body.replace("time.sleep(60)", "time.sleep(60) if hangs else None")
    body = body.replace(
        "iterate(self, start), 6", "iterate(self, start), 6 if hangs else 99"
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
