"""Patch embeddings for patches of another size (FlexiViT, arXiv 2212.08013).

A patch resized by a matrix B must have the same embedding: B x times the new kernel is
x times the old one, in the mean over x. That is the pseudo-inverse of B transposed,
applied to the old kernel; where patches grow it holds for every x.
"""

import functools

import numpy as np

Size = tuple[int, int]


@functools.cache
def resize_matrix(old: int, new: int) -> np.ndarray:
    """Returns [new, old]: a line of pixels resized bilinearly, edge to edge.

    As `tf.image.resize`, which the authors took: nothing is smoothed first.
    """
    at = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(old)[None]))


@functools.cache
def kernel_matrix(old: int, new: int) -> np.ndarray:
    """Returns [new, old]: a kernel along one side, for patches resized by `new`."""
    return np.linalg.pinv(resize_matrix(old, new).T)


def kernel_matrices(old: Size, new: Size) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the rows and the columns of a kernel become, float32 each."""
    rows, columns = (kernel_matrix(a, b) for a, b in zip(old, new, strict=True))
    return rows.astype(np.float32), columns.astype(np.float32)
