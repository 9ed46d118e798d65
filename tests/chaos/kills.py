"""SIGKILL at random moments of one run, which its supervisor starts again each time.

The run ends with the bits of one that nobody disturbed, and goes on each time at least
from the newest checkpoint that was whole when it was killed.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from chaos import runs

TITLE = "Kills: SIGKILL at random moments of one run"
EVERY = 50  # steps between two checkpoints
STEP = "0.01"  # seconds that a step takes at least
# Seconds until a peer is lost: a loaded machine keeps a healthy one from saying so.
PEER = 10 + int(2 * os.getloadavg()[0])


def command(workdir: Path, count: int, steps: int) -> list[str]:
    """Returns what starts a run of one or several processes, again and again."""
    flags = [
        f"--config.total={steps} steps",
        *("--config.log_every=10 steps", "--config.eval_every=500 steps"),
        f"--config.save_every={EVERY} steps",
        f"--peer_timeout={PEER}",
    ]
    words = runs.words(workdir, *flags)
    if count == 1:
        ours = [sys.executable, "-m", "vit_jax.commands.supervise"]
        return [*ours, "--retries=1000", "--pause=0.02", "--", *words]
    ours = [sys.executable, str(runs.REPOSITORY / "launch" / "local.py")]
    ours += [f"--processes={count}", "--retries=1000", "--pause=0.02", "--"]
    return [*ours, *words[words.index("vit_jax.main") + 1 :]]


class Supervised:
    """A run and its supervisor."""

    def __init__(self, folder: Path, count: int, steps: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.workdir, self.log = folder / "run", folder / "log"
        self.began = time.monotonic()
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                command(self.workdir, count, steps),
                cwd=runs.REPOSITORY,
                env=runs.environment(
                    folder.parent / f"cache{count}", VIT_JAX_CHAOS_STEP=STEP
                ),
                stdout=file,
                stderr=file,
            )

    def said(self) -> str:
        """Returns the log."""
        return self.log.read_text(errors="replace")

    def alive(self) -> list[int]:
        """Returns its processes that train, and their guards."""
        found, waiting = [], [self.process.pid]
        while waiting:
            for pid in runs.children(waiting.pop()):
                found.append(pid)
                waiting.append(pid)
        return found

    def committed(self) -> int:
        """Returns the newest checkpoint that is whole: it has its final name."""
        folder = self.workdir / "checkpoints"
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        return max((int(name) for name in names if name.isdigit()), default=0)

    def starts(self) -> int:
        """Returns how often it was started again."""
        return self.said().count("supervise: restart")

    def steps_taken(self) -> int:
        """Returns how many steps the last start has taken, as far as it says."""
        said = self.said().rpartition("supervise: restart")[2]
        steps = [int(x) for x in re.findall(r" step (\d+)/\d+ \| ", said)]
        resumed = re.findall(r"resuming at step (\d+)", said)
        return steps[-1] - int(resumed[-1] if resumed else 0) if steps else 0

    def wait_for_steps(self, count: int) -> None:
        """Waits until the last start has taken so many steps, or the run is done."""
        runs.wait_for(
            lambda: self.steps_taken() >= count or self.process.poll() is not None
        )

    def wait_for_another_start(self, before: int) -> None:
        """Waits until it is started again, or done."""
        runs.wait_for(lambda: self.starts() > before or self.process.poll() is not None)

    def end(self) -> tuple[int, float]:
        """Waits for the end; returns the code, and the seconds since the start."""
        code = self.process.wait(3 * runs.PATIENCE)
        return code, time.monotonic() - self.began


def kill(folder: Path, count: int, kills: int) -> dict[str, Any]:
    """Kills a run so many times, or until it is done."""
    steps = max(200, kills * EVERY)
    calm = Supervised(folder / "calm", count, steps)
    runs.wait_for(lambda: " | eta" in calm.said())
    start = time.monotonic() - calm.began
    code, _ = calm.end()
    assert code == 0, calm.said()
    run, done, resumes = Supervised(folder / "killed", count, steps), 0, []
    while done < kills:
        if random.random() < 0.3:
            time.sleep(random.uniform(0.1, start / 3))
        else:  # by steps, so that it makes progress on a loaded machine, too
            run.wait_for_steps(random.randint(1, 2 * EVERY))
            time.sleep(random.uniform(0.0, 0.2))
        pids = run.alive()
        if run.process.poll() is not None:
            break
        if not pids:
            continue
        kept, starts = run.committed(), run.starts()
        try:
            os.kill(random.choice(pids), signal.SIGKILL)
        except ProcessLookupError:
            continue
        done += 1
        run.wait_for_another_start(starts)
        resumes.append((kept, len(run.said())))
    code, took = run.end()
    said = run.said()
    lost = [
        kept - int(found[1])
        for kept, at in resumes
        if (found := re.search(r"resuming at step (\d+)", said[at:]))
    ]
    arrays = runs.same_arrays(run.workdir, calm.workdir)
    ours, theirs = runs.figures(run.workdir), runs.figures(calm.workdir)
    good = code == 0 and ours == theirs and max(lost, default=0) <= 0
    return {
        "processes": count,
        "kills": done,
        "steps": steps,
        "save every": EVERY,
        "arrays bit-equal": arrays,
        "lines of metrics equal": f"{len(ours)} of {len(theirs)}"
        if ours == theirs
        else "NO",
        "checkpoints lost that were whole": sum(x > 0 for x in lost),
        "seconds": f"{took:.0f}",
        "good": "yes" if good else "NO",
        runs.SAID: said,
    }


def rows(folder: Path, *, short: bool = False) -> list[dict[str, Any]]:
    """Kills runs of 1 and 2 processes 100 times each, or one of 1 process 3 times."""
    if short:
        return [kill(folder / "1", 1, 3)]
    return [kill(folder / str(count), count, 100) for count in (1, 2)]
