"""Position tables at another image size."""

import functools
from collections.abc import Callable

import numpy as np

from vit_jax import errors
from vit_jax.models.architecture import Architecture, size_text
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.weights.source import Tensors

Kernel = Callable[[np.ndarray], np.ndarray]
Weights = Callable[[int, int], np.ndarray]

OURS = "corners"  # where neither the weights' own code nor a user chose another
FRESH = "fresh"  # drawn anew, which `adapting.adapt` alone can, and a run then trains
TABLES = ("posemb", "blocks/posemb", "posemb/row", "posemb/column")


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - np.abs(x))


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution: 1 at 0, 0 at other whole numbers and from 2 on."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


# PyTorch has both: -0.75 where it takes four entries, Pillow's -0.5 where it smooths.
_SHARP: Kernel = functools.partial(_cubic, a=-0.75)
_SMOOTH: Kernel = functools.partial(_cubic, a=-0.5)


def _corners(old: int, new: int) -> np.ndarray:
    """First entry to first, last to last."""
    at = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
    return _triangle(at[:, None] - np.arange(old)[None])


def _smoothed(old: int, new: int, *, kernel: Kernel) -> np.ndarray:
    """Edge to edge; the kernel is as wide as a new entry when those are fewer."""
    at = (np.arange(new) + 0.5) * (old / new) - 0.5
    distance = at[:, None] - np.arange(old)[None]
    weights = kernel(distance / max(1.0, old / new))
    return weights / weights.sum(axis=1, keepdims=True)


def _sampled(
    old: int,
    new: int,
    *,
    kernel: Kernel,
    reach: int,
    offset: float = 0.0,
    corners: bool = False,
) -> np.ndarray:
    """Edge to edge, from `reach` entries on each side; beyond the edge is its entry.

    `offset` makes the step old / (new + offset); with `corners` the first entry goes to
    the first and the last to the last.
    """
    at = (np.arange(new) + 0.5) * (old / (new + offset)) - 0.5
    if corners:
        at = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
    first = np.floor(at).astype(int)
    weights = np.zeros((new, old))
    for tap in range(1 - reach, reach + 1):
        index = np.clip(first + tap, 0, old - 1)
        np.add.at(weights, (np.arange(new), index), kernel(at - first - tap))
    return weights


def _nearest(old: int, new: int) -> np.ndarray:
    """Edge to edge, a copy of the entry that the new one's centre lies in."""
    at = ((np.arange(new) + 0.5) * (old / new)).astype(int)
    return np.eye(old)[np.minimum(at, old - 1)]


# Method -> (old, new) -> [new, old], float64: what a new row or column is made of.
METHODS: dict[str, Weights] = {
    # `scipy.ndimage.zoom(order=1)`.
    "corners": _corners,
    # `jax.image.resize("bilinear")`; PyTorch's with antialias=True.
    "centers": functools.partial(_smoothed, kernel=_triangle),
    # `torch.nn.functional.interpolate(align_corners=False)`.
    "bilinear": functools.partial(_sampled, kernel=_triangle, reach=1),
    "bicubic": functools.partial(_sampled, kernel=_SHARP, reach=2),
    # The same with align_corners=True, as torchvision.
    "bicubic_corners": functools.partial(
        _sampled, kernel=_SHARP, reach=2, corners=True
    ),
    "bicubic_antialias": functools.partial(_smoothed, kernel=_SMOOTH),
    # The same with scale_factor=(new + 0.1) / old, as DINO and DINOv2 have it.
    "bicubic_offset": functools.partial(_sampled, kernel=_SHARP, reach=2, offset=0.1),
    # With mode="nearest-exact".
    "nearest": _nearest,
}


def method_of(arch: Architecture) -> str:
    """Returns how a table of an architecture's weights is resampled."""
    return OURS if arch.posemb_resample == "auto" else arch.posemb_resample


def at_size(
    leaves: Tensors,
    arch: Architecture,
    image_size: tuple[int, int],
    method: str | None = None,
) -> tuple[Tensors, Architecture]:
    """Returns leaves and architecture for images of another size.

    Args:
        leaves: Of `arch`, by name.
        arch: Their architecture, with the size that they are for.
        image_size: (height, width), pixels.
        method: Key of `METHODS`; None: the architecture's.

    Raises:
        errors.UserError: the model has weights that belong to its own grid of patches,
            or the patches do not divide the new size.
    """
    target = arch.replace(image_size=image_size)
    method = method or method_of(arch)
    if not isinstance(arch, VitArchitecture) or target.grid == arch.grid:
        return leaves, target
    if arch.posemb == "none" or arch.posemb.startswith("sincos"):
        return leaves, target
    if arch.posemb == "relative":
        raise errors.UserError(
            f"relative positions are learned for {size_text(arch.grid)} patches; "
            f"{size_text(target.grid)} have others. Leave image_size at "
            f"{arch.image_size}."
        )
    if method == FRESH:
        raise errors.UserError(
            f"posemb_resample={FRESH!r} draws positions anew, for a run with init_from "
            f"that trains them; else want how: {', '.join(METHODS)}."
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
    leaves: Tensors, name: str, arch: VitArchitecture, target: Architecture, method: str
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
    method: str = OURS,
) -> np.ndarray:
    """Interpolates a learned table to another grid of patches.

    Args:
        posemb: [1, prefix + rows * columns, D], row by row.
        old_grid: (rows, columns) of `posemb`.
        new_grid: (rows, columns) wanted; need not be square.
        prefix: Leading entries without a place (the class token's): kept.
        method: Key of `METHODS`. "corners", bilinear: the corners keep their places,
            as in the paper's code and all published fine-tunings. The others have the
            pixel-centre convention of image libraries: "bilinear", "centers" (the
            same, smoothed when it shrinks), "nearest", "bicubic" (transformers'),
            # The same with align_corners=True, as torchvision.
    "bicubic_corners": functools.partial(
        _sampled, kernel=_SHARP, reach=2, corners=True
    ),
    "bicubic_antialias" (timm's), "bicubic_offset" (DINOv2's own).

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
