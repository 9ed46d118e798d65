"""Figures of a run: metrics.jsonl, throughput and progress lines."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vit_jax import errors
from vit_jax.host import files as host_files

FILE_NAME = "metrics.jsonl"
MOST_BYTES = 1 << 30  # of it
WALL_TIME = "wall_time"  # seconds since 1970
WHEN = ("epoch", WALL_TIME)  # of each line of a run, beside its step
# Steps after the first tick that make a figure. The host runs ahead of the device there
# (two steps), and its first waits are no measure of the later ones.
FEWEST = 3


def json_number(value: Any) -> float | None:
    """Returns a number that JSON can hold: NaN and infinities become null.

    null rather than a string, so that a column of numbers stays one for its readers.
    """
    if isinstance(value, int):
        return value
    value = float(value)
    return value if math.isfinite(value) else None


def lines(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns what metrics.jsonl of a workdir holds: "step", then names and values."""
    path = host_files.folder(workdir) / FILE_NAME
    if not path.is_file():
        return []
    from vit_jax.settings import documents  # which no new run needs

    found = []
    for line in host_files.read_whole(path, MOST_BYTES).splitlines():
        try:
            values = documents.parse(line)
        except errors.UserError:
            continue  # cut off when an earlier run was killed
        if isinstance(values, dict) and type(values.get("step")) is int:
            found.append(values)
    return found


class Clock:
    """Turns step counts and waiting times into throughput.

    The first `tick` only starts the clock, so call it once the first step is done:
    compilation then stays out of the figures.
    """

    def __init__(
        self,
        batch_size: int,
        total_steps: int,
        flops_per_image: float | None = None,
        peak_flops: float | None = None,
    ):
        """Sets what the figures need.

        Args:
            batch_size: images of one step, all devices together.
            total_steps: length of the run.
            flops_per_image: model FLOPs of one training image (forward and backward).
            peak_flops: FLOP/s of all devices together; None where not known.
        """
        self._batch_size = batch_size
        self._total_steps = total_steps
        self._mfu_per_rate: float | None = None
        if flops_per_image and peak_flops:
            self._mfu_per_rate = flops_per_image / peak_flops
        self._first: tuple[int, float, float] | None = None
        self._last: tuple[int, float, float] | None = None
        self._waited = 0.0
        self._paused = 0.0

    def waited(self, seconds: float) -> None:
        """Adds time in which the loop waited for its next batch."""
        self._waited += seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of the body (evaluation, saving) out of the figures."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - start

    def tick(self, step: int) -> dict[str, float]:
        """Returns the figures since the previous tick; the first tick returns none.

        Args:
            step: updates done.

        Returns:
            images_per_second, step_seconds, input_wait (fraction of the time),
            eta_seconds, and mfu (fraction of the peak) where the chip is known.
        """
        now = (step, time.perf_counter() - self._paused, self._waited)
        last = self._last
        if last is not None and last is self._first and step - last[0] < FEWEST:
            return {}
        self._last = now
        if last is None:
            self._first = now
            return {}
        figures = self._figures(last, now)
        if figures:
            remaining = max(self._total_steps - step, 0)
            figures["eta_seconds"] = remaining * figures["step_seconds"]
        return figures

    def summary(self) -> dict[str, float]:
        """Returns the figures from the first tick to the last, without an ETA."""
        if self._first is None or self._last is None:
            return {}
        return self._figures(self._first, self._last)

    def _figures(
        self, start: tuple[int, float, float], end: tuple[int, float, float]
    ) -> dict[str, float]:
        steps, seconds, waited = (b - a for a, b in zip(start, end, strict=True))
        if steps <= 0 or seconds <= 0:
            return {}
        rate = steps * self._batch_size / seconds
        figures = {
            "images_per_second": rate,
            "step_seconds": seconds / steps,
            "input_wait": min(waited / seconds, 1.0),
        }
        if self._mfu_per_rate is not None:
            figures["mfu"] = rate * self._mfu_per_rate
        return figures


def format_seconds(seconds: float) -> str:
    """Returns a duration as "2d03h", "1h02m", "3m04s" or "5s"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d{h:02d}h"
    if hours:
        return f"{hours}h{m:02d}m"
    return f"{m}m{s:02d}s" if m else f"{s}s"


def _memory(value: float) -> str:
    return f"memory {value / 2**30:.2f} GiB"


# What a progress line shows, in this order; a figure that is not there is left out.
SHOWN: dict[str, Callable[[float], str]] = {
    "eta_seconds": lambda value: f"eta {format_seconds(value)}",
    "loss": lambda value: f"loss {value:.4f}",
    "accuracy": lambda value: f"accuracy {value:.4f}",
    "learning_rate": lambda value: f"lr {value:.3e}",
    "images_per_second": lambda value: f"{value:,.0f} images/s",
    "mfu": lambda value: f"mfu {value:.1%}",
    "input_wait": lambda value: f"input wait {value:.1%}",
    "memory_bytes": _memory,
}


def shown(values: Mapping[str, Any]) -> str:
    """Returns the figures in `SHOWN` as one line of plain text."""
    parts = [show(float(values[k])) for k, show in SHOWN.items() if k in values]
    return " | ".join(parts)


def progress_line(step: int, total_steps: int, values: Mapping[str, Any]) -> str:
    """Returns one line of plain text: step of total and the figures in `SHOWN`."""
    return " | ".join(filter(None, [f"step {step}/{total_steps}", shown(values)]))


def figures_line(figures: Mapping[str, float | None]) -> str:
    """Returns one line of an evaluation's figures, without those of single seeds.

    None, which a file has where a figure is no number, is shown as nan.
    """
    shown = {k: math.nan if v is None else v for k, v in figures.items()}
    return " | ".join(f"{k} {v:.4g}" for k, v in shown.items() if "_seed" not in k)
