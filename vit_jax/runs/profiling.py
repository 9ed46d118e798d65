"""A trace of a few steps, for TensorBoard or Perfetto."""

import logging
from pathlib import Path
from types import TracebackType
from typing import Self

import jax

STEPS = 5  # traced
FIRST = 4  # the first of them, where the run is so long: the host is ahead by then


class Trace:
    """Traces `STEPS` steps soon after the start; fewer where the run is shorter.

    Args:
        folder: to write to.
        wanted: False does nothing.
        steps: that the run will do.
    """

    def __init__(self, folder: Path, wanted: bool, steps: int):
        self._folder = folder
        self._first = max(1, min(FIRST, steps - STEPS + 1)) if wanted else 0
        self._last = min(self._first + STEPS - 1, steps)
        self._running = False
        if wanted and steps < 1:
            logging.warning("no profile: no step is left to trace")

    def before(self, step: int) -> None:
        """Starts or stops before a step, counted from 1."""
        if step == self._first:
            jax.profiler.start_trace(self._folder)
            self._running = True
        if step == self._last + 1:
            self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            logging.info("profile of steps in %s", self._folder)
