"""timm's Vision Transformers and Mixers, as its hub stores them.

A state dict, and a `config.json` that names an architecture of its zoo, with the
arguments that differ from it and how images are prepared. timm computes GELU exactly
and has LayerNorms with an epsilon of 1e-6. Its `fc1` of a packed SwiGLU holds gate and
value one after the other, and its `fc_norm` is the last LayerNorm after the pooling.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.weights.dialect import Dialect
from vit_jax.weights.dialects import pytorch, timm_config, timm_rotary, timm_zoo
from vit_jax.weights.dialects.pytorch import linear, norm
from vit_jax.weights.dialects.timm_zoo import refused
from vit_jax.weights.rules import Rule
from vit_jax.weights.source import Tensors

Shapes = Mapping[str, tuple[int, ...]]

_BLOCK = "blocks.{layer}"
_FC_NORM = "fc_norm"
# Stand for "registers" and "resnet", which timm counts and numbers in its own way.
_DISTILLATION = "distillation"
_BACKBONE = "backbone"
_STAGES = "patch_embed.backbone.stages.{stage}.blocks.{unit}"
_UNIT = f"{_BACKBONE}/stage{{stage}}/unit{{unit}}"
_GATE = "blocks/mlp/gate/kernel"

_VIT = (
    *pytorch.conv("patch_embed", "patch_embed.proj"),
    Rule("cls", "cls_token"),
    Rule("registers", "reg_token"),
    Rule("posemb", "pos_embed"),
    *norm("stem_norm", "norm_pre"),
    *norm("blocks/norm1", f"{_BLOCK}.norm1"),
    *pytorch.fused(
        ("blocks/attn/query", "blocks/attn/key", "blocks/attn/value"),
        f"{_BLOCK}.attn.qkv",
        heads=True,
    ),
    *norm("blocks/attn/query_norm", f"{_BLOCK}.attn.q_norm"),
    *norm("blocks/attn/key_norm", f"{_BLOCK}.attn.k_norm"),
    *pytorch.out_of_heads("blocks/attn/out", f"{_BLOCK}.attn.proj"),
    Rule("blocks/scale1", f"{_BLOCK}.ls1.gamma"),
    *norm("blocks/norm2", f"{_BLOCK}.norm2"),
    *linear("blocks/mlp/up", f"{_BLOCK}.mlp.fc1"),
    *linear("blocks/mlp/down", f"{_BLOCK}.mlp.fc2"),
    Rule("blocks/scale2", f"{_BLOCK}.ls2.gamma"),
    *norm("norm", "norm"),
    *norm(_FC_NORM, "fc_norm"),
    Rule("map/probe", "attn_pool.latent"),
    *pytorch.into_heads("map/attn/query", "attn_pool.q"),
    *pytorch.fused(("map/attn/key", "map/attn/value"), "attn_pool.kv", heads=True),
    *pytorch.out_of_heads("map/attn/out", "attn_pool.proj"),
    *norm("map/norm", "attn_pool.norm"),
    *linear("map/mlp/up", "attn_pool.mlp.fc1"),
    *linear("map/mlp/down", "attn_pool.mlp.fc2"),
    *linear("pre_logits", "pre_logits.fc"),
    *linear("head", "head"),
    # Of a distilled DeiT.
    Rule(_DISTILLATION, "dist_token"),
    *linear("head_dist", "head_dist"),
    # Of an EVA, whose keys have no bias.
    *pytorch.head_bias("blocks/attn/query", f"{_BLOCK}.attn.q_bias"),
    *pytorch.head_bias("blocks/attn/value", f"{_BLOCK}.attn.v_bias"),
    # Its SwiGLU that is not packed.
    *linear("blocks/mlp/gate", f"{_BLOCK}.mlp.fc1_g"),
    *linear("blocks/mlp/up", f"{_BLOCK}.mlp.fc1_x"),
    # The spellings of DINOv2's and DeiT III's own files, which timm reads as well.
    Rule("registers", "register_tokens"),
    Rule("blocks/scale1", f"{_BLOCK}.gamma_1"),
    Rule("blocks/scale2", f"{_BLOCK}.gamma_2"),
    *linear("blocks/mlp/up", f"{_BLOCK}.mlp.w12"),
    *linear("blocks/mlp/down", f"{_BLOCK}.mlp.w3"),
    *timm_rotary.RULES,
)
# The ResNet in a hybrid; the one that is a root alone has no "stem".
_RESNET = (
    *pytorch.conv(f"{_BACKBONE}/root/conv", "patch_embed.backbone.stem.conv"),
    *norm(f"{_BACKBONE}/root/norm", "patch_embed.backbone.stem.norm"),
    *pytorch.conv(f"{_BACKBONE}/root/conv", "patch_embed.backbone.conv"),
    *norm(f"{_BACKBONE}/root/norm", "patch_embed.backbone.norm"),
    *pytorch.conv(f"{_UNIT}/conv{{i}}", f"{_STAGES}.conv{{i}}"),
    *norm(f"{_UNIT}/norm{{i}}", f"{_STAGES}.norm{{i}}"),
    *pytorch.conv(f"{_UNIT}/conv_proj", f"{_STAGES}.downsample.conv"),
    *norm(f"{_UNIT}/norm_proj", f"{_STAGES}.downsample.norm"),
)
_MIXER = (
    *pytorch.conv("patch_embed", "stem.proj"),
    *norm("blocks/norm1", f"{_BLOCK}.norm1"),
    *linear("blocks/tokens/up", f"{_BLOCK}.mlp_tokens.fc1"),
    *linear("blocks/tokens/down", f"{_BLOCK}.mlp_tokens.fc2"),
    *norm("blocks/norm2", f"{_BLOCK}.norm2"),
    *linear("blocks/channels/up", f"{_BLOCK}.mlp_channels.fc1"),
    *linear("blocks/channels/down", f"{_BLOCK}.mlp_channels.fc2"),
    *norm("norm", "norm"),
    *linear("head", "head"),
)
# Of timm's models inside transformers.
_WRAPPER = "timm_model."


def _vit_says(tensors: Tensors) -> dict[str, Any]:
    shapes = {n.removeprefix(_WRAPPER): s for n, s in tensors.shapes.items()}
    size = timm_config.image_size(tensors.config)
    return (
        timm_zoo.fields(tensors.config, shapes)
        | size
        | timm_zoo.positions(shapes, size.get("image_size"))
    )


def _vit_loaded(leaves: Tensors) -> Tensors:
    """One last LayerNorm, and a packed SwiGLU's two parts apart."""
    if timm_zoo.rotary(leaves.config) is None:
        leaves = _with_key_bias(leaves)
    leaves = _as_counted_here(leaves)
    shapes = leaves.shapes
    if f"{_FC_NORM}/scale" in shapes:
        if "norm/scale" in shapes:
            raise refused("with a LayerNorm before the pooling and one after it")
        leaves = pytorch.renamed(leaves, _FC_NORM, "norm")
    up, down = (shapes.get(f"blocks/mlp/{part}/kernel") for part in ("up", "down"))
    if not up or not down or up[-1] != 2 * down[-2] or _GATE in shapes:
        return leaves

    def part(name: str, index: int) -> tuple[tuple[int, ...], Callable]:
        *lead, both = shapes[name]
        return (*lead, both // 2), lambda: np.split(leaves.read(name), 2, -1)[index]

    halves = {}
    for leaf in ("kernel", "bias"):
        if (name := f"blocks/mlp/up/{leaf}") in shapes:
            halves[f"blocks/mlp/gate/{leaf}"] = part(name, 0)
            halves[name] = part(name, 1)
    return leaves.changed(halves)


def _with_key_bias(leaves: Tensors) -> Tensors:
    """Zeros where queries have a bias and keys do not: the softmax sees no difference.

    A bias of keys adds the same to all logits of a query.
    """
    query, key = "blocks/attn/query/bias", "blocks/attn/key/bias"
    if query not in leaves.shapes or key in leaves.shapes:
        return leaves
    shape = leaves.shapes[query]
    return leaves.changed({key: (shape, lambda: np.zeros(shape, np.float32))})


def _as_counted_here(leaves: Tensors) -> Tensors:
    """Stages and units from 1, and the distillation token a register."""

    def ours(name: str) -> str:
        name = re.sub(rf"^{_DISTILLATION}$", "registers", name)
        name = re.sub(rf"^{_BACKBONE}/", "resnet/", name)
        return re.sub(
            r"^(resnet/stage)(\d+)(/unit)(\d+)",
            lambda m: f"{m[1]}{int(m[2]) + 1}{m[3]}{int(m[4]) + 1}",
            name,
        )

    return leaves.renamed({ours(name): name for name in leaves.names})


def _vit_saved(
    leaves: Tensors, arch: VitArchitecture
) -> tuple[Tensors, VitArchitecture]:
    if arch.pre_logits:
        raise errors.UserError(
            "timm leaves out the layer before the head (pre_logits): load the model "
            "with num_classes=0 ... or write another dialect."
        )
    if arch.stem_norm == arch.patch_bias:
        raise errors.UserError(
            f"timm's patches have a bias where no LayerNorm follows them, and only "
            f"there; this {arch.name} has stem_norm={arch.stem_norm} and "
            f"patch_bias={arch.patch_bias}. Write another dialect."
        )
    leaves, arch = pytorch.learned_positions(leaves, arch)
    if arch.pool == "distilled":
        leaves, arch = _distilled_saved(leaves, arch)
    if 0 < arch.positioned < arch.prefix:
        leaves, arch = pytorch.with_positions(leaves, arch, 0)
    if arch.mlp == "swiglu":
        arch = arch.replace(gelu="erf")
    if arch.rope != "none":
        leaves = timm_rotary.saved(leaves, arch)
    else:
        leaves, arch = _with_key_bias(leaves), arch.replace(key_bias=True)
        leaves = _packed(leaves) if arch.mlp == "swiglu" else leaves
    if arch.final_norm == "pooled":
        leaves = pytorch.renamed(leaves, "norm", _FC_NORM)
    return leaves, arch


def _distilled_saved(
    leaves: Tensors, arch: VitArchitecture
) -> tuple[Tensors, VitArchitecture]:
    if arch.registers != 1:
        raise errors.UserError(
            f"a distilled DeiT has one token beside the class token; this {arch.name} "
            f"has registers={arch.registers}. Write another dialect."
        )
    leaves, arch = pytorch.with_positions(leaves, arch, 2)
    names = {_DISTILLATION if n == "registers" else n: n for n in leaves.names}
    return leaves.renamed(names), arch


def _packed(leaves: Tensors) -> Tensors:
    """Gate and up as one."""

    def both(leaf: str) -> Callable[[], np.ndarray]:
        names = [f"blocks/mlp/{part}/{leaf}" for part in ("gate", "up")]
        return lambda: np.concatenate([leaves.read(name) for name in names], -1)

    changes = {}
    for leaf in ("kernel", "bias"):
        *lead, hidden = leaves.shapes[f"blocks/mlp/up/{leaf}"]
        changes[f"blocks/mlp/up/{leaf}"] = ((*lead, 2 * hidden), both(leaf))
    joined = leaves.changed(changes)
    kept = [n for n in joined.names if not n.startswith("blocks/mlp/gate/")]
    return joined.renamed({name: name for name in kept})


_COMMON: dict[str, Any] = {
    "containers": ("safetensors",),
    "leaves_rest": True,
    "preprocessing": timm_config.preprocessing,
    "label_names": timm_config.label_names,
    "label_ids": timm_config.label_ids,
}
DIALECTS: dict[str, Dialect] = {
    "timm": Dialect(
        (*_VIT, *_RESNET, *pytorch.prefixed(_WRAPPER, (*_VIT, *_RESNET))),
        rf"({_WRAPPER})?{timm_zoo.MARKER}",
        fields={"gelu": "erf", "norm_epsilon": 1e-6} | pytorch.SMOOTH,
        says=_vit_says,
        says_heads=False,
        ignore=(r"mask_token",),  # of DINOv2's own files, for masked pre-training
        loaded=_vit_loaded,
        saved=_vit_saved,
        config=timm_config.of_vit,
        **_COMMON,
    ),
    "timm_mixer": Dialect(
        (*_MIXER, *pytorch.prefixed(_WRAPPER, _MIXER)),
        rf"({_WRAPPER})?blocks\.\d+\.mlp_tokens\.fc1\.weight",
        family="mixer",
        fields={"gelu": "erf"},
        says=lambda tensors: timm_config.image_size(tensors.config),
        config=timm_config.of_mixer,
        **_COMMON,
    ),
}
