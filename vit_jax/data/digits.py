"""The handwritten digits that come with the package."""

import functools
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


def opened(expression: str) -> sources.ArraySource:
    """Opens the handwritten digits that come with the package.

    They are the 1797 images of the test part of the UCI Optical Recognition of
    Handwritten Digits: 8x8x1, grey values 0..16 scaled to 0..255 (x * 255 / 16,
    rounded), ten classes; `members` says how they are split.

    Raises:
        errors.UserError: the split expression is wrong.
    """
    images, labels = _read()
    found = members()
    sizes = {name: len(index) for name, index in found.items()}
    parts = splits.resolve(expression, sizes, "digits")
    index = np.concatenate([found[p.split][p.start : p.stop] for p in parts])
    return sources.ArraySource(
        images[index], labels[index], label_names=CLASSES, name="digits"
    )
