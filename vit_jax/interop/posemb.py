"""Position tables at another image size."""

from collections.abc import Callable

import numpy as np

from vit_jax import errors
from vit_jax.interop.source import Tensors
from vit_jax.models.architecture import Architecture, by


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


def at_size(
    leaves: Tensors,
    arch: Architecture,
    image_size: tuple[int, int],
    method: str = "corners",
) -> tuple[Tensors, Architecture]:
    """Returns leaves and architecture for images of another size.

    Raises:
        errors.UserError: the model has weights that belong to its own grid of patches,
            or the patches do not divide the new size.
    """
    target = arch.replace(image_size=image_size)
    if arch.family != "vit" or target.grid == arch.grid or arch.posemb == "none":
        return leaves, target
    if arch.posemb.startswith("sincos"):
        return leaves, target
    if arch.posemb == "relative":
        raise errors.UserError(
            f"relative positions are learned for {by(arch.grid)} patches; "
            f"{by(target.grid)} have others. Leave image_size at {arch.image_size}."
        )
    changes = {}
    for name, size in {"posemb/row": 0, "posemb/column": 1}.items():
        if name in leaves.shapes:
            changes[name] = _line(leaves, name, target.grid[size], method)
    for name in ("posemb", "blocks/posemb"):
        if name in leaves.shapes:
            changes[name] = _table(leaves, name, arch, target, method)
    return leaves.changed(changes), target


def _line(leaves: Tensors, name: str, new: int, method: str) -> tuple:
    """(shape, maker) of a table of rows or of columns."""
    old, width = leaves.shapes[name]
    weights = errors.lookup(METHODS, method, "posemb resampling")(old, new)

    def make() -> np.ndarray:
        return (weights @ leaves.read(name).astype(np.float64)).astype(np.float32)

    return (new, width), make


def _table(
    leaves: Tensors, name: str, arch: Architecture, target: Architecture, method: str
) -> tuple:
    """(shape, maker) of a table of all patches, or of one in every block."""
    *lead, entries, width = leaves.shapes[name]
    prefix = arch.positioned
    count = prefix + target.grid[0] * target.grid[1]

    def make() -> np.ndarray:
        tables = leaves.read(name).reshape(-1, 1, entries, width)
        new = [
            resample_posemb(
                table,
                old_grid=arch.grid,
                new_grid=target.grid,
                prefix=prefix,
                method=method,
            )
            for table in tables
        ]
        return np.stack(new).reshape(*lead, count, width)

    return (*lead, count, width), make


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
