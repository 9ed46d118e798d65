"""Ten random faults of a job of four processes, under the restart policy of launch/.

`launch/local.py` starts all again on 42 and kills, as a JobSet does. The job finishes
with the bits of one that nobody disturbed, and its account of time sums to the wall
clock, measured from outside, within 1 %.
"""

import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

from chaos import kills, runs

TITLE = "A job of four processes with ten faults"
FAULTS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGABRT)
ACCOUNT = re.compile(
    r"supervise: ([\d.]+) s in (\d+) starts, .*: (start.*), lost ([\d.]+)"
)


def disturb(run: kills.Supervised, faults: int) -> list[str]:
    """Does faults to a job, each once it trains again; returns what."""
    done = []
    for _ in range(faults):
        seen = len(run.said())
        runs.wait_for(
            lambda seen=seen: (
                " | eta" in run.said()[seen:] or run.process.poll() is not None
            )
        )
        time.sleep(random.uniform(0.0, 1.0))
        pids = run.alive()
        if run.process.poll() is not None or not pids:
            break
        number = random.choice(FAULTS)
        # What SIGSTOP and SIGABRT hit is what trains, not its guard.
        which = [pid for pid in pids if not runs.children(pid)]
        pid = random.choice(pids if number == signal.SIGKILL else which)
        starts = run.starts()
        os.kill(pid, number)
        done.append(signal.Signals(number).name)
        run.wait_for_another_start(starts)
    return done


def job(folder: Path, count: int, faults: int) -> dict[str, Any]:
    """Runs a job with faults and without; returns a row of the table."""
    steps = 150 * (faults + 1)
    calm = kills.Supervised(folder / "calm", count, steps)
    code, _ = calm.end()
    assert code == 0, calm.said()
    run = kills.Supervised(folder / "job", count, steps)
    done = disturb(run, faults)
    code, wall = run.end()
    said = run.said()
    found = ACCOUNT.search(said)
    parts = [float(x) for x in re.findall(r" ([\d.]+)", found[3])] if found else []
    total = sum(parts) + float(found[4]) if found else 0.0
    off = abs(total / wall - 1)
    ours, theirs = runs.figures(run.workdir), runs.figures(calm.workdir)
    good = code == 0 and ours == theirs and off < 0.01 and len(done) == faults
    return {
        "processes": count,
        "faults": ", ".join(f"{done.count(x)} {x}" for x in sorted(set(done))),
        "starts": found[2] if found else "?",
        "arrays bit-equal": runs.same_arrays(run.workdir, calm.workdir),
        "lines of metrics equal": f"{len(ours)} of {len(theirs)}"
        if ours == theirs
        else "NO",
        "wall clock": f"{wall:.1f} s",
        "account": f"{total:.1f} s ({off:.2%} off)",
        "good": "yes" if good else "NO",
        runs.SAID: said,
    }


def rows(folder: Path, *, short: bool = False) -> list[dict[str, Any]]:
    """Runs the job; short: two processes and one fault."""
    return [job(folder, 2, 1) if short else job(folder, 4, 10)]
