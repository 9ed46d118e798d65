"""Attention probabilities as one matrix a layer, and what the head reads of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

_PREFIX = "attention/"


def of_layers(inside: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the probabilities of every attention layer between all tokens.

    Args:
        inside: What `model.intermediates` returns, in any order: `jax.jit` sorts it.

    Returns:
        float32 [b, h, q, k] by layer, in the order that they come in: "0", "1", ... An
        axial block is two layers, "0/row", then "0/column", with 0 between tokens of
        different lines.
    """
    names = [name.removeprefix(_PREFIX) for name in inside if name.startswith(_PREFIX)]
    found = {}
    for layer in sorted(names, key=_place):
        array = np.asarray(inside[_PREFIX + layer], np.float32)
        axis = layer.rpartition("/")[2]
        found[layer] = _EXPAND[axis](array) if axis in _EXPAND else array
    return found


def _place(layer: str) -> tuple[int, int]:
    block, _, axis = layer.partition("/")
    return int(block), list(_EXPAND).index(axis) if axis else 0


def rows(lines: np.ndarray) -> np.ndarray:
    """Expands [b, r, h, c, c] within each of r rows to [b, h, r * c, r * c]."""
    b, r, h, c, _ = lines.shape
    full = np.zeros((b, h, r, c, r, c), lines.dtype)
    for row in range(r):
        full[:, :, row, :, row] = lines[:, row]
    return full.reshape(b, h, r * c, r * c)


def columns(lines: np.ndarray) -> np.ndarray:
    """Expands [b, c, h, r, r] within each of c columns to [b, h, r * c, r * c]."""
    b, c, h, r, _ = lines.shape
    full = np.zeros((b, h, r, c, r, c), lines.dtype)
    for column in range(c):
        full[:, :, :, column, :, column] = lines[:, column]
    return full.reshape(b, h, r * c, r * c)


# In the order in which an axial block has them.
_EXPAND = {"row": rows, "column": columns}

# What the head reads, by pool, in words.
READ: dict[str, str] = {
    "token": "the class token",
    "mean": "the mean over patches",
    "map": "the head's learned query, the mean of its heads",
    "token_mean": "half the class token, half the mean over patches",
    "distilled": "the mean of class token and distillation token",
    "none": "the mean over patches",
}


def weights(
    pool: str, tokens: int, prefix: int, learned: np.ndarray | None = None
) -> np.ndarray:
    """Returns how much of each token the head reads, [n] of sum 1.

    Args:
        pool: Of the architecture, a key of `READ`.
        tokens: How many there are.
        prefix: How many come before the patches, the class token first.
        learned: With pool="map" the attention of the head's query, [n].
    """
    if pool == "map":
        if learned is None:
            raise ValueError('pool="map" reads as its query attends: want `learned`')
        return learned / learned.sum()
    patches = np.zeros(tokens)
    patches[prefix:] = 1 / (tokens - prefix)
    places = np.eye(tokens)
    return {
        "token": places[0],
        "mean": patches,
        "token_mean": (places[0] + patches) / 2,
        "distilled": (places[0] + places[min(1, tokens - 1)]) / 2,
        "none": patches,
    }[pool]


def read(attention: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the rows of [..., q, k] weighted by [q]: [..., k], of sum 1 as they."""
    return np.einsum("...qk,q->...k", attention, weights.astype(attention.dtype))
