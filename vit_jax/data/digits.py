"""The handwritten digits that come with the package."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vit_jax.data import sources, splits

CLASSES = tuple(str(digit) for digit in range(10))


@functools.cache
def _read() -> tuple[np.ndarray, np.ndarray]:
    with np.load(Path(__file__).parent / "digits.npz", allow_pickle=False) as file:
        values, labels = file["values"], file["labels"]
    images = np.round(values * (255 / 16)).astype(np.uint8)[..., None]
    images.setflags(write=False)
    return images, labels.astype(np.int64)


def members() -> dict[str, np.ndarray]:
    """Returns which of the 1797 digits belong to each split.

    Test is every fifth image (index % 5 == 4), train the others.
    """
    index = np.arange(1797)
    return {"train": index[index % 5 != 4], "test": index[index % 5 == 4]}


class Digits:
    """The dataset: a `catalog.Opened`."""

    name, num_classes, label_names = "digits", 10, CLASSES
    multi_label = numeric = False

    def counts(self) -> dict[str, int]:
        """Returns the number of examples of each split."""
        return {name: len(index) for name, index in members().items()}

    def open(self, ranges: Sequence[splits.Range]) -> sources.ArraySource:
        """Returns the examples of ranges of splits.

        They are the 1797 images of the test part of the UCI Optical Recognition of
        Handwritten Digits: 8x8x1, grey values 0..16 scaled to 0..255 (x * 255 / 16,
        rounded), ten classes; `members` says how they are split.
        """
        images, labels = _read()
        found = members()
        index = np.concatenate([found[p.split][p.start : p.stop] for p in ranges])
        return sources.ArraySource(
            images[index], labels[index], label_names=CLASSES, name="digits"
        )


def opened(expression: str) -> sources.ArraySource:
    """Opens the digits that a split expression selects.

    Raises:
        errors.UserError: the split expression is wrong.
    """
    digits = Digits()
    return digits.open(splits.resolve(expression, digits.counts(), digits.name))
