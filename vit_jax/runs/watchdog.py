"""Ends a run that stands still, so that whoever started it can start it again.

JAX notices a process that is gone, never one that hangs: the others wait in a
collective for ever. Every process watches itself, and all of them end.
"""

import contextlib
import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

from vit_jax import errors

# A step may take this many times the slowest one so far, whatever the timeout.
SLOWEST = 20
# Saving and evaluating may take this many timeouts.
LONG = 6
POLLS = 20  # a timeout
THREAD = "watchdog"


class Watchdog:
    """Prints the stacks of all threads and exits with 42 when no step ends in time.

    It waits from the first `step` on: starting and compiling may take as long as they
    need.

    Args:
        timeout: seconds; 0: never.
    """

    def __init__(self, timeout: float):
        self._timeout = timeout
        self._lock = threading.Lock()
        self._signs = 0  # of life
        self._number: int | None = None
        self._ended = 0.0  # the last step, on the monotonic clock
        self._slowest = 0.0
        self._doing = ""
        self._seen, self._still = 0, 0  # signs at the last poll, and polls since one
        self._closed = threading.Event()
        if timeout > 0:
            threading.Thread(target=self._watch, name=THREAD, daemon=True).start()

    def step(self, number: int) -> None:
        """Says that a step has ended."""
        now = time.monotonic()
        with self._lock:
            if self._number is not None:
                self._slowest = max(self._slowest, now - self._ended)
            self._number, self._ended = number, now
            self._signs += 1

    @contextlib.contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        """Allows for what may take longer between steps: "evaluating" for instance."""
        self._turn_to(doing)
        try:
            yield
        finally:
            self._turn_to("")

    def doing(self) -> str:
        """Returns what is under way and for how long, as in "step 7, for 12 s"."""
        with self._lock:
            number, doing, since = self._number, self._doing, self._ended
        if doing:
            what = doing
        elif number is None:
            return "the first step"
        else:
            what = f"step {number + 1}"
        return f"{what}, for {time.monotonic() - since:.0f} s"

    def close(self) -> None:
        """Stops watching."""
        self._closed.set()

    def _turn_to(self, doing: str) -> None:
        with self._lock:
            self._doing, self._ended = doing, time.monotonic()
            self._signs += 1

    def poll(self) -> tuple[int, str, float] | None:
        """Looks for a sign of life since the last call, `timeout / POLLS` ago.

        Polls are counted, not seconds: a process that was stopped, or a machine that
        slept, has not hung.

        Returns:
            None, or of what takes too long: the step before it, what it is where that
            is known, and the seconds it took so far.
        """
        with self._lock:
            signs, number, doing = self._signs, self._number, self._doing
            most = max(self._timeout, SLOWEST * self._slowest)
        if number is None:
            return None
        self._still = self._still + 1 if signs == self._seen else 0
        self._seen = signs
        waited = self._still * self._timeout / POLLS
        too_long = waited > (LONG * self._timeout if doing else most)
        return (number, doing, waited) if too_long else None

    def _watch(self) -> None:
        while not self._closed.wait(self._timeout / POLLS):
            if found := self.poll():
                self._end(*found)

    def _end(self, number: int, doing: str, waited: float) -> None:
        faulthandler.dump_traceback(sys.__stderr__ or sys.stderr, all_threads=True)
        print(
            f"stopped: {doing or 'nothing'} since step {number}, for {waited:.0f} s, "
            f"on {socket.gethostname()} (process {os.getpid()}); the stacks of its "
            "threads are above. Run the same command again to go on from the newest "
            "checkpoint",
            file=sys.__stderr__,
            flush=True,
        )
        os._exit(errors.EXIT_RETRY)
