"""What the paper says of the inside of a ViT (4.5, D.7, D.8), as numbers of arrays."""

from typing import NamedTuple

import numpy as np

from vit_jax.inspection import distance


class Nearness(NamedTuple):
    """How the similarity of positions goes with their places.

    Attributes:
        rank: Spearman's correlation of cosine and nearness, over all pairs.
        line: Mean cosine of pairs in one row or column.
        other: Mean cosine of all other pairs.
    """

    rank: float
    line: float
    other: float


def nearness(similarity: np.ndarray, grid: tuple[int, int]) -> Nearness:
    """Returns what the cosines of position embeddings say of a grid.

    Args:
        similarity: [n, n], as `inspection.posemb` gives it.
        grid: (rows, columns) of patches.
    """
    rows, columns = (axis.ravel() for axis in np.indices(grid))
    one, two = np.triu_indices(len(rows), 1)
    cosines, apart = similarity[one, two], distance.between(grid, (1, 1))[one, two]
    line = (rows[one] == rows[two]) | (columns[one] == columns[two])
    ranks = _ranks(cosines), _ranks(-apart)
    return Nearness(
        float(np.corrcoef(*ranks)[0, 1]),
        float(cosines[line].mean()),
        float(cosines[~line].mean()),
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    """Places in order, from 1; of equal values their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def low_share(components: np.ndarray) -> float:
    """Returns how much of the energy of filters is of the lowest frequencies.

    These are the constant and one wave over the patch along either axis: 5 of 16 of a
    4x4 patch, which is the share that noise has.

    Args:
        components: [k, h, w, channels], each of length 1, as `inspection.filters` does.
    """
    energy = np.abs(np.fft.fft2(components, axes=(1, 2))) ** 2
    y, x = (np.abs(np.fft.fftfreq(n, 1 / n)) for n in components.shape[1:3])
    low = y[:, None] + x <= 1
    return float(energy[:, low].sum() / energy.sum())


class Distances(NamedTuple):
    """Attention distance over depth, in pixels.

    Attributes:
        first: Mean of the first third of the layers.
        last: Mean of the last third.
        spread_first: The largest deviation over heads in the first two layers.
        spread_rest: The largest in the others.
    """

    first: float
    last: float
    spread_first: float
    spread_rest: float


def distances(of_heads: np.ndarray) -> Distances:
    """Returns how far layers look.

    Args:
        of_heads: [images, layers, heads], as `inspection.looking` gives it; three
            layers or more.
    """
    by_head = of_heads.mean(axis=0)
    third = len(by_head) // 3
    spread = by_head.std(axis=1)
    return Distances(
        float(by_head[:third].mean()),
        float(by_head[-third:].mean()),
        float(spread[:2].max()),
        float(spread[2:].max()),
    )


def in_box(
    shares: np.ndarray, box: tuple[int, int, int, int], stride: tuple[int, int]
) -> tuple[float, float]:
    """Returns how much of what is looked at lies in a box, and the box's own share.

    Args:
        shares: [rows, columns] of patches, none negative; what lies in a patch is
            spread evenly over it.
        box: Its first row and column in pixels, and those behind it.
        stride: (height, width) of a patch in pixels.

    Returns:
        Both of the whole grid.
    """
    covers = []
    for axis, step in enumerate(stride):
        starts = np.arange(shares.shape[axis]) * step
        inside = np.minimum(starts + step, box[axis + 2]) - np.maximum(
            starts, box[axis]
        )
        covers.append(np.clip(inside, 0, None) / step)
    cover = np.outer(*covers)
    return float((shares * cover).sum() / shares.sum()), float(cover.mean())
