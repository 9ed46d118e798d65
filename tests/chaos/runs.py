"""Real runs of one or several processes, which faults are done to, and their ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 600.0  # seconds for what is no measurement
SAID = "_said"  # of a row, which is no column of its table


def environment(cache: Path, **more: str) -> dict[str, str]:
    """Returns the environment of a process with one CPU device."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "PYTHONPATH": str(REPOSITORY),
        # What compiled once does not again: a start takes seconds then.
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        **more,
    }


def free_port() -> int:
    """Returns a TCP port that nobody uses now."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def words(workdir: Path, *flags: str) -> list[str]:
    """Returns the command of a run."""
    recipe = f"--config={REPOSITORY / 'tests' / 'chaos' / 'recipe.py'}"
    command = [sys.executable, "-m", "vit_jax.main", recipe, f"--workdir={workdir}"]
    return [*command, *flags]


@dataclass
class Held:
    """Where a process waits for what is done to it; see `recipe`."""

    phase: str
    process: int = 0
    nth: int = 1
    seconds: float = 30.0

    def variable(self, marker: Path) -> dict[str, str]:
        """Returns the environment variable that says it."""
        return {"VIT_JAX_CHAOS": json.dumps(vars(self) | {"marker": str(marker)})}


class Run:
    """The processes of one run, without anybody who starts them again."""

    def __init__(
        self,
        folder: Path,
        count: int,
        *flags: str,
        held: Held | None = None,
        workdir: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ):
        """Starts them.

        Args:
            folder: Gets the workdir, the logs and the cache of programs.
            count: How many processes, one device each.
            *flags: Of the command, beside the recipe and the workdir.
            held: Where one of them waits.
            workdir: Theirs; None: "run" in the folder.
            environ: Added to their environment.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.workdir, self.marker = workdir or folder / "run", folder / "marker"
        self.marker.unlink(missing_ok=True)
        port, self.began = free_port(), time.monotonic()
        self.logs = [folder / f"log{index}" for index in range(count)]
        self.processes = []
        for index, log in enumerate(self.logs):
            several = {
                "VIT_JAX_COORDINATOR": f"localhost:{port}",
                "VIT_JAX_PROCESSES": str(count),
                "VIT_JAX_PROCESS": str(index),
            }
            more = several if count > 1 else {}
            more |= held.variable(self.marker) if held else {}
            more |= environ or {}
            with log.open("wb") as file:
                process = subprocess.Popen(
                    words(self.workdir, *flags),
                    cwd=REPOSITORY,
                    env=environment(folder.parent / f"cache{count}", **more),
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
            self.processes.append(process)

    def wait_until_held(self) -> None:
        """Waits for the marker."""
        deadline = time.monotonic() + PATIENCE
        while not self.marker.exists():
            assert all(p.poll() is None for p in self.processes), self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def wait_until_it_answers(self, process: int) -> None:
        """Waits until the first line of the command has run: it takes SIGTERM."""
        bit = 1 << signal.SIGTERM - 1
        status = Path(f"/proc/{self.processes[process].pid}/status")
        caught = 0
        while not caught & bit:
            (line,) = (x for x in status.read_text().splitlines() if "SigCgt" in x)
            caught = int(line.split()[1], 16)
            time.sleep(0.005)

    def send(self, process: int, number: int, *, to_child: bool = False) -> float:
        """Sends a signal; returns the time."""
        pid = self.processes[process].pid
        pids = children(pid) if to_child else []
        os.kill(pids[0] if pids else pid, number)
        return time.monotonic()

    def ends(self, seconds: float = PATIENCE) -> tuple[list[int | None], float]:
        """Waits for all; returns their codes, None: still there, and the time."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                break
        ended, codes = time.monotonic(), [p.poll() for p in self.processes]
        self.kill()
        return codes, ended

    def kill(self) -> None:
        """Ends what is still there."""
        for process in self.processes:
            if process.poll() is None:
                for pid in children(process.pid):
                    os.kill(pid, signal.SIGKILL)
                process.kill()
                process.wait()

    def said(self) -> str:
        """Returns all logs."""
        return "\n".join(log.read_text(errors="replace") for log in self.logs)


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Returns the children of a process, on Linux."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def lines(workdir: Path) -> list[dict[str, Any]]:
    """Returns the whole lines of metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.endswith("}"):
            found.append(json.loads(line))
    return found


TIMES = ("images_per_second", "step_seconds", "input_wait", "eta_seconds", "mfu")
OF_THE_TIME = (*TIMES, "wall_time", "memory_bytes")


def figures(workdir: Path) -> list[dict[str, Any]]:
    """Returns what a run has measured, but for times."""
    found = []
    for line in lines(workdir):
        if not any(name.startswith("goodput") for name in line):
            found.append({k: v for k, v in line.items() if k not in OF_THE_TIME})
    return found


COMPARE = """
import json, sys
import numpy as np
from vit_jax import tree
from vit_jax.checkpoints import checkpoint, disk
found = [checkpoint.find(folder) for folder in sys.argv[1:]]
assert found[0].name == found[1].name, found
count = 0
for item in ("params", "optimizer"):
    both = [tree.named_leaves(disk.read_item(folder, item)) for folder in found]
    for (name, a), (other, b) in zip(*both, strict=True):
        same = np.asarray(a).tobytes() == np.asarray(b).tobytes()
        assert name == other and same, name
        count += 1
print(count)
"""


def same_arrays(*workdirs: Path) -> int:
    """Returns how many arrays the newest checkpoints of two runs share to the bit.

    Raises:
        AssertionError: they do not.
    """
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, *map(str, workdirs)],
        cwd=REPOSITORY,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def table(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """Returns rows as Markdown under a title."""
    names = [name for name in rows[0] if name != SAID]
    body = [" | ".join(str(row[name]) for name in names) for row in rows]
    head = [" | ".join(names), " | ".join("---" for _ in names)]
    return "\n".join([f"## {title}", "", *(f"| {x} |" for x in head + body), ""])
