"""SIGTERM in every phase of runs of 1, 2 and 4 processes.

    python tests/chaos/stops.py [--processes=1,2,4] [--phases=...] [--folder=DIR]

A row is good when every process ends with 42, or with 0 once all is written, and none
by the signal. "import" is a signal in the half second after the first line of the
command, wherever it falls.
"""

import argparse
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import runs

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
        "_said": run.said(),
    }


def rows(folder: Path, counts: list[int], phases: list[str]) -> list[dict[str, Any]]:
    """Stops runs in all phases; a workdir in which a run went before is resumed."""
    found = []
    for count in counts:
        alone = [phase for phase in phases if phase != "join" or count > 1]
        for number, phase in enumerate(alone):
            here = folder / f"{count}-{phase.replace(' ', '-')}"
            victim = number % count
            row = stop(here, phase, count, victim)
            said = row.pop("_said")
            print(row, flush=True)
            if row["good"] == "NO":
                print(said, flush=True)
            found.append(row)
            shutil.rmtree(here, ignore_errors=True)
    return found


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("workdirs/chaos/stops"))
    parser.add_argument("--processes", default="1,2,4")
    parser.add_argument("--phases", default=",".join(PHASES))
    options = parser.parse_args()
    counts = [int(word) for word in options.processes.split(",")]
    found = rows(options.folder.absolute(), counts, options.phases.split(","))
    print(runs.table("Stops: `python tests/chaos/stops.py`", found))
    return int(any(row["good"] == "NO" for row in found))


if __name__ == "__main__":
    sys.exit(main())
