"""What a process is doing, since when, and how long it did what before.

The thread that trains says so; the watchdog, the answers to signals and the account of
time read it from other threads.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

JOIN, START, COMPILE = "join", "start", "compile"
FIRST_STEP, STEP, INPUT = "first step", "step", "input wait"
SAVE, EVALUATION = "save", "evaluation"

# Nothing is lost of a run that ends in one of these.
NOTHING_DONE = {JOIN, START, COMPILE}
# The classes of the account of time, by phase.
CLASSES = {
    **{JOIN: START, START: START, COMPILE: COMPILE},
    **{FIRST_STEP: STEP, STEP: STEP, INPUT: INPUT, SAVE: SAVE, EVALUATION: EVALUATION},
}
_SAID = {
    JOIN: "waiting for the other processes",
    START: "starting",
    COMPILE: "compiling",
    SAVE: "saving",
    EVALUATION: "evaluating",
}


class Now(NamedTuple):
    """A look at a process.

    Attributes:
        phase: One of the names above.
        detail: What of it, or "".
        step: The last step that ended, None before.
        seconds: Since the last sign of life: a phase begun, a step ended.
        signs: How many there were.
    """

    phase: str
    detail: str
    step: int | None
    seconds: float
    signs: int

    def __str__(self) -> str:
        """What is under way and for how long, as in "step 7, for 12 s"."""
        if self.phase in _SAID:
            what = " ".join(filter(None, (_SAID[self.phase], self.detail)))
        elif self.step is None:
            what = "the first step"
        else:
            what = f"step {self.step + 1}"
        waits = " (waiting for images)" if self.phase == INPUT else ""
        return f"{what}{waits}, for {self.seconds:.0f} s"


class Phases:
    """The phases of one process.

    Attributes:
        marks: The last steps that a run may go on from, with the seconds until then.
        account: Gives the figures of all starts of the run, where somebody keeps them.

    Args:
        clock: Seconds; another one in tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._phase, self._detail = START, ""
        self._step: int | None = None
        self._since = self._sign = clock()
        self._signs = 0
        self._seconds = dict.fromkeys(CLASSES.values(), 0.0)
        self.marks: list[tuple[int, dict[str, float]]] = []
        self.account: Callable[[], dict[str, float]] | None = None

    def enter(self, phase: str, detail: str = "") -> None:
        """Ends the phase so far and begins another one."""
        with self._lock:
            now = self._clock()
            self._seconds[CLASSES[self._phase]] += now - self._since
            self._phase, self._detail = phase, detail
            self._since = self._sign = now
            self._signs += 1

    @contextlib.contextmanager
    def within(self, phase: str, detail: str = "") -> Iterator[None]:
        """Runs a body in a phase, and goes on with the one before."""
        before = self._phase, self._detail
        self.enter(phase, detail)
        try:
            yield
        finally:
            self.enter(*before)

    def stepped(self, number: int) -> None:
        """Says that a step has ended: what follows are steps."""
        if self._phase == FIRST_STEP:
            self.enter(STEP)
        with self._lock:
            self._step = number
            self._sign = self._clock()
            self._signs += 1

    def now(self) -> Now:
        """Returns what is under way."""
        with self._lock:
            seconds = self._clock() - self._sign
            return Now(self._phase, self._detail, self._step, seconds, self._signs)

    def mark(self, step: int) -> None:
        """Says that a run that goes on from this step has nothing to do again."""
        others = [mark for mark in self.marks if mark[0] != step]
        self.marks = [*others[-8:], (step, self.seconds())]

    def seconds(self) -> dict[str, float]:
        """Returns how long each class of `CLASSES` took so far."""
        with self._lock:
            found = dict(self._seconds)
            found[CLASSES[self._phase]] += self._clock() - self._since
        return found
