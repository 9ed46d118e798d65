"""Handwritten digits in clutter: images of which the place of what counts is known.

A dataset for `--config.data.dataset=py:vit_jax.studies.clutter:splits`: 32x32 pixels of
noise and pieces of other digits, and somewhere among them a whole digit of 16x16, which
is the class. An example is a function of its split and number.
"""

from collections.abc import Mapping

import numpy as np

from vit_jax.data import digits

SIZE, DIGIT, PIECE = 32, 16, 6
PIECES = 12
NOISE = 40  # the brightest grey of it
COUNTS = {"train": 20_000, "test": 1_000}


class Cluttered:
    """The images of a split, each a pair of pixels and label."""

    num_classes = len(digits.CLASSES)

    def __init__(self, split: str):
        """Takes the digits of the split of the same name."""
        source = digits.opened(split)
        self._images, self._labels = source.images[..., 0], source.labels
        self._count = COUNTS[split]
        self._stream = list(COUNTS).index(split)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        image, _ = self._made(index)
        return image, int(self._labels[index % len(self._labels)])

    def box(self, index: int) -> tuple[int, int, int, int]:
        """Returns where the digit is: its first row and column, and those behind."""
        _, (row, column) = self._made(index)
        return row, column, row + DIGIT, column + DIGIT

    def _made(self, index: int) -> tuple[np.ndarray, tuple[int, int]]:
        if not 0 <= index < self._count:
            raise IndexError(index)
        rng = np.random.default_rng((self._stream, index))
        image = rng.integers(0, NOISE, (SIZE, SIZE), np.uint8)
        for _ in range(PIECES):
            whole = self._images[rng.integers(len(self._images))].repeat(2, 0)
            y, x = rng.integers(0, DIGIT - PIECE + 1, 2)
            piece = whole.repeat(2, 1)[y : y + PIECE, x : x + PIECE]
            _paste(image, piece, *rng.integers(0, SIZE - PIECE + 1, 2))
        row, column = (int(n) for n in rng.integers(0, SIZE - DIGIT + 1, 2))
        digit = self._images[index % len(self._images)].repeat(2, 0).repeat(2, 1)
        image[row : row + DIGIT, column : column + DIGIT] = 0
        _paste(image, digit, row, column)
        return image[..., None].repeat(3, -1), (row, column)


def _paste(image: np.ndarray, part: np.ndarray, row: int, column: int) -> None:
    """Draws what is brighter over what is there."""
    rows, columns = part.shape
    place = image[row : row + rows, column : column + columns]
    np.maximum(place, part, out=place)


def splits() -> Mapping[str, Cluttered]:
    """Returns all splits."""
    return {split: Cluttered(split) for split in COUNTS}
