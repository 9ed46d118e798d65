"""timm's Vision Transformers with rotary positions: its class `Eva`.

DINOv3, LingBot-Vision, RoPE-ViT, EVA-02 without norms inside its MLPs, and timm's own.
The turns have no tensors, but where they are learned: the name of the architecture and
the arguments say which they are. The class has other names for some tensors of blocks
than the plain Vision Transformer, and with keys that have no bias other ones again.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.models import rotary
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.weights.dialect import Config
from vit_jax.weights.dialects import pytorch
from vit_jax.weights.dialects.pytorch import linear
from vit_jax.weights.rules import Rule, Sizes
from vit_jax.weights.source import Tensors

Shapes = Mapping[str, tuple[int, ...]]

_BLOCK = "blocks.{layer}"
# Stands for "blocks" of a model of this class where its names are its own.
_EVA = "eva"
_SCALES = ("scale1", "scale2")
_GATED = ("mlp/gate/kernel", "mlp/gate/bias", "mlp/up/kernel", "mlp/up/bias")
_SPLIT_BIAS = ("attn/query/bias", "attn/value/bias")

_DINOV3 = {
    **{"rope_type": "dinov3", "rope_temperature": 100.0, "rope_rotate_half": True},
    **{"rope_grid_indexing": "ij", "norm_epsilon": 1e-5},
}
_ROPE_VIT = {
    **{"rope_grid_indexing": "xy", "rope_temperature": 100.0, "pool": "token"},
}
_EVA02: dict[str, Any] = {"ref_feat_shape": 16}
# Arguments of the zoo's architectures, beyond `_DEFAULTS`; all rows that fit count.
_ZOO: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"vit_.*_(dinov3|dinov3_qkvb|lingbot)", _DINOV3),
    (r"vit_.*_lingbot", {"pool": "token"}),
    (r"vit_7b_.*", {"heads": 32}),
    (r"vit_.*_rope_(ape_)?224", _ROPE_VIT),
    (r"vit_.*_rope_mixed_.*", _ROPE_VIT | {"rope_type": "mixed"}),
    (r"vit_.*_rope_mixed_.*", {"rope_temperature": 10.0}),
    (r"vit_.*_rope_reg\d_gap_\d+|eva02_(tiny|small)_.*", _EVA02),
)
_DEFAULTS: dict[str, Any] = {
    **{"rope_type": "cat", "rope_temperature": 10000.0, "rope_rotate_half": False},
    **{"rope_grid_indexing": "ij", "rope_grid_offset": 0.0, "ref_feat_shape": None},
    **{"norm_epsilon": 1e-6, "pool": "mean"},
}
# (rope_type, rope_rotate_half, rope_grid_indexing) -> ours
_KINDS = {
    ("dinov3", True, "ij"): "dinov3",
    ("cat", False, "ij"): "eva02",
    ("cat", False, "xy"): "axial",
    ("mixed", False, "xy"): "mixed",
}


def _layers_first(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    return array.swapaxes(0, 1)


def _axes_first(array: np.ndarray, *, sizes: Sizes) -> np.ndarray:
    return array.swapaxes(0, 1)


# After those of the plain ones, by which the same tensors are read.
RULES = (
    Rule("blocks/attn/frequencies", "rope.freqs", _layers_first, _axes_first),
    Rule(f"{_EVA}/scale1", f"{_BLOCK}.gamma_1"),
    Rule(f"{_EVA}/scale2", f"{_BLOCK}.gamma_2"),
    *linear(f"{_EVA}/mlp/gate", f"{_BLOCK}.mlp.fc1_g"),
    *linear(f"{_EVA}/mlp/up", f"{_BLOCK}.mlp.fc1_x"),
    *pytorch.head_bias(f"{_EVA}/attn/query", f"{_BLOCK}.attn.q_bias"),
    *pytorch.head_bias(f"{_EVA}/attn/value", f"{_BLOCK}.attn.v_bias"),
)


def is_known(zoo: str) -> bool:
    """Returns whether an architecture of timm's zoo turns queries as some here do."""
    return any(re.fullmatch(regex, zoo) for regex, _ in _ZOO)


