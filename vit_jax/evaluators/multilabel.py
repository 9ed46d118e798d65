"""Figures of images with several labels: mean average precision, and F1 at a threshold.

Both are scikit-learn's, exactly: `average_precision_score(average="macro")` of the
logits, and `f1_score`. They are over all images that could be read: one without any
label is a negative of every class. A class without a positive counts as 0, as it does
there, and is warned of. What is kept until the end is the scores and labels of all
images, 5 bytes a class, on every process: 16 MB of COCO's 40,504 images and 80 classes.
"""

import functools
import logging
import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import errors, host
from vit_jax.learning import losses
from vit_jax.types import Batch

BYTES = 5  # of a class and image: a float32 and a bool


def applies(labels: jax.Array, loss: str) -> bool:
    """Returns whether rows have several labels, and outputs are one sigmoid each."""
    return labels.ndim == 2 and losses.problem_of(loss) == "multi_label"


def check_threshold(f1_at: float, *, multi_label: bool, loss: str) -> None:
    """Raises `UserError` for a threshold without a meaning; 0 is none."""
    if not 0 <= f1_at < 1:
        raise errors.UserError(
            f"f1_at={f1_at}; want a probability below 1, as in 0.5, or 0: no F1"
        )
    if f1_at and not (multi_label and losses.problem_of(loss) == "multi_label"):
        raise errors.UserError(
            f"f1_at={f1_at} wants data with several labels an image and outputs that "
            f"are one sigmoid each; the data has {'several' if multi_label else 'one'},"
            f" the outputs are trained by the loss {loss}"
        )


def check_memory(classes: int, images: int) -> None:
    """Raises `UserError` where the scores and labels of a split cannot be held."""
    needed, there = BYTES * classes * images, host.available_memory()
    if needed > there:
        raise errors.UserError(
            f"the mean average precision of {images:,} images and {classes:,} classes "
            f"keeps {needed / 2**30:.2f} GiB, {there / 2**30:.2f} can be had; want a "
            f"part of the split, of at most {there // (2 * BYTES * classes):,} images"
        )


def rows(outputs: Batch, batch: Batch) -> Batch:
    """Returns the scores and labels of a batch, and which rows are examples."""
    return {
        "scores": outputs["logits"].astype(jnp.float32),
        "labels": batch["label"] > 0.5,
        "seen": batch["mask"] > 0,
    }


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean precision at the recalls of a ranking; equal scores are one.

    Args:
        scores: Of one class, [n].
        labels: Whether it is the image's, bool [n]; without any True it is 0.
    """
    if np.isnan(scores).any():
        return math.nan
    if not (positives := int(labels.sum())):
        return 0.0
    order = np.argsort(-scores)
    ranked = scores[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    hits = np.cumsum(labels[order])[last]
    return float((np.diff(hits, prepend=0) * (hits / (last + 1))).sum() / positives)


class Ranking:
    """The scores of a split as they come, in any order and from all processes."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, part: dict[str, np.ndarray]) -> None:
        """Keeps what `rows` left of a batch."""
        seen = part["seen"]
        self._parts.append((part["scores"][seen], part["labels"][seen]))

    def figures(self, f1_at: float) -> dict[str, float]:
        """Returns "map", and "f1_micro" and "f1_macro" at a probability but 0.

        {} where no batch had several labels.
        """
        if not self._parts:
            return {}
        counts = _sum(labels for _, labels in self._parts)
        if empty := int((counts == 0).sum()):
            _warn(empty, len(counts))
        precisions = [self._precision(k) for k in range(len(counts))]
        found = {"map": float(np.mean(precisions))}
        return found | (self._f1(f1_at) if f1_at else {})

    def _precision(self, k: int) -> float:
        columns = ([part[i][:, k] for part in self._parts] for i in (0, 1))
        return average_precision(*map(np.concatenate, columns))

    def _f1(self, threshold: float) -> dict[str, float]:
        least = math.log(threshold / (1 - threshold))
        chosen = _sum(scores >= least for scores, _ in self._parts)
        wanted = _sum(labels for _, labels in self._parts)
        right = _sum((scores >= least) & labels for scores, labels in self._parts)
        either = chosen + wanted
        micro = 2 * np.sum(right) / max(np.sum(either), 1)
        return {
            "f1_micro": float(micro),
            "f1_macro": float(np.mean(2 * right / np.maximum(either, 1))),
        }


def _sum(parts: Iterable[np.ndarray]) -> np.ndarray:
    """How many rows of all parts are True, by column."""
    return np.sum([part.sum(axis=0) for part in parts], axis=0)


@functools.cache
def _warn(empty: int, classes: int) -> None:
    logging.warning(
        "%d of %d classes are no image's label: they count as 0 in the mean average "
        "precision, as in scikit-learn's",
        *(empty, classes),
    )
