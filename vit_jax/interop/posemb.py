"""Position tables at another image size."""

from collections.abc import Callable

import numpy as np

from vit_jax import errors


def _corners(old: int, new: int) -> np.ndarray:
    """First entry to first, last to last: `scipy.ndimage.zoom(order=1)`."""
    at = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old)[None]))


def _centers(old: int, new: int) -> np.ndarray:
    """Edge to edge, smoothed when it shrinks: `jax.image.resize("bilinear")`."""
    at = (np.arange(new) + 0.5) * (old / new) - 0.5
    distance = np.abs(at[:, None] - np.arange(old)[None])
    weights = np.maximum(0, 1 - distance / max(1.0, old / new))
    return weights / weights.sum(axis=1, keepdims=True)


METHODS: dict[str, Callable[[int, int], np.ndarray]] = {
    "corners": _corners,
    "centers": _centers,
}


def resample_posemb(
    posemb: np.ndarray,
    *,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    prefix: int,
    method: str = "corners",
) -> np.ndarray:
    """Interpolates a learned table bilinearly to another grid of patches.

    Args:
        posemb: [1, prefix + rows * columns, D], row by row.
        old_grid: (rows, columns) of `posemb`.
        new_grid: (rows, columns) wanted; need not be square.
        prefix: Leading entries without a place (the class token's): kept.
        method: "corners": the corners keep their places, as in the paper's code and
            all published fine-tunings; "centers": the pixel-centre convention of
            image libraries.

    Returns:
        [1, prefix + new rows * new columns, D] of the same dtype; for the same grid
        the very same values.

    Raises:
        errors.UserError: an unknown method, or a table that is not of `old_grid`.
    """
    weights = errors.lookup(METHODS, method, "posemb resampling")
    (rows, columns), width = old_grid, posemb.shape[-1]
    if posemb.shape != (1, prefix + rows * columns, width):
        raise errors.UserError(
            f"position table {posemb.shape} is not that of {rows}x{columns} patches "
            f"and {prefix} more tokens."
        )
    if tuple(old_grid) == tuple(new_grid):
        return posemb
    first, table = np.asarray(posemb[:, :prefix]), np.asarray(posemb[0, prefix:])
    table = table.astype(np.float64).reshape(rows, columns, width)
    down, across = weights(rows, new_grid[0]), weights(columns, new_grid[1])
    table = np.einsum("ir,jc,rcd->ijd", down, across, table, optimize=True)
    table = table.reshape(1, -1, width).astype(posemb.dtype)
    return np.concatenate([first, table], axis=1)
