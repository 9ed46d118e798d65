"""SIGTERM and Ctrl-C as a request to stop, answered in every phase of a process.

Python runs signal handlers between two of its own instructions, and a step on a slow
device is one call that may take minutes. The kernel's wake-up descriptor tells a thread
in the meantime: it ends the process at once where there is nothing to save, and says
what is being waited for where there is.
"""

import contextlib
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from vit_jax import errors
from vit_jax.runs import phases as phases_lib

REPEAT = 25.0  # seconds between two lines; most schedulers kill after 30
INSIST = 5.0  # seconds after which a second SIGTERM is no echo of the first
# Seconds to meet the others, so that they are told, of a process asked before.
MEETING = 10.0
PATIENCE = 1.0  # seconds that the images of one more step may take after a request
AGAIN = "Run the same command again to go on from there"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """Raised in what may be cut short: an evaluation.

    At any instruction of it, so that it must pass every `except Exception`.
    """


class Requests:
    """Whether this process was asked to stop, by a signal or by its peers.

    A process that trains has one, from its first line to its last (`stand`); a run
    inside a program that is not ours has one while it takes steps (`listening`).

    Attributes:
        phases: What the process is doing.
        on_end: Called in turn before the process ends with nothing to save.
        tell: Called once, with the phase, when a signal asks; several processes tell
            each other.
        tell_hang: Called when the process hangs, before its watchdog ends it.
        until: The turn to stop at, counted from 1; None: no turn.
    """

    def __init__(self, phases: phases_lib.Phases | None = None):
        self.phases = phases_lib.Phases() if phases is None else phases
        self.on_end: list[Callable[[], object]] = []
        self.tell: Callable[[phases_lib.Now], object] | None = None
        self.tell_hang: Callable[[], object] | None = None
        self.until: int | None = None
        self.turns = 0
        self.agreeing = threading.Lock()  # held while turns stand still
        self._received = self._standing = self._began = False
        self._interruptible, self._patience = False, 0.0

    def __bool__(self) -> bool:
        return self._received

    # ---- the loop's side

    def join(self) -> None:
        """Says that the process waits for others, not much longer once it is asked."""
        self.phases.enter(phases_lib.JOIN)
        if self._received and self._standing:
            self._end_later()

    def begin(self) -> None:
        """Says that the process knows what it is: a request now ends it at once.

        One from before does. Until then a process may be a guard, or one of several
        that others wait for.
        """
        self._began = True
        self.phases.enter(phases_lib.START)
        if self._received and self._standing:
            self._told()
            self.end()

    def turn(self) -> bool:
        """Returns whether this turn is the last; all processes take equally many."""
        if self.tell is None:
            return self._received
        with self.agreeing:
            self.turns += 1
            return self.until is not None and self.turns >= self.until

    def check(self) -> None:
        """Takes a turn in what may be cut short, and raises `Interrupted` at the last.

        Of one process alone a signal raises it.
        """
        if self.tell is not None and self.turn():
            raise Interrupted

    @contextlib.contextmanager
    def interruptible(self, patience: float = 0.0) -> Iterator[None]:
        """Runs a body that a request ends with `Interrupted`, so many seconds later."""
        if self.tell is not None:
            yield
            return
        self._patience, self._interruptible = patience, True
        try:
            if self._received:
                self._interrupt()
            yield
        finally:
            self._interruptible = False

    @contextlib.contextmanager
    def undoing(self, undo: Callable[[], object]) -> Iterator[None]:
        """Runs a body; a request that ends the process in it is undone before."""
        self.on_end.insert(0, undo)
        try:
            yield
        finally:
            self.on_end.remove(undo)

    # ---- signals

    def stand(self) -> None:
        """Collects signals from now on, until the process is gone."""
        self._standing = True
        self._listen()

    def dismiss(self) -> bool:
        """Collects none any more; returns whether there was one."""
        signal.set_wakeup_fd(-1)
        self._standing = False
        return self._received

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Collects signals in the body; only the main thread can, others do not."""
        if self._standing:
            yield
            return
        if threading.current_thread() is not threading.main_thread():
            logging.info("no signal handler outside the main thread")
            yield
            return
        previous = {number: signal.getsignal(number) for number in _SIGNALS}
        before, write, thread = self._listen()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            for number, action in previous.items():
                signal.signal(number, action)
            os.close(write)
            thread.join()

    def _listen(self) -> tuple[int, int, threading.Thread]:
        read, write = os.pipe()
        os.set_blocking(write, False)
        before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._handle)
        thread = threading.Thread(target=self._answer, args=(read,), daemon=True)
        thread.start()
        return before, write, thread

    def _handle(self, number: int, frame: object) -> None:
        self._received = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._interruptible:
            self._interrupt()

    def _interrupt(self) -> None:
        if not self._patience:
            self._late(signal.SIGALRM, None)
        signal.signal(signal.SIGALRM, self._late)
        signal.setitimer(signal.ITIMER_REAL, self._patience)

    def _late(self, number: int, frame: object) -> None:
        if self._interruptible:
            self._interruptible = False
            raise Interrupted

    def _answer(self, read: int) -> None:
        """Reads signal numbers until the other end is closed."""
        first: float | None = None
        while True:
            timeout = None if first is None else REPEAT
            if select.select([read], [], [], timeout)[0]:
                numbers = os.read(read, 64)
                if not numbers:
                    os.close(read)
                    return
                if not set(_SIGNALS) & set(numbers):
                    continue
                # The handler runs when the main thread comes back to Python.
                self._received = True
                insists = first and time.monotonic() - first > INSIST
                first = first or time.monotonic()
                self._answer_now(signal.SIGTERM in numbers and bool(insists))
            logging.warning(
                "asked to stop: waiting for %s, then it saves; a second SIGTERM ends "
                "it at once, without saving, but for a save under way",
                self.phases.now(),
            )

    def _answer_now(self, insists: bool) -> None:
        """Ends the process where there is nothing to wait for; else tells the peers."""
        now = self.phases.now()
        if self._standing and not self._began:
            if now.phase == phases_lib.JOIN:
                self._end_later()
            return
        self._told()
        if self._standing and now.phase in phases_lib.NOTHING_DONE:
            self.end()
        if insists and now.phase != phases_lib.SAVE:
            self.end(f"asked to stop twice, during {now}")

    def _told(self) -> None:
        if self.tell is not None:
            self.tell(self.phases.now())

    def _end_later(self) -> None:
        timer = threading.Timer(MEETING, self.end)
        timer.daemon = True
        timer.start()

    def end(self, why: str = "") -> NoReturn:
        """Ends the process with 42, from any thread, without saving anything."""
        why = why or f"asked to stop while {self.phases.now()}"
        print(
            f"stopped: {why}; nothing to save since the newest checkpoint. {AGAIN}",
            file=sys.__stderr__,
            flush=True,
        )
        for undo in self.on_end:
            with contextlib.suppress(Exception):
                undo()
        os._exit(errors.EXIT_RETRY)


_of_process: list[Requests] = []


def stand() -> Requests:
    """Collects the signals of this process, from its first line on; only once."""
    if not _of_process:
        _of_process.append(Requests())
        _of_process[0].stand()
    return _of_process[0]


def of_process() -> Requests:
    """Returns what `stand` has made, or requests that nobody collects yet."""
    return _of_process[0] if _of_process else Requests()
