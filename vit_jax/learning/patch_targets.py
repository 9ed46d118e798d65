"""What masked prediction has to say of a patch: its colours, or its pixels.

A colour channel has 8 equal bins on [0, 256): the three high bits of the mean of the
raw pixels, rounded down.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

BINS = 8  # of a colour channel
COLORS = BINS**3


def _overlaps(size: int, cells: int) -> np.ndarray:
    """Returns int32 [cells, size]: pixels' parts in equal cells, in 1/cells pixels."""
    cell, pixel = np.arange(cells + 1) * size, np.arange(size + 1) * cells
    end = np.minimum(cell[1:, None], pixel[None, 1:])
    start = np.maximum(cell[:-1, None], pixel[None, :-1])
    return np.maximum(end - start, 0).astype(np.int32)


def colors(patches: jax.Array, cells: int) -> jax.Array:
    """Returns the quantised mean colours of `cells` x `cells` parts of each patch.

    The mean weighs a pixel by its area in the part, and is exact.

    Args:
        patches: Pixels, uint8 [b, rows, p, columns, q, 3].
        cells: How many parts a side has.

    Returns:
        int32 [b, rows * columns, cells * cells]: 64 red + 8 green + blue, each 0..7.
    """
    batch, rows, p, columns, q, _ = patches.shape
    sums = jnp.einsum(
        "brpcqk,ip,jq->brcijk",
        patches.astype(jnp.int32),
        _overlaps(p, cells),
        _overlaps(q, cells),
    )
    bins = sums // (256 // BINS * p * q)
    index = bins[..., 0] * BINS**2 + bins[..., 1] * BINS + bins[..., 2]
    return index.reshape(batch, rows * columns, cells * cells)


def pixels(patches: jax.Array) -> jax.Array:
    """Returns the pixels of each patch in [-1, 1]: float32 [b, patches, p * q * 3].

    Args:
        patches: Pixels, uint8 [b, rows, p, columns, q, 3].
    """
    batch, rows, p, columns, q, channels = patches.shape
    x = patches.transpose(0, 1, 3, 2, 4, 5).astype(jnp.float32) / 127.5 - 1.0
    return x.reshape(batch, rows * columns, p * q * channels)


@dataclass(frozen=True)
class Target:
    """What is predicted of a patch.

    Attributes:
        of: From patches uint8 [b, rows, p, columns, q, 3] to [b, patches, predictions].
        outputs: From the (height, width) of a patch, in pixels, to how many numbers
            the model gives.
        classes: Whether the predictions are colours; they are real numbers otherwise.
    """

    of: Callable[[jax.Array], jax.Array]
    outputs: Callable[[tuple[int, int]], int]
    classes: bool


TARGETS: dict[str, Target] = {
    "mean_color": Target(lambda x: colors(x, 1), lambda patch: COLORS, True),
    "downsampled": Target(lambda x: colors(x, 4), lambda patch: 16 * COLORS, True),
    "pixels": Target(pixels, lambda patch: math.prod(patch) * 3, False),
}
