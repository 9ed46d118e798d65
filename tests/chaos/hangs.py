"""Processes that hang, are stopped or die, in every phase of 1 and 2 processes.

"hangs" is a main thread that stands still while other threads and heartbeats go on;
its phase has a limit of 8 s here, and more on a loaded machine. SIGSTOP and SIGKILL hit
the whole process that trains; a row says when the other one has ended, or, of one
process alone, when its supervisor has. A row is good when who can end ends with 42, the
hung one within its limit and 5 s, the other within 30 s. Writes that are slow are no
hang: 0.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from chaos import runs

TITLE = "Hangs and deaths"
# Seconds: a loaded machine needs more for what is no hang.
LIMIT = 8 + int(2 * os.getloadavg()[0])
FLAG = {
    "start": "setup",
    "compile": "compile",
    "first step": "first_step",
    "input wait": "stall",
    "step": "stall",
    "save": "save",
    "evaluation": "eval",
    "last write": "save",
}
NTH = {"input wait": 5, "step": 5}
SEEN = 30.0  # seconds in which a peer that is gone has to be seen


def hang(folder: Path, phase: str, count: int) -> dict[str, Any]:
    """Lets the last process hang in a phase."""
    held = runs.Held(phase, count - 1, NTH.get(phase, 1), 600.0)
    run = runs.Run(folder, count, f"--{FLAG[phase]}_timeout={LIMIT}", held=held)
    run.wait_until_held()
    began = time.monotonic()
    codes, ended = run.ends(LIMIT + SEEN)
    said, seconds = run.said(), ended - began
    told = "stopped: hangs in" in said and "most recent call first" in said
    good = set(codes) == {42} and told and seconds < LIMIT + 5
    return row("hangs", phase, count, codes, seconds, good, said)


def hit(folder: Path, number: int, phase: str) -> dict[str, Any]:
    """Stops or kills the child of the second of two processes in a phase."""
    held = runs.Held(phase, 0, NTH.get(phase, 1), 3.0)
    run = runs.Run(folder, 2, held=held)
    run.wait_until_held()
    began = run.send(1, number, to_child=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.processes[0].wait(SEEN + 30)
    seconds = time.monotonic() - began
    code = run.processes[0].returncode
    run.kill()
    good = code == 42 and seconds < SEEN
    name = signal.Signals(number).name
    return row(name, phase, 2, [code], seconds, good, run.said())


def stop_alone(folder: Path) -> dict[str, Any]:
    """SIGSTOP to one process, which its supervisor ends and starts again."""
    folder.mkdir(parents=True)
    log = folder / "log"
    flags = [f"--stall_timeout={LIMIT}", "--config.total=400 steps"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "vit_jax.commands.supervise", "--pause=0.1", "--"]
            + runs.words(folder / "run", *flags),
            env=runs.environment(folder.parent / "cache1", VIT_JAX_CHAOS_STEP="0.02"),
            stdout=file,
            stderr=file,
        )
    runs.wait_for(lambda: b"step 60/" in log.read_bytes())
    began = time.monotonic()
    os.kill(runs.children(process.pid)[0], signal.SIGSTOP)
    runs.wait_for(lambda: b"killing it" in log.read_bytes())
    seconds = time.monotonic() - began
    code = process.wait(runs.PATIENCE)
    good = code == 0 and seconds < LIMIT + 5
    said = log.read_text(errors="replace")
    return row("SIGSTOP, supervised", "step", 1, [code], seconds, good, said)


def slow_save(folder: Path, count: int) -> dict[str, Any]:
    """Writes that take longer than a step may, which is no hang."""
    environ = {"VIT_JAX_CHAOS_WRITE": "15", "VIT_JAX_CHAOS_STEP": "0.05"}
    run = runs.Run(folder, count, "--stall_timeout=5", environ=environ)
    codes, ended = run.ends()
    said = run.said()
    good = set(codes) == {0} and "error" not in said and "Traceback" not in said
    seconds = ended - run.began
    return row(
        "writes of 15 s, --stall_timeout=5", "", count, codes, seconds, good, said
    )


def row(
    what: str,
    phase: str,
    count: int,
    codes: list[int | None],
    seconds: float,
    good: bool,
    said: str,
) -> dict[str, Any]:
    """Returns a row of the table."""
    return {
        "what": what,
        "phase": phase,
        "processes": count,
        "codes": " ".join(map(str, codes)),
        "seconds": f"{seconds:.1f}",
        "good": "yes" if good else "NO",
        runs.SAID: said,
    }


def rows(folder: Path, *, short: bool = False) -> list[dict[str, Any]]:
    """Lets processes hang, stop and die in all phases, or in a few."""
    found = []

    def add(make: Any, *args: Any) -> None:
        here = folder / str(len(found))
        found.append(make(here, *args))
        shutil.rmtree(here, ignore_errors=True)

    if short:
        add(hang, "input wait", 1)
        add(hang, "first step", 2)
        return found
    for count in (1, 2):
        for phase in FLAG:
            add(hang, phase, count)
    for number in (signal.SIGKILL, signal.SIGSTOP):
        for phase in ("start", "compile", "step", "save", "evaluation"):
            add(hit, number, phase)
    add(stop_alone)
    for count in (1, 2):
        add(slow_save, count)
    return found
