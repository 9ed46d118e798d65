"""Mean attention distance in pixels, of every head (the paper's appendix D.7)."""

import numpy as np


def between(grid: tuple[int, int], stride: tuple[int, int]) -> np.ndarray:
    """Returns the distances in pixels between all patches, float64 [n, n].

    Args:
        grid: (rows, columns) of patches.
        stride: (height, width) of a patch in pixels.
    """
    rows, columns = (axis.ravel() for axis in np.indices(grid))
    return np.hypot(
        (rows[:, None] - rows) * stride[0], (columns[:, None] - columns) * stride[1]
    )


def mean(
    attention: np.ndarray,
    grid: tuple[int, int],
    stride: tuple[int, int],
    *,
    prefix: int,
) -> np.ndarray:
    """Returns how far patches look, weighted by attention, in pixels.

    The mean over patches of the sum of probability times distance. What goes to the
    tokens before the patches has no distance: they are left out, and the others are
    not scaled up for it, as the authors did.

    Args:
        attention: [..., n, n].
        grid: (rows, columns) of patches.
        stride: (height, width) of a patch in pixels.
        prefix: Tokens before the patches.

    Returns:
        float64 [...].
    """
    among = attention[..., prefix:, prefix:]
    return np.einsum("...qk,qk->...", among, between(grid, stride)) / among.shape[-1]


def uniform(
    grid: tuple[int, int], stride: tuple[int, int], *, prefix: int = 0
) -> float:
    """Returns `mean` of attention that is the same everywhere, in closed form.

    There are (rows - i) * (columns - j) pairs of patches i rows and j columns apart, in
    each of the up to four directions.
    """
    rows, columns = np.ogrid[: grid[0], : grid[1]]
    pairs = (grid[0] - rows) * (grid[1] - columns)
    directions = np.where(rows > 0, 2, 1) * np.where(columns > 0, 2, 1)
    apart = np.hypot(rows * stride[0], columns * stride[1])
    patches = grid[0] * grid[1]
    return float((pairs * directions * apart).sum() / (patches * (patches + prefix)))
