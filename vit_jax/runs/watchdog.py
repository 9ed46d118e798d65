"""Ends a run that stands still, so that whoever started it can start it again.

JAX notices a process that is gone, never one that hangs: the others wait in a
collective for ever. Every process watches itself, and all of them end. What may take
how long is said beforehand: a limit that followed the steps so far would follow a
stall, too.
"""

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from absl import flags

from vit_jax import errors
from vit_jax.runs import phases as phases_lib

POLL = 1.0  # seconds between two looks
# A process that was stopped, or a machine that slept, has not hung: a look counts for
# no more than this, however late it comes.
LONGEST = 3 * POLL
THREAD = "watchdog"


@dataclass(frozen=True)
class Limits:
    """Seconds that a phase may take without a sign of life; 0: as long as it likes."""

    start: float = 0.0
    compile: float = 0.0
    first_step: float = 0.0
    step: float = 0.0
    save: float = 0.0
    evaluation: float = 0.0

    def of(self, now: phases_lib.Now) -> tuple[str, float]:
        """Returns the flag that limits what is under way, and its seconds."""
        first = now.step is None
        return {
            phases_lib.JOIN: ("start_timeout", 0.0),  # JAX's own
            phases_lib.START: ("setup_timeout", self.start),
            phases_lib.COMPILE: ("compile_timeout", self.compile),
            phases_lib.SAVE: ("save_timeout", self.save),
            phases_lib.EVALUATION: ("eval_timeout", self.evaluation),
        }.get(
            now.phase,
            ("first_step_timeout", self.first_step)
            if first
            else ("stall_timeout", self.step),
        )


# What each flag limits, and how long that may take by default.
_FLAGS = {
    "setup": ("opening data and restoring", 1800),
    "compile": ("compiling", 7200),
    "first_step": ("for the first step", 1800),
    "stall": ("for a step", 600),
    "save": ("saving", 3600),
    "eval": ("evaluating", 7200),
}


def define_flags() -> None:
    """Defines the flags of `limits`."""
    for name, (what, seconds) in _FLAGS.items():
        flags.DEFINE_integer(
            f"{name}_timeout",
            seconds,
            f"Most seconds {what}, else 42; 0: any.",
            lower_bound=0,
        )


def limits() -> Limits:
    """Returns what the flags say."""
    return Limits(
        *(float(flags.FLAGS[f"{name}_timeout"].value or 0) for name in _FLAGS)
    )


class Watchdog:
    """Prints the stacks of all threads and exits with 42 when a limit is exceeded.

    Args:
        phases: Of this process.
        limits: What they may take.
        tell: Called before the process ends: tells its peers.
    """

    def __init__(
        self,
        phases: phases_lib.Phases,
        limits: Limits,
        tell: Callable[[], object] | None = None,
    ):
        self._phases = phases
        self._limits, self._tell = limits, tell
        self._seen = -1  # signs of life at the last look
        self._waited = 0.0
        self._closed = threading.Event()
        if limits != Limits():
            threading.Thread(target=self._watch, name=THREAD, daemon=True).start()

    def close(self) -> None:
        """Stops watching."""
        self._closed.set()

    def poll(self, seconds: float) -> str | None:
        """Looks for a sign of life, so many seconds after the last look.

        Returns:
            None, or what takes too long, for how long, and which flag allows for more.
        """
        now = self._phases.now()
        if now.signs != self._seen:
            self._seen = now.signs
            self._waited = min(now.seconds, seconds, LONGEST)
            return None
        self._waited += min(seconds, LONGEST)
        flag, limit = self._limits.of(now)
        if not limit or self._waited <= limit:
            return None
        return f"{now}, and may take {limit:g} s (--{flag})"

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._closed.wait(POLL):
            now = time.monotonic()
            if found := self.poll(now - last):
                self._end(found)
            last = now

    def _end(self, found: str) -> None:
        signal.alarm(10)  # the end, should nobody read what follows
        faulthandler.dump_traceback(sys.__stderr__ or sys.stderr, all_threads=True)
        step = self._phases.now().step
        print(
            f"stopped: hangs in {found}; on {socket.gethostname()} (process "
            f"{os.getpid()}), last step {'none' if step is None else step}; the "
            "stacks of its threads are above. Run the same command again to go on from "
            "the newest checkpoint",
            file=sys.__stderr__,
            flush=True,
        )
        if self._tell is not None:
            with contextlib.suppress(Exception):  # jaxlib's: they are gone
                self._tell()
        os._exit(errors.EXIT_RETRY)
