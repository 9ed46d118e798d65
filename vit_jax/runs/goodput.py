"""Where the time of a run went, over all its starts.

`vit_jax supervise` names a file in $VIT_JAX_ACCOUNT. The run that it starts writes
there several times a second what it does and how long it did what, so that the end of
it, by whatever, loses less than a second. The supervisor adds the starts up: steps that
the next start does again are lost, and so is the time between two.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_jax.runs import phases as phases_lib

VARIABLE = "VIT_JAX_ACCOUNT"
PERIOD = 0.25  # seconds between two writes of a run
# Seconds beyond a limit after which a run that writes nothing is taken for dead: its
# own watchdog, which needs Python's lock, has had its turn.
SILENCE = 4.0
LOST, AGAIN = "lost", "again"  # all that is lost, and what of it was done again
CLASSES = tuple(dict.fromkeys(phases_lib.CLASSES.values()))
# A start that goes on from an earlier step does these again.
DONE_AGAIN = (phases_lib.STEP, phases_lib.INPUT, phases_lib.EVALUATION)
Account = dict[str, float]


def settled(
    account: Mapping[str, float], starts: Sequence[Mapping[str, Any]], resumed: int
) -> Account:
    """Returns an account with the time of more starts.

    Args:
        account: Seconds by class, `LOST` and `AGAIN` among them.
        starts: "wall", how long each took until the next; "seconds" by class, and
            "marks": its steps that a start may go on from, with the seconds until then.
        resumed: The step that the start after them goes on from.
    """
    found = dict.fromkeys((*CLASSES, LOST, AGAIN), 0.0) | dict(account)
    for start in starts:
        seconds: Mapping[str, float] = start["seconds"]
        kept = [until for step, until in start["marks"] if step <= resumed]
        kept = kept or [until for _, until in start["marks"][:1]]
        for name in CLASSES:
            again = seconds[name] - kept[-1][name] if kept else 0.0
            again = again if name in DONE_AGAIN else 0.0
            found[name] += seconds[name] - again
            found[AGAIN] += again
            found[LOST] += again
        found[LOST] += start["wall"] - sum(seconds.values())
    return found


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text())
    return {}


def _write(path: Path, values: Mapping[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(values))
    part.replace(path)


# ---- the run's side


class Recorder:
    """Writes what a run does into the file of its supervisor, until the run is gone.

    Args:
        path: The file, where the supervisor has said what was before.
        phases: Of this process.
        limit: Seconds that something may take, 0: any.
    """

    def __init__(
        self,
        path: Path,
        phases: phases_lib.Phases,
        limit: Callable[[phases_lib.Now], float],
    ):
        self._path, self._phases, self._limit = path, phases, limit
        self._given = _read(path)["given"]
        # The interpreter, and a guard, came before what `phases` knows.
        ours = sum(phases.seconds().values())
        self._before = max(0.0, time.time() - self._given["spawned"] - ours)
        threading.Thread(target=self._keep_writing, daemon=True).start()

    def seconds(self) -> Account:
        """Returns the seconds of this start, by class."""
        found = self._phases.seconds()
        found[phases_lib.START] += self._before
        return found

    def figures(self) -> dict[str, float]:
        """Returns the account of all starts so far, for metrics.jsonl."""
        marks = self._phases.marks
        account = settled(
            self._given["account"],
            self._given["starts"],
            marks[0][0] if marks else 0,
        )
        for name, seconds in self.seconds().items():
            account[name] += seconds
        wall = time.time() - self._given["began"]
        return {
            f"goodput_{name.replace(' ', '_')}_seconds": round(account[name], 3)
            for name in (*CLASSES, LOST)
        } | {
            "goodput_wall_seconds": round(wall, 3),
            "goodput": round(account[phases_lib.STEP] / wall, 4),
        }

    def _keep_writing(self) -> None:
        with contextlib.suppress(OSError):  # the supervisor is gone
            while True:
                now = self._phases.now()
                said = {
                    "seconds": self.seconds(),
                    "marks": self._phases.marks,
                    "doing": str(now),
                    "limit": self._limit(now),
                }
                _write(self._path, {"given": self._given, "said": said})
                time.sleep(PERIOD)


def record(phases: phases_lib.Phases, limit: Callable[[phases_lib.Now], float]) -> None:
    """Starts to write, where a supervisor has named a file; it stays ours alone."""
    if path := os.environ.pop(VARIABLE, ""):
        with contextlib.suppress(KeyError):  # the supervisor is gone
            phases.account = Recorder(Path(path), phases, limit).figures


# ---- the supervisor's side


def _said(path: Path) -> dict[str, Any] | None:
    found = _read(path)
    return found["said"] if "said" in found else None


def resumed(path: Path) -> int:
    """Returns the step that a run says it went on from; 0 where it said none."""
    said = _said(path)
    return said["marks"][0][0] if said and said["marks"] else 0


def silent(path: Path) -> str:
    """Returns what a run was doing that does not say so any more; "" while it does."""
    with contextlib.suppress(OSError):
        age = time.time() - path.stat().st_mtime
        if age > SILENCE and (said := _said(path)) and said["limit"]:
            if age > said["limit"] + SILENCE:
                return f"no sign of life for {age:.0f} s, in {said['doing']}"
    return ""


class Book:
    """The account of all starts of a supervisor.

    Args:
        folder: For the files of the starts.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._began, self._count = time.monotonic(), 0
        self._began_at = time.time()
        self._account: Account = {}
        # Starts after the last that said from where it goes on, and that one.
        self._open: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def start(self) -> Iterator[Path]:
        """Yields the file of one start, and the pause after it belongs to it."""
        self._count += 1
        path, began = self._folder / f"start{self._count}.json", time.monotonic()
        given = {
            **{"spawned": time.time(), "began": self._began_at},
            **{"account": self._account, "starts": self._open},
        }
        _write(path, {"given": given})
        try:
            yield path
        finally:
            said = _said(path) or {"seconds": dict.fromkeys(CLASSES, 0.0), "marks": []}
            if said["marks"]:
                self._settle(said["marks"][0][0])
            seconds, marks = said["seconds"], said["marks"]
            wall = time.monotonic() - began
            self._open.append({"seconds": seconds, "marks": marks, "wall": wall})

    def _settle(self, resumed: int) -> None:
        self._account = settled(self._account, self._open, resumed)
        self._open = []

    def close(self) -> str:
        """Returns where all the time went; "" of commands that have not said so."""
        if not any(start["marks"] for start in self._open) and not self._account:
            return ""
        steps = [step for start in self._open for step, _ in start["marks"]]
        self._settle(max(steps, default=0))
        wall = time.monotonic() - self._began
        parts = [f"{name} {self._account[name]:.1f}" for name in (*CLASSES, LOST)]
        share = self._account[phases_lib.STEP] / wall
        return (
            f"{wall:.1f} s in {self._count} starts, {share:.1%} of it steps: "
            f"{', '.join(parts)} ({self._account[AGAIN]:.1f} of it done again)"
        )
