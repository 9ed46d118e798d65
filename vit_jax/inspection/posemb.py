"""How alike the positions of patches are to a model (the paper's Figures 7 and 10)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.inspection import similarity
from vit_jax.models import posemb
from vit_jax.models.vit_architecture import VitArchitecture

Tables = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Positions:
    """What a model has learned, or was given, of positions.

    Attributes:
        what: The kind of table, in words.
        similarity: float32 [rows * columns, rows * columns] by table: "stem", or
            "block 0", ... Row q has the cosines of position q to all.
    """

    what: str
    similarity: Tables


def positions(params: Mapping[str, Any], arch: VitArchitecture) -> Positions | None:
    """Returns the similarities of all position tables, None where there is no table.

    Args:
        params: Nested dicts of arrays, as `Loaded.params`.
        arch: Of the model.
    """
    if arch.posemb == "none":
        return None
    if arch.posemb == "relative":
        offsets = _offsets(params, arch)
        found = {name: of_offsets(table) for name, table in offsets.items()}
        return Positions("relative, each offset's embedding beside offset 0's", found)
    tables = _tables(params, arch)
    what = {
        "learned": "learned, 1-D",
        "learned_2d": "learned, 2-D: a row and a column table",
        "sincos_1d": "fixed, 1-D sines and cosines",
        "sincos_2d": "fixed, 2-D sines and cosines",
    }[arch.posemb]
    return Positions(
        what, {name: similarity.cosines(table) for name, table in tables.items()}
    )


def of_offsets(table: np.ndarray) -> np.ndarray:
    """Returns cosines of offsets' embeddings to that of offset 0, float32 [n, n].

    Entry (q, k) is of the offset p_q - p_k in raster order: how alike to be there is to
    be at the same place. The diagonal is 1.

    Args:
        table: [2n - 1, d], entry p_q - p_k + n - 1 for the offset.
    """
    patches = (len(table) + 1) // 2
    to_none = similarity.cosines(table)[patches - 1]
    place = np.arange(patches)
    return to_none[place[:, None] - place + patches - 1]


def _tables(params: Mapping[str, Any], arch: VitArchitecture) -> Tables:
    """Embeddings of the patches alone, [n, d] by name."""
    if arch.posemb in posemb.FIXED:
        return {"stem": posemb.FIXED[arch.posemb](arch.grid, arch.width)}
    if arch.posemb_at != "every":
        return {"stem": _patches(params["posemb"], arch)}
    stacked = params["blocks"]["posemb"]
    return {
        f"block {i}": _patches(_of_layer(stacked, i), arch) for i in range(arch.depth)
    }


def _of_layer(stacked: Any, layer: int) -> Any:
    if isinstance(stacked, Mapping):
        return {name: leaf[layer] for name, leaf in stacked.items()}
    return stacked[layer]


def _patches(table: Any, arch: VitArchitecture) -> np.ndarray:
    if not isinstance(table, Mapping):
        return np.asarray(table)[0, arch.positioned :]
    row, column = np.asarray(table["row"]), np.asarray(table["column"])
    shape = (*arch.grid, arch.width // 2)
    halves = np.broadcast_to(column, shape), np.broadcast_to(row[:, None], shape)
    return np.concatenate(halves, axis=-1).reshape(-1, arch.width)


def _offsets(params: Mapping[str, Any], arch: VitArchitecture) -> Tables:
    """Embeddings of the offsets, heads side by side, [2n - 1, d] by name."""
    if arch.posemb_at != "every":
        shared = np.asarray(params["relative"])
        return {"all blocks": shared.reshape(len(shared), -1)}
    stacked = np.asarray(params["blocks"]["attn"]["relative"])
    return {
        f"block {i}": layer.reshape(len(layer), -1) for i, layer in enumerate(stacked)
    }
