"""Arrays of numbers that a thread uses again and again.

An image of floats is larger than what the allocator keeps: taking it anew costs more
than most of what is done with it.
"""

import threading

import numpy as np


class _Kept(threading.local):
    """Of each thread its own."""

    def __init__(self) -> None:
        self.arrays: dict[int, np.ndarray] = {}


_kept = _Kept()


def floats(number: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns float32 of a shape, with anything in it: array `number` of this thread.

    What was returned for the same number before is the same memory.
    """
    arrays = _kept.arrays
    if number not in arrays or arrays[number].shape != shape:
        arrays[number] = np.empty(shape, np.float32)
    return arrays[number]


def as_floats(number: int, image: np.ndarray) -> np.ndarray:
    """Returns an image of uint8 in `floats(number, ...)`."""
    array = floats(number, image.shape)
    np.copyto(array, image)
    return array
