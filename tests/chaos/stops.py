"""SIGTERM in every phase of runs of 1, 2 and 4 processes.

A row is good when every process ends with 42, or with 0 once all is written, and none
by the signal. "import" is a signal in the half second after the first line of the
command, wherever it falls. What is held up goes on for the seconds named: a step, a
write and a batch that all processes wait for have to end before the run does.
"""

import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from chaos import runs

TITLE = "Stops: SIGTERM in every phase"
PHASES = (
    *("import", "join", "start", "compile", "first step", "input wait", "step"),
    *("save", "evaluation", "last write"),
)
# Seconds that these phases are held up; they have to end before the process does.
HOLD = {
    "join": 3.0,
    "input wait": 5.0,
    "evaluation": 5.0,
    "last write": 4.0,
    "save": 8.0,
    "step": 3.0,
    "first step": 3.0,
}
SHORT = {1: ("compile", "evaluation", "save"), 2: ("join", "step", "last write")}
NTH = {"input wait": 5, "step": 5}
MOST = 120.0  # seconds after the signal; what takes longer is a failure


def stop(folder: Path, phase: str, count: int, victim: int) -> dict[str, Any]:
    """Stops a run in a phase and returns a row of the table."""
    held = runs.Held(phase, victim, NTH.get(phase, 1), HOLD.get(phase, 20.0))
    run = runs.Run(folder, count, held=None if phase == "import" else held)
    if phase == "import":
        run.wait_until_it_answers(victim)
        time.sleep(random.random() / 2)
    else:
        run.wait_until_held()
    asked = run.send(victim, signal.SIGTERM)
    if phase == "save":  # another one must not end what is being written
        time.sleep(5.5)
        run.send(victim, signal.SIGTERM)
    codes, ended = run.ends(MOST)
    wanted = {0, 42} if phase == "last write" else {42}
    return {
        "phase": phase,
        "processes": count,
        "SIGTERM to": victim,
        "held for": f"{held.seconds:g} s" if phase in HOLD else "",
        "codes": " ".join(map(str, codes)),
        "seconds to the end of all": f"{ended - asked:.1f}",
        "good": "yes" if set(codes) <= wanted else "NO",
        runs.SAID: run.said(),
    }


def rows(folder: Path, *, short: bool = False) -> list[dict[str, Any]]:
    """Stops runs in all phases, or in some of runs of 1 and 2 processes."""
    found = []
    for count in (1, 2) if short else (1, 2, 4):
        phases = SHORT[count] if short else PHASES
        phases = [phase for phase in phases if phase != "join" or count > 1]
        for number, phase in enumerate(phases):
            here = folder / f"{count}-{phase.replace(' ', '-')}"
            found.append(stop(here, phase, count, number % count))
            shutil.rmtree(here, ignore_errors=True)
    return found
