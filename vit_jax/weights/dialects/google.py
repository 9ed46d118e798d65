"""Names of google-research/vision_transformer and google-research/big_vision.

One network in three spellings. Linen counts modules by class (`LayerNorm_0/1`,
`MlpBlock_0`), the older files (all published ones of the paper and of AugReg) count
them all together (`LayerNorm_0`, `MultiHeadDotProductAttention_1`, `LayerNorm_2`,
`MlpBlock_3`) and keep GroupNorm parameters as [1, 1, 1, C]. big_vision adds positions
before the class token comes in, so its table has no entry for it.
"""

import logging
import math
from typing import Any

import numpy as np

from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.weights.dialect import Dialect
from vit_jax.weights.rules import Rule, Sizes
from vit_jax.weights.source import Tensors


def _block(
    ours: str, theirs: str, *, norms: tuple[int, int], attn: int, mlp: int
) -> tuple[Rule, ...]:
    """Rules of one block, whose sub-modules carry these numbers."""
    mha = f"{theirs}/MultiHeadDotProductAttention_{attn}"
    return (
        Rule(f"{ours}/norm1/{{leaf}}", f"{theirs}/LayerNorm_{norms[0]}/{{leaf}}"),
        Rule(f"{ours}/attn/{{part}}/{{leaf}}", f"{mha}/{{part}}/{{leaf}}"),
        Rule(f"{ours}/norm2/{{leaf}}", f"{theirs}/LayerNorm_{norms[1]}/{{leaf}}"),
        *_mlp(f"{ours}/mlp", f"{theirs}/MlpBlock_{mlp}"),
    )


def _mlp(ours: str, theirs: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{ours}/up/{{leaf}}", f"{theirs}/Dense_0/{{leaf}}"),
        Rule(f"{ours}/down/{{leaf}}", f"{theirs}/Dense_1/{{leaf}}"),
    )


def _map_head(theirs: str) -> tuple[Rule, ...]:
    return (
        Rule("map/probe", f"{theirs}probe"),
        Rule(
            "map/attn/{part}/{leaf}",
            f"{theirs}MultiHeadDotProductAttention_0/{{part}}/{{leaf}}",
        ),
        Rule("map/norm/{leaf}", f"{theirs}LayerNorm_0/{{leaf}}"),
        *_mlp("map/mlp", f"{theirs}MlpBlock_0"),
    )


_COMMON = (
    Rule("norm/{leaf}", "Transformer/encoder_norm/{leaf}"),
    Rule("patch_embed/{leaf}", "embedding/{leaf}"),
    Rule("cls", "cls"),
    Rule("pre_logits/{leaf}", "pre_logits/{leaf}"),
    Rule("head/{leaf}", "head/{leaf}"),
)


