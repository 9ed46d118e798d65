"""Rotary positions: queries and keys are turned by the places of their patches.

RoFormer's turns (arXiv 2104.09864) on a grid. Of a head of width e, e/2 pairs of
numbers are turned, each by an angle of its own: place times frequency. Half of the
pairs have the place along one axis, the others along the other one, with e/4
frequencies base^(-4i / e); learned ones have both. So the logit of two patches depends
on how far they are apart in rows and columns, in any grid. Tokens before the patches
stay as they are, and what is turned alike has the products it had.

Einsum letters: b batch, n tokens, h heads, e head width.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the published ways have in their own ways.

    Attributes:
        centres: Places are those of the patches' centres, from -1 to 1 in any grid, and
            a frequency is of whole turns; else rows and columns from 0, and radians.
        columns_first: Whether the first half of the angles is the columns'.
        neighbours: Whether numbers 2i and 2i + 1 of a head are a pair; else i and
            i + e/2.
        learned: Whether each head of each block has frequencies of its own, learned.
    """

    centres: bool = False
    columns_first: bool = False
    neighbours: bool = True
    learned: bool = False


KINDS: dict[str, Kind] = {
    "dinov3": Kind(centres=True, neighbours=False),  # arXiv 2508.10104
    "eva02": Kind(),  # arXiv 2303.11331
    "axial": Kind(columns_first=True),  # RoPE-ViT, arXiv 2403.13298
    "mixed": Kind(columns_first=True, learned=True),  # the same
}


@dataclasses.dataclass(frozen=True)
class Rotation:
    """The turns of an attention.

    Attributes:
        kind: Key of `KINDS`.
        base: Of the frequencies.
        trained_grid: Side of the grid that others are scaled to; 0: none is.
        grid: (rows, columns) of patches.
        prefix: Tokens before the patches.
    """

    kind: str
    base: float
    trained_grid: int
    grid: tuple[int, int]
    prefix: int


def places(rotation: Rotation) -> np.ndarray:
    """Returns float64 [2, rows * columns]: where patches are, in the axes' order."""
    kind = KINDS[rotation.kind]
    axes = []
    for count in rotation.grid:
        at = np.arange(count, dtype=np.float64)
        if kind.centres:
            at = 2 * np.pi * (2 * (at + 0.5) / count - 1)
        elif rotation.trained_grid:
            at = at / count * rotation.trained_grid
        axes.append(at)
    rows, columns = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    return np.stack([columns, rows] if kind.columns_first else [rows, columns])


def bands(base: float, width: int) -> np.ndarray:
    """Returns the frequencies [e/4] of heads of width e, float64."""
    return base ** (-np.arange(width // 4) / (width // 4))


@functools.lru_cache(maxsize=8)
def _turns(rotation: Rotation, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines [n, 1, e/2], float32, of fixed frequencies."""
    angles = places(rotation)[:, :, None] * bands(rotation.base, width)
    angles = np.concatenate(list(angles), axis=-1)
    angles = np.pad(angles, ((rotation.prefix, 0), (0, 0)))[:, None]
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def frequencies(
    rotation: Rotation | None, split: tuple[int, int], rngs: nnx.Rngs
) -> nnx.Param | None:
    """Returns new learned frequencies [2, heads, e/2]; None where there are none.

    They start as RoPE-ViT's: of each head, two directions at right angles, drawn.
    """
    if rotation is None or not KINDS[rotation.kind].learned:
        return None
    heads, width = split
    sizes = jnp.asarray(bands(rotation.base, width), jnp.float32)[None]
    drawn = jax.random.uniform(rngs.params(), (heads, 1), maxval=2 * jnp.pi)
    directions = drawn, drawn + jnp.pi / 2
    first = [sizes * jnp.cos(angle) for angle in directions]
    second = [sizes * jnp.sin(angle) for angle in directions]
    both = [jnp.concatenate(halves, axis=-1) for halves in (first, second)]
    return nnx.Param(jnp.stack(both))


def _learned_turns(
    rotation: Rotation, learned: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [n, h, e/2] of frequencies [2, h, e/2]."""
    first, second = (
        jnp.asarray(np.pad(axis, (rotation.prefix, 0)), jnp.float32)[:, None, None]
        for axis in places(rotation)
    )
    angles = first * learned[:1] + second * learned[1:]
    return jnp.cos(angles), jnp.sin(angles)


def turned(
    rotation: Rotation,
    queries: jax.Array,
    keys: jax.Array,
    learned: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns queries and keys [b, n, h, e], turned; in float32, and of their types.

    The numbers of a head come back in another order where neighbours are pairs, in
    both alike, which is the same to their products.

    Args:
        rotation: The turns; n is its prefix and its patches.
        queries: [b, n, h, e].
        keys: Likewise.
        learned: From `frequencies`.
    """
    if learned is None:
        cosines, sines = map(jnp.asarray, _turns(rotation, queries.shape[-1]))
    else:
        cosines, sines = _learned_turns(rotation, learned.astype(jnp.float32))
    cosines, sines = cosines[None], sines[None]

    def turn(x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        if KINDS[rotation.kind].neighbours:
            first, second = (
                jax.lax.slice_in_dim(y, start, None, 2, -1) for start in (0, 1)
            )
        else:
            first, second = jnp.split(y, 2, axis=-1)
        ends = first * cosines - second * sines, second * cosines + first * sines
        return jnp.concatenate(ends, axis=-1).astype(x.dtype)

    return turn(queries), turn(keys)
