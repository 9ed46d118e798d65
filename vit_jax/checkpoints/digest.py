"""Digests of arrays: whether a leaf is, bit for bit, what was saved.

The bits of each element are mixed with its place and summed modulo 2^32, twice with
different weights. A sum does not depend on its order, so a digest is the same on any
mesh and on the host; elements that changed, or changed places, are seen.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

_PLACE, _MIX = 0x9E3779B9, 0x85EBCA6B  # odd, so that nothing is lost in a product
_CHUNK = 1 << 15  # words that stay in a core's cache
_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}


class Sums(NamedTuple):
    """What is known of a leaf.

    Attributes:
        digest: 16 hexadecimal digits.
        finite: Whether no element is NaN or infinite.
    """

    digest: str
    finite: bool


def _text(first: Any, second: Any) -> str:
    return f"{int(first) % 2**32:08x}{int(second) % 2**32:08x}"


def _sums(x: jax.Array) -> tuple[jax.Array, ...]:
    """Both sums of an array, and how many of its elements are not finite.

    One pass over it: XLA makes one loop of a reduction of three values.
    """
    u = jnp.uint32
    if jnp.issubdtype(x.dtype, jnp.inexact):
        bad = (~jnp.isfinite(x)).astype(u)
    else:
        bad = jnp.zeros(x.shape, u)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = lax.bitcast_convert_type(x, _BITS[x.dtype.itemsize]).astype(u)
    if bits.ndim > x.ndim:  # 64 bits are two words
        bad = jnp.broadcast_to(bad[..., None], bits.shape)
    place, stride = jnp.zeros(bits.shape, u), 1
    for axis in reversed(range(bits.ndim)):
        place += lax.broadcasted_iota(u, bits.shape, axis) * u(stride % 2**32)
        stride *= bits.shape[axis]
    values = (*_mixed(bits, place), bad)
    axes = tuple(range(bits.ndim))
    return tuple(lax.reduce(values, (np.uint32(0),) * 3, _added, axes))


def _mixed(bits: jax.Array, place: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What is summed. A change of one element always changes the first."""
    u = jnp.uint32
    mixed = bits ^ (place * u(_PLACE))
    mixed = (mixed ^ (mixed >> 16)) * u(_MIX)
    mixed ^= mixed >> 13
    return mixed, mixed * (place * u(2) + u(1))


def _added(left: tuple, right: tuple) -> tuple:
    return tuple(a + b for a, b in zip(left, right, strict=True))


def _all_sums(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.stack(_sums(x)) for x in leaves])


@functools.cache
def _program(leaves: tuple[jax.ShapeDtypeStruct, ...]) -> Any:
    # One for all: many, each with a sum over all devices, take longer, and leave the
    # devices of a CPU no thread to meet on.
    where = leaves[0].sharding
    if isinstance(where, NamedSharding):
        where = NamedSharding(where.mesh, PartitionSpec())
    program = jax.jit(_all_sums, out_shardings=where)
    return program.lower(list(leaves)).compile()


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def prepare(leaves: Iterable[Any]) -> None:
    """Compiles what `on_device` runs for leaves of these shapes and shardings."""
    _program(tuple(map(_shape, leaves)))


def on_device(leaves: Mapping[str, jax.Array]) -> dict[str, Sums]:
    """Returns the sums of arrays, computed where they are; each is read once.

    All processes call it with the same global arrays, and get the same.
    """
    arrays = [jnp.asarray(x) for x in leaves.values()]
    rows = jax.device_get(_program(tuple(map(_shape, arrays)))(arrays))
    return {
        name: Sums(_text(first, second), finite=not bad)
        for name, (first, second, bad) in zip(leaves, rows, strict=True)
    }


@functools.cache
def _places() -> tuple[np.ndarray, np.ndarray]:
    place = np.arange(_CHUNK, dtype=np.uint32)
    return place * np.uint32(_PLACE), place * np.uint32(2) + np.uint32(1)


def on_host(array: np.ndarray) -> str:
    """Returns the digest of an array of this host; it compiles nothing."""
    flat = np.ascontiguousarray(array).reshape(-1)
    words = flat.view(_BITS[flat.dtype.itemsize])
    places, weights = _places()
    mixed, other = np.empty(_CHUNK, np.uint32), np.empty(_CHUNK, np.uint32)
    first = second = 0
    for start in range(0, len(words), _CHUNK):
        part = words[start : start + _CHUNK]
        a, b = mixed[: len(part)], other[: len(part)]
        np.add(places[: len(part)], np.uint32(start * _PLACE % 2**32), out=a)
        np.bitwise_xor(a, part, out=a)
        np.right_shift(a, np.uint32(16), out=b)
        np.bitwise_xor(a, b, out=a)
        np.multiply(a, np.uint32(_MIX), out=a)
        np.right_shift(a, np.uint32(13), out=b)
        np.bitwise_xor(a, b, out=a)
        total = int(a.sum(dtype=np.uint32))
        np.multiply(a, weights[: len(part)], out=b)
        first += total
        second += int(b.sum(dtype=np.uint32)) + 2 * start * total
    return _text(first, second)
