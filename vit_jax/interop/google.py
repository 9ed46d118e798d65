"""Names of google-research/vision_transformer and google-research/big_vision.

One network in three spellings. Linen counts modules by class (`LayerNorm_0/1`,
`MlpBlock_0`), the older files (all published ones of the paper and of AugReg) count
them all together (`LayerNorm_0`, `MultiHeadDotProductAttention_1`, `LayerNorm_2`,
`MlpBlock_3`) and keep GroupNorm parameters as [1, 1, 1, C]. big_vision adds positions
before the class token comes in, so its table has no entry for it.
"""

import numpy as np

from vit_jax.interop.rules import Rule

Leaves = dict[str, np.ndarray]


def encoder(block: str, *, norms: tuple[int, int], attn: int, mlp: int) -> list[Rule]:
    """Rules of the encoder, whose sub-modules carry these numbers."""
    mha = f"{block}/MultiHeadDotProductAttention_{attn}"
    return [
        Rule("blocks/norm1/{leaf}", f"{block}/LayerNorm_{norms[0]}/{{leaf}}"),
        Rule("blocks/attn/{part}/{leaf}", f"{mha}/{{part}}/{{leaf}}"),
        Rule("blocks/norm2/{leaf}", f"{block}/LayerNorm_{norms[1]}/{{leaf}}"),
        Rule("blocks/mlp/up/{leaf}", f"{block}/MlpBlock_{mlp}/Dense_0/{{leaf}}"),
        Rule("blocks/mlp/down/{leaf}", f"{block}/MlpBlock_{mlp}/Dense_1/{{leaf}}"),
        Rule("norm/{leaf}", "Transformer/encoder_norm/{leaf}"),
    ]


COMMON = [
    Rule("patch_embed/{leaf}", "embedding/{leaf}"),
    Rule("cls", "cls"),
    Rule("pre_logits/{leaf}", "pre_logits/{leaf}"),
    Rule("head/{leaf}", "head/{leaf}"),
]


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1) if array.shape[:-1] == (1, 1, 1) else array


def _old_group_norm(array: np.ndarray) -> np.ndarray:
    return array.reshape(1, 1, 1, -1)


def resnet(*, old: bool) -> list[Rule]:
    """Rules of a hybrid's ResNet; `old`: written with [1, 1, 1, C] GroupNorms."""
    functions = {"load": _flat} | ({"save": _old_group_norm} if old else {})
    unit, their = "resnet/stage{stage}/unit{unit}", "block{stage}/unit{unit}"
    return [
        Rule("resnet/root/conv/kernel", "conv_root/kernel"),
        Rule("resnet/root/norm/{leaf}", "gn_root/{leaf}", **functions),
        Rule(f"{unit}/conv{{i}}/kernel", f"{their}/conv{{i}}/kernel"),
        Rule(f"{unit}/norm{{i}}/{{leaf}}", f"{their}/gn{{i}}/{{leaf}}", **functions),
        Rule(f"{unit}/conv_proj/kernel", f"{their}/conv_proj/kernel"),
        Rule(f"{unit}/norm_proj/{{leaf}}", f"{their}/gn_proj/{{leaf}}", **functions),
    ]


BLOCK = "Transformer/encoderblock_{layer}"
LINEN = {"norms": (0, 1), "attn": 0, "mlp": 0}
OLD = {"norms": (0, 2), "attn": 1, "mlp": 3}
POSEMB = Rule("posemb", "Transformer/posembed_input/pos_embedding")

GOOGLE = [*encoder(BLOCK, **LINEN), *COMMON, POSEMB, *resnet(old=False)]
GOOGLE_OLD = [*encoder(BLOCK, **OLD), *COMMON, POSEMB, *resnet(old=True)]

_BIG_VISION = [*COMMON, Rule("posemb", "pos_embedding")]
BIG_VISION = [*encoder(BLOCK, **LINEN), *_BIG_VISION]
BIG_VISION_SCAN = [*encoder("Transformer/encoderblock", **LINEN), *_BIG_VISION]


def add_class_position(leaves: Leaves) -> Leaves:
    """Puts zeros before a big_vision table as the class token's position.

    big_vision's class token has no position: adding zero is the same forward pass.
    """
    if "cls" not in leaves or "posemb" not in leaves:
        return leaves
    table = leaves["posemb"]
    zeros = np.zeros((1, 1, table.shape[-1]), table.dtype)
    return leaves | {"posemb": np.concatenate([zeros, table], axis=1)}


def fold_class_position(leaves: Leaves) -> Leaves:
    """Adds the class token's position to the token, as big_vision's own import does."""
    if "cls" not in leaves:
        return leaves
    table = leaves["posemb"]
    return leaves | {"cls": leaves["cls"] + table[:, :1], "posemb": table[:, 1:]}
