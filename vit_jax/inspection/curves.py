"""Figures of runs over their steps, read from `metrics.jsonl`, for comparisons."""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vit_jax import errors
from vit_jax.host import files as host_files
from vit_jax.runs import metrics

# Drawn where nobody says which, beside all figures of evaluations, "NAME/FIGURE".
USUAL = ("loss", "accuracy", "learning_rate")
MOST = 60  # figures of one picture
_LARGEST = float(np.finfo(np.float32).max)  # what a step of training can find
# Of an evaluation, what says nothing of how good the run is.
_COUNTS = ("examples", "corrupt")


@dataclasses.dataclass(frozen=True)
class Curve:
    """A figure of a run.

    Attributes:
        steps: int64 [n], growing.
        values: float64 [n]; NaN where the figure was no number of 32 bits.
    """

    steps: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Run:
    """A run by a short name, and its figures by theirs."""

    name: str
    curves: dict[str, Curve]


def read(workdirs: Sequence[str | os.PathLike]) -> list[Run]:
    """Returns the curves of runs.

    Where a run went back and wrote a step again the later line counts.

    Args:
        workdirs: Their folders.

    Raises:
        errors.UserError: one that has no figures.
    """
    runs = []
    for workdir, name in zip(workdirs, short_names(workdirs), strict=True):
        figures: dict[str, dict[int, float]] = {}
        for line in metrics.lines(_folder(workdir)):
            for figure, value in line.items():
                known = value is None or isinstance(value, int | float)
                if figure in ("step", *metrics.WHEN) or not known:
                    continue
                number = math.nan if value is None else float(value)
                number = number if abs(number) <= _LARGEST else math.nan
                figures.setdefault(figure, {})[line["step"]] = number
        if not figures:
            raise errors.UserError(
                f"{workdir} has no figures: want the folder of a run, where training "
                f"has written {metrics.FILE_NAME}"
            )
        runs.append(
            Run(name, {figure: _curve(points) for figure, points in figures.items()})
        )
    return runs


def _folder(workdir: str | os.PathLike) -> Path:
    """A folder with its home, or of an address what has `Path`'s methods."""
    try:
        return host_files.folder(host_files.expanded(Path(workdir)))
    except ValueError as error:
        raise errors.UserError(f"--runs: {error}") from error
    except ImportError as error:
        raise errors.UserError(
            f"--runs={workdir} wants gcsfs, which is not there ({error}): pip install "
            "'vit_jax[gcs]', or want a local or mounted folder"
        ) from error


def _curve(points: dict[int, float]) -> Curve:
    steps = np.array(sorted(points), np.int64)
    return Curve(steps, np.array([points[int(step)] for step in steps], np.float64))


def short_names(paths: Sequence[str | os.PathLike]) -> list[str]:
    """Returns the ends of paths, of as many parts as tell all of them apart."""
    # What a folder is called need not be text.
    parts = [Path(errors.visible(os.path.abspath(path))).parts for path in paths]
    longest = max(map(len, parts), default=0)
    for count in range(1, longest + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return ["/".join(each) for each in parts]


def usual(runs: Sequence[Run]) -> list[str]:
    """Returns the figures that are drawn where nobody says which, training's first.

    The mean between two lines of the log, "loss_mean", stands for "loss" where it is.
    """
    there = list(dict.fromkeys(name for run in runs for name in run.curves))
    chosen = []
    for name in USUAL:
        mean = f"{name}_mean"
        chosen += [mean if mean in there else name] if {mean, name} & {*there} else []
    evaluations = [
        name
        for name in there
        if "/" in name and name.split("/")[-1] not in _COUNTS and "_seed" not in name
    ]
    return chosen + evaluations


def chosen(runs: Sequence[Run], figures: Sequence[str]) -> list[str]:
    """Returns the figures to draw: those that are named, or else the usual ones.

    Raises:
        errors.UserError: no run has a named one, or there are none, or too many.
    """
    there = {name: True for run in runs for name in run.curves}
    for name in figures:
        errors.lookup(there, name, "--figures")
    found = list(dict.fromkeys(figures)) or usual(runs)
    if not 0 < len(found) <= MOST:
        raise errors.UserError(
            f"there are {len(found)} usual figures to draw; want --figures=NAME,NAME "
            f"with 1 to {MOST} of {errors.some(list(there))}"
        )
    return found


def smoothed(values: np.ndarray, factor: float) -> np.ndarray:
    """Returns an exponential moving average, each value one of those so far.

    Value i is the mean of values 0 to i with weights factor ** (i - j): the first is
    itself, there is no start from 0. NaN is left out, and stays where it is.

    Args:
        values: [n].
        factor: From 0, nothing, to below 1.
    """
    found = np.full(len(values), np.nan)
    total = weight = 0.0
    for i, value in enumerate(values):
        if np.isfinite(value):
            total = factor * total + (1 - factor) * value
            weight = factor * weight + (1 - factor)
            found[i] = total / weight
    return found