def flat(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    """Turns [1, 1, 1, C] or [C] into [C]."""
    return array.reshape(-1) if array.shape[:-1] == (1, 1, 1) else array


def old_group_norm(array: np.ndarray, *, sizes: Sizes) -> np.ndarray:
    """Turns [C] into [1, 1, 1, C]."""
    return array.reshape(1, 1, 1, -1)


def _resnet(*, old: bool) -> tuple[Rule, ...]:
    """Rules of a hybrid's ResNet; `old`: written with [1, 1, 1, C] GroupNorms."""
    functions = {"load": flat} | ({"save": old_group_norm} if old else {})
    unit, their = "resnet/stage{stage}/unit{unit}", "block{stage}/unit{unit}"
    return (
        Rule("resnet/root/conv/kernel", "conv_root/kernel"),
        Rule("resnet/root/norm/{leaf}", "gn_root/{leaf}", **functions),
        Rule(f"{unit}/conv{{i}}/kernel", f"{their}/conv{{i}}/kernel"),
        Rule(f"{unit}/norm{{i}}/{{leaf}}", f"{their}/gn{{i}}/{{leaf}}", **functions),
        Rule(f"{unit}/conv_proj/kernel", f"{their}/conv_proj/kernel"),
        Rule(f"{unit}/norm_proj/{{leaf}}", f"{their}/gn_proj/{{leaf}}", **functions),
    )


_BLOCK = "Transformer/encoderblock_{layer}"
_LINEN = _block("blocks", _BLOCK, norms=(0, 1), attn=0, mlp=0)
_OLD = _block("blocks", _BLOCK, norms=(0, 2), attn=1, mlp=3)
_SCAN = _block("blocks", "Transformer/encoderblock", norms=(0, 1), attn=0, mlp=0)
_POSEMB = Rule("posemb", "Transformer/posembed_input/pos_embedding")
# big_vision moved its table twice and its pooling head once.
_BIG_VISION = (
    *_COMMON,
    Rule("posemb", "pos_embedding"),
    Rule("posemb", "Transformer/pos_embedding"),
    Rule("posemb", "Transformer/posembed_input/pos_embedding"),
    *_map_head("MAPHead_0/"),
    *_map_head(""),
)


def _google_says(tensors: Tensors) -> dict[str, Any]:
    if _POSEMB.theirs in tensors.shapes:
        return {}
    return {"posemb": "none"}


def _big_vision_says(tensors: Tensors) -> dict[str, Any]:
    """Without a table the positions are sines; old tables have a class position."""
    tables = {rule.theirs for rule in _BIG_VISION if rule.ours == "posemb"}
    shape = next((tensors.shapes[n] for n in tables if n in tensors.shapes), None)
    if shape is None:
        return {"posemb": "sincos_2d"}
    return {"prefix_positions": int(len(shape) == 3 and _is_longer(shape[1]))}


def _is_longer(entries: int) -> bool:
    """Whether a table has the entries of a square and one more."""
    return entries > 1 and math.isqrt(entries - 1) ** 2 == entries - 1


def _without_lost_position(leaves: Tensors) -> Tensors:
    """Drops the first entry of N + 1 where there is no class token to use it.

    Old checkpoints of big_vision with other pooling have it; its code drops it too.
    """
    if "posemb" not in leaves.shapes or "cls" in leaves.shapes:
        return leaves
    shape = leaves.shapes["posemb"]
    if len(shape) != 3 or not _is_longer(shape[1]):
        return leaves
    logging.info(
        "%s: the position table has an entry for a class token and the model has no "
        "such token: left out.",
        leaves.label,
    )
    short = (shape[0], shape[1] - 1, shape[2])
    return leaves.changed({"posemb": (short, lambda: leaves.read("posemb")[:, 1:])})


def _with_class_position(
    leaves: Tensors, arch: VitArchitecture
) -> tuple[Tensors, VitArchitecture]:
    """Puts zeros before the table as the class token's position: the same function."""
    if arch.posemb != "learned" or not arch.has_class_token or arch.positioned:
        return leaves, arch
    shape = leaves.shapes["posemb"]

    def table() -> np.ndarray:
        old = leaves.read("posemb")
        return np.concatenate([np.zeros_like(old[:, :1]), old], axis=1)

    longer = (shape[0], shape[1] + 1, *shape[2:])
    return leaves.changed({"posemb": (longer, table)}), arch.replace(prefix_positions=1)


def _with_folded_position(
    leaves: Tensors, arch: VitArchitecture
) -> tuple[Tensors, VitArchitecture]:
    """Adds the class token's position to the token, as big_vision's own import does."""
    if arch.posemb != "learned" or not arch.has_class_token or not arch.positioned:
        return leaves, arch
    shape = leaves.shapes["posemb"]
    if arch.positioned > 1:
        return leaves, arch

    def token() -> np.ndarray:
        return leaves.read("cls") + leaves.read("posemb")[:, :1]

    changes = {
        "cls": (leaves.shapes["cls"], token),
        "posemb": (
            (shape[0], shape[1] - 1, *shape[2:]),
            lambda: leaves.read("posemb")[:, 1:],
        ),
    }
    return leaves.changed(changes), arch.replace(prefix_positions=0)


# Both codes zoom position tables with `scipy.ndimage.zoom(order=1)`, as ours are by
# default.
_FIELDS = {"gelu": "tanh", "norm_epsilon": 1e-6}
_GOOGLE: dict[str, Any] = {
    "fields": _FIELDS | {"prefix_positions": 1},
    "says": _google_says,
    "saved": _with_class_position,
}
_NEW: dict[str, Any] = {
    "fields": _FIELDS,
    "says": _big_vision_says,
    "loaded": _without_lost_position,
    "saved": _with_folded_position,
    "prefix": "params/",
}
_ATTENTION = "MultiHeadDotProductAttention_"

DIALECTS: dict[str, Dialect] = {
    "google_old": Dialect(
        (*_OLD, *_COMMON, _POSEMB, *_resnet(old=True)),
        rf"Transformer/encoderblock_\d+/{_ATTENTION}1/.*",
        **_GOOGLE,
    ),
    "google": Dialect(
        (*_LINEN, *_COMMON, _POSEMB, *_resnet(old=False)), _POSEMB.theirs, **_GOOGLE
    ),
    "big_vision_scan": Dialect(
        (*_SCAN, *_BIG_VISION), rf"Transformer/encoderblock/{_ATTENTION}0/.*", **_NEW
    ),
    "big_vision": Dialect(
        (*_LINEN, *_BIG_VISION),
        rf"Transformer/encoderblock_\d+/{_ATTENTION}0/.*",
        **_NEW,
    ),
}