def fields(zoo: str, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the fields of an architecture that is known; None: no turns of ours.

    Args:
        zoo: Its name.
        arguments: Of the model, over the zoo's.
    """
    said = dict(_DEFAULTS)
    for regex, values in _ZOO:
        if re.fullmatch(regex, zoo):
            said |= values
    said |= {key: value for key, value in arguments.items() if key in said}
    how = ("rope_type", "rope_rotate_half", "rope_grid_indexing")
    kind = _KINDS.get(tuple(said[key] for key in how))
    grid = said["ref_feat_shape"]
    sides = set(grid if isinstance(grid, list | tuple) else [grid or 0])
    if kind is None or said["rope_grid_offset"] or len(sides) != 1:
        return None
    if sides != {0} and kind != "eva02":
        return None
    found: dict[str, Any] = {
        "rope": kind,
        "rope_base": pytorch.number(said, "rope_temperature"),
        "rope_grid": pytorch.whole({"side": sides.pop()}, "side", 0),
    }
    kept = ("norm_epsilon", "pool", "heads")
    return found | {key: said[key] for key in kept if key in said}


def saved(leaves: Tensors, arch: VitArchitecture) -> Tensors:
    """Returns leaves under the names that their own rules have."""
    own = [*_SCALES, *(_GATED if arch.mlp == "swiglu" else ())]
    if arch.qkv_bias and not arch.key_bias:
        own += _SPLIT_BIAS
    names = {f"blocks/{name}": f"{_EVA}/{name}" for name in own}
    return leaves.renamed({names.get(name, name): name for name in leaves.names})


def architecture_name(arch: VitArchitecture) -> str:
    """Returns the one of the zoo whose LayerNorms have the epsilon."""
    epsilon = arch.norm_epsilon
    return f"vit_small_patch16_{'dinov3' if epsilon == 1e-5 else 'rope_224'}"


def arguments(arch: VitArchitecture, plain: Config) -> dict[str, Any]:
    """Returns the arguments of the class.

    Args:
        arch: The model.
        plain: Arguments of timm's class of plain Vision Transformers.
    """
    same = (
        *("img_size", "in_chans", "patch_size", "global_pool", "embed_dim", "depth"),
        *("num_heads", "qkv_bias", "qk_norm", "init_values", "class_token"),
        *("no_embed_class",),
    )
    said: dict[str, Any] = {key: plain[key] for key in same}
    kind = next(key for key, ours in _KINDS.items() if ours == arch.rope)
    split = not (arch.qkv_bias and arch.key_bias)
    ratio = pytorch.ratio(arch.width, arch.mlp_width)
    pooled = {"attn_pool_mlp_ratio": ratio} if arch.pool == "map" else {}
    return said | {
        "mlp_ratio": ratio,
        "swiglu_mlp": arch.mlp == "swiglu",
        "swiglu_align_to": int(arch.mlp == "swiglu"),  # gate and value apart
        "attn_type": "eva" if split else "rope",
        "num_reg_tokens": arch.registers,
        "use_abs_pos_emb": arch.posemb == "learned",
        "use_rot_pos_emb": True,
        **dict(zip(("rope_type", "rope_rotate_half", "rope_grid_indexing"), kind)),
        "rope_temperature": arch.rope_base,
        "ref_feat_shape": [arch.rope_grid] * 2 if arch.rope_grid else None,
        "use_pre_transformer_norm": arch.stem_norm,
        "use_post_transformer_norm": arch.final_norm == "tokens",
        "use_fc_norm": arch.final_norm == "pooled",
        "use_post_norm": arch.norm == "post",
        "dynamic_img_size": not rotary.KINDS[arch.rope].learned,
        **pooled,
    }
