"""torchvision's Vision Transformers: `vit_b_16` and its like.

GELU is exact, the LayerNorms' epsilon 1e-6, and queries, keys and values are one matrix
of `nn.MultiheadAttention`. Its first files call the MLP's layers `linear_1` and
`linear_2`, later ones 0 and 3. No file says how images are prepared: with most weights
they are resized to 256 and cropped to 224, bilinear.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from vit_jax import errors
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.weights.dialect import Config, Dialect
from vit_jax.weights.dialects import processors, pytorch
from vit_jax.weights.dialects.pytorch import linear, norm
from vit_jax.weights.rules import Rule
from vit_jax.weights.source import Tensors

_BLOCK = "encoder.layers.encoder_layer_{layer}"


def _joined(rules: Iterable[Rule]) -> list[Rule]:
    """Rules of a matrix that is a parameter of its own: `in_proj_weight`."""
    return [
        dataclasses.replace(rule, theirs="_".join(rule.theirs.rsplit(".", 1)))
        for rule in rules
    ]


_RULES = (
    *pytorch.conv("patch_embed", "conv_proj"),
    Rule("cls", "class_token"),
    Rule("posemb", "encoder.pos_embedding"),
    *norm("blocks/norm1", f"{_BLOCK}.ln_1"),
    *_joined(
        pytorch.fused(
            ("blocks/attn/query", "blocks/attn/key", "blocks/attn/value"),
            f"{_BLOCK}.self_attention.in_proj",
            heads=True,
        )
    ),
    *pytorch.out_of_heads("blocks/attn/out", f"{_BLOCK}.self_attention.out_proj"),
    *norm("blocks/norm2", f"{_BLOCK}.ln_2"),
    *linear("blocks/mlp/up", f"{_BLOCK}.mlp.0"),
    *linear("blocks/mlp/down", f"{_BLOCK}.mlp.3"),
    *linear("blocks/mlp/up", f"{_BLOCK}.mlp.linear_1"),
    *linear("blocks/mlp/down", f"{_BLOCK}.mlp.linear_2"),
    *norm("norm", "encoder.ln"),
    *linear("pre_logits", "heads.pre_logits"),
    *linear("head", "heads.head"),
)


def _preprocessing(arch: VitArchitecture, config: Config | None) -> Preprocessing:
    """That of its weights for 224 pixels; files say nothing of it."""
    del config
    return processors.published(
        size=(224, 224),
        image_size=arch.image_size,
        transform="resize_small_crop",
        resize=256,
        filter="bilinear",
        mean=pytorch.IMAGENET_MEAN,
        std=pytorch.IMAGENET_STD,
        rounding="torchvision",
    )


def _saved(leaves: Tensors, arch: VitArchitecture) -> tuple[Tensors, VitArchitecture]:
    if not arch.num_classes or arch.pool != "token":
        raise errors.UserError(
            "torchvision's have a head that reads the class token; this "
            f"{arch.name} has num_classes={arch.num_classes} and pool={arch.pool!r}: "
            "write another dialect."
        )
    leaves, arch = pytorch.learned_positions(leaves, arch)
    return pytorch.with_positions(leaves, arch, 1)


_FIELDS: dict[str, Any] = {
    "gelu": "erf",
    "norm_epsilon": 1e-6,
    "prefix_positions": 1,
    "pool": "token",
    "posemb_resample": "bicubic_corners",
}
DIALECTS: dict[str, Dialect] = {
    "torchvision": Dialect(
        _RULES,
        r"encoder\.layers\.encoder_layer_\d+\.self_attention\.in_proj_weight",
        fields=_FIELDS,
        says_heads=False,
        saved=_saved,
        containers=("safetensors",),
        preprocessing=_preprocessing,
    ),
}
