"""How far a job is, how fast it goes and when it will be done."""

import datetime
import logging
import time
from collections.abc import Callable

from vit_jax import cli

_EVERY = 10.0  # seconds


class Progress:
    """Logs a line now and then, or has a terminal show one."""

    def __init__(
        self,
        total: int,
        done: int,
        failed: int = 0,
        *,
        tell: cli.Tell | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Takes how many images there are, were done before, and failed of those.

        `tell` is what `cli.progress` yields.
        """
        self._total, self._done, self._before = total, done, done
        self._errors = failed
        self._clock, self._tell = clock, tell
        self._began = self._told = clock()

    def add(self, count: int, failed: int) -> None:
        """Counts images that are done, of which some could not be read."""
        self._done += count
        self._errors += failed
        now = self._clock()
        if self._tell is not None:
            self._tell(self._done, self.line())
        elif now - self._told >= _EVERY and self._done < self._total:
            self._told = now
            logging.info("%s", self.line())

    def line(self) -> str:
        """Returns what there is to say now."""
        rate = self.rate()
        parts = [f"{self._done:,} of {self._total:,} images", f"{rate:.4g} images/s"]
        if self._done < self._total and rate > 0:
            left = round((self._total - self._done) / rate)
            parts.append(f"{datetime.timedelta(seconds=left)} to go")
        if self._errors:
            parts.append(f"{self._errors:,} could not be read")
        return ", ".join(parts)

    def rate(self) -> float:
        """Returns images a second since it began."""
        return (self._done - self._before) / max(self._clock() - self._began, 1e-9)
