"""Cosine similarity, of tokens to one patch and of all pairs."""

import numpy as np


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Returns the cosines between all rows of [n, d], float32 [n, n].

    A row of zeros has 0 with every other, and 1 with itself as all have.
    """
    unit = _unit(vectors)
    found = np.clip(unit @ unit.T, -1, 1)
    np.fill_diagonal(found, 1)
    return found.astype(np.float32)


def to_patch(tokens: np.ndarray, patch: tuple[int, int]) -> np.ndarray:
    """Returns the cosine of each patch's token to that of one patch.

    Args:
        tokens: [rows, columns, d], as `model.features(images, layers=...)` gives them.
        patch: (row, column).

    Returns:
        float32 [rows, columns], 1 at the patch.
    """
    unit = _unit(tokens)
    found = np.clip(unit @ unit[patch], -1, 1)
    found[patch] = 1
    return found.astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., d] of length 1; those of zeros stay."""
    wide = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    return np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
