"""Position embeddings that are added to tokens (the paper's appendix D.4).

Relative positions are a term of the attention: see `attention.offset_logits`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vit_jax.models.vit_architecture import VitArchitecture


class Table2d(nnx.Module):
    """A row and a column table of half the width; `prefix` for tokens before patches.

    A patch has its column's entry, then its row's.
    """

    def __init__(self, arch: VitArchitecture, *, rngs: nnx.Rngs):
        rows, columns = arch.grid
        new = functools.partial(parameter, rngs=rngs, std=_std(arch))
        self.row = new((rows, arch.width // 2))
        self.column = new((columns, arch.width // 2))
        first = arch.positioned
        self.prefix = new((first, arch.width)) if first else None

    def __call__(self) -> jax.Array:
        """Returns [1, positioned + rows * columns, width], row by row."""
        row, column = self.row[...], self.column[...]
        shape = (row.shape[0], *column.shape)
        halves = [
            jnp.broadcast_to(column[None], shape),
            jnp.broadcast_to(row[:, None], shape),
        ]
        table = jnp.concatenate(halves, axis=-1).reshape(-1, 2 * row.shape[-1])
        if self.prefix is not None:
            table = jnp.concatenate([self.prefix[...], table])
        return table[None]


def parameter(
    shape: tuple[int, ...], rngs: nnx.Rngs, *, std: float = 0.02
) -> nnx.Param:
    """Returns a table of embeddings of mean 0 and deviation `std`."""
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32))


def _std(arch: VitArchitecture) -> float:
    return arch.posemb_std or arch.width**-0.5


def sincos_1d(grid: tuple[int, int], width: int) -> np.ndarray:
    """Returns [rows * columns, width]: sin and cos of raster positions, interleaved.

    Dimensions 2i and 2i + 1 have frequency 10000^(-2i / width), as in the 2017
    Transformer.
    """
    position = np.arange(grid[0] * grid[1])
    angles = np.outer(position, 1e4 ** (-np.arange(0, width, 2) / width))
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(-1, width)


def sincos_2d(grid: tuple[int, int], width: int) -> np.ndarray:
    """Returns [rows * columns, width]: sin x, cos x, sin y, cos y, a quarter each.

    Frequency k of a quarter is 10000^(-k / (width / 4 - 1)); x counts columns and y
    rows (MoCo v3's and big_vision's table).
    """
    quarter = width // 4
    y, x = (axis.ravel() for axis in np.mgrid[: grid[0], : grid[1]])
    frequencies = 1e4 ** (-np.arange(quarter) / max(quarter - 1, 1))
    x, y = np.outer(x, frequencies), np.outer(y, frequencies)
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)


FIXED: dict[str, Callable[[tuple[int, int], int], np.ndarray]] = {
    "sincos_1d": sincos_1d,
    "sincos_2d": sincos_2d,
}


def _learned(arch: VitArchitecture, rngs: nnx.Rngs) -> nnx.Param:
    entries = arch.positioned + arch.tokens - arch.prefix
    return parameter((1, entries, arch.width), rngs, std=_std(arch))


def _learned_2d(arch: VitArchitecture, rngs: nnx.Rngs) -> Table2d:
    return Table2d(arch, rngs=rngs)


Table = nnx.Param | Table2d
LEARNED: dict[str, Callable[[VitArchitecture, nnx.Rngs], Table]] = {
    "learned": _learned,
    "learned_2d": _learned_2d,
}


def create(arch: VitArchitecture, rngs: nnx.Rngs) -> Table | None:
    """Returns one new table, or None where `arch.posemb` has nothing to learn here."""
    if arch.posemb not in LEARNED:
        return None
    return LEARNED[arch.posemb](arch, rngs)


def embedding(arch: VitArchitecture, table: Table | None) -> jax.Array | None:
    """Returns what is added to the tokens, float32 [1, n, width], or None.

    Args:
        arch: Says which kind.
        table: From `create`. Tokens before the patches that it has no entry for, and
            all of them with a fixed embedding, get zeros.
    """
    if arch.posemb in FIXED:
        return jnp.asarray(_fixed(arch.posemb, arch.grid, arch.width, arch.prefix))
    if table is None:
        return None
    entries = table() if isinstance(table, Table2d) else table[...]
    first, missing = arch.positioned, arch.prefix - arch.positioned
    if not missing:
        return entries
    zeros = jnp.zeros((1, missing, arch.width), entries.dtype)
    return jnp.concatenate([entries[:, :first], zeros, entries[:, first:]], axis=1)


@functools.lru_cache(maxsize=8)
def _fixed(kind: str, grid: tuple[int, int], width: int, prefix: int) -> np.ndarray:
    table = FIXED[kind](grid, width).astype(np.float32)
    return np.pad(table, ((prefix, 0), (0, 0)))[None]
