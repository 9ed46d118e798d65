"""Vision Transformers of Hugging Face's transformers: ViT, DeiT, DINOv2.

Files on the hub have one spelling of the blocks' names and transformers 5 has another
in memory; both are read, the hub's is written, which every version reads. A model
without a head may have its names without the first part ("vit."). Beside the weights
lie `config.json` and `preprocessor_config.json`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.weights.dialect import Dialect
from vit_jax.weights.dialects import huggingface_config, huggingface_outputs, pytorch
from vit_jax.weights.dialects.pytorch import linear, norm
from vit_jax.weights.rules import Rule, Sizes
from vit_jax.weights.source import Tensors

_HUB = "encoder.layer.{layer}"
# Stands for "blocks/mlp" in a model of SwiGLUs, so that a leaf has one rule to be
# written by.
_GATED = "blocks/gated"


def _qkv(theirs: Mapping[str, str]) -> list[Rule]:
    rules = []
    for part in ("query", "key", "value"):
        rules += pytorch.into_heads(f"blocks/attn/{part}", theirs[part])
    return rules + pytorch.out_of_heads("blocks/attn/out", theirs["out"])


def _attention(block: str) -> list[Rule]:
    """On the hub and, second, in memory."""
    attention = f"{block}.attention"
    parts = ("query", "key", "value")
    return [
        *_qkv(
            {part: f"{attention}.attention.{part}" for part in parts}
            | {"out": f"{attention}.output.dense"}
        ),
        *_in_memory(block),
    ]


def _in_memory(block: str) -> list[Rule]:
    parts = {"query": "q", "key": "k", "value": "v", "out": "o"}
    return _qkv({o: f"{block}.attention.{p}_proj" for o, p in parts.items()})


def _mlp(block: str) -> list[Rule]:
    return [
        *linear("blocks/mlp/up", f"{block}.mlp.fc1"),
        *linear("blocks/mlp/down", f"{block}.mlp.fc2"),
    ]


def _row(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    return array.reshape(1, 1, -1)


def _without_axis(array: np.ndarray, *, sizes: Sizes) -> np.ndarray:
    return array[0]


_EMBEDDINGS = [
    Rule("cls", "embeddings.cls_token"),
    Rule("posemb", "embeddings.position_embeddings"),
    *pytorch.conv("patch_embed", "embeddings.patch_embeddings.projection"),
    *norm("norm", "layernorm"),
]
_POOLER = linear("pre_logits", "pooler.dense")
_VIT = [
    *_EMBEDDINGS,
    Rule("mask_token", "embeddings.mask_token"),
    *_POOLER,
    *norm("blocks/norm1", f"{_HUB}.layernorm_before"),
    *_attention(_HUB),
    *norm("blocks/norm2", f"{_HUB}.layernorm_after"),
    *linear("blocks/mlp/up", f"{_HUB}.intermediate.dense"),
    *linear("blocks/mlp/down", f"{_HUB}.output.dense"),
    # In memory.
    *norm("blocks/norm1", "layers.{layer}.layernorm_before"),
    *_in_memory("layers.{layer}"),
    *norm("blocks/norm2", "layers.{layer}.layernorm_after"),
    *_mlp("layers.{layer}"),
]
_DEIT = [*_VIT, Rule("registers", "embeddings.distillation_token")]
_DINOV2 = [
    *_EMBEDDINGS,
    Rule("mask_token", "embeddings.mask_token", _row, _without_axis),
    *norm("blocks/norm1", f"{_HUB}.norm1"),
    *_attention(_HUB),
    Rule("blocks/scale1", f"{_HUB}.layer_scale1.lambda1"),
    *norm("blocks/norm2", f"{_HUB}.norm2"),
    *_mlp(_HUB),
    *pytorch.fused(
        (f"{_GATED}/gate", f"{_GATED}/up"), f"{_HUB}.mlp.weights_in", heads=False
    ),
    *linear(f"{_GATED}/down", f"{_HUB}.mlp.weights_out"),
    Rule("blocks/scale2", f"{_HUB}.layer_scale2.lambda1"),
    # In memory.
    *linear(f"{_GATED}/gate", f"{_HUB}.mlp.gate_proj"),
    *linear(f"{_GATED}/up", f"{_HUB}.mlp.up_proj"),
    *linear(f"{_GATED}/down", f"{_HUB}.mlp.down_proj"),
]
_REGISTERS = [*_DINOV2, Rule("registers", "embeddings.register_tokens")]


def _vit_says(tensors: Tensors) -> dict[str, Any]:
    return {"pool": "token"} | huggingface_config.says(tensors, ("vit", "vit_msn"))


def _deit_says(tensors: Tensors) -> dict[str, Any]:
    return {"pool": "token"} | huggingface_config.says(tensors, ("deit",))


def _dinov2_says(tensors: Tensors) -> dict[str, Any]:
    width = next(
        (s[-1] for n, s in tensors.shapes.items() if n.endswith("cls_token") and s), 0
    )
    # All that were released have heads of 64.
    heads = width // 64 or None
    pool = "token_mean" if "classifier.weight" in tensors.shapes else "token"
    said = {"pool": pool} | huggingface_config.says(
        tensors, ("dinov2", "dinov2_with_registers"), heads=heads
    )
    return said | pytorch.square_table(tensors.shapes, said)


def _dinov2_loaded(leaves: Tensors) -> Tensors:
    return pytorch.renamed(leaves, _GATED, "blocks/mlp")


def _vit_saved(
    leaves: Tensors, arch: VitArchitecture, positions: int = 1
) -> tuple[Tensors, VitArchitecture]:
    if arch.pre_logits and arch.num_classes:
        raise errors.UserError(
            "transformers has no ViT with both a layer before the head (pre_logits) "
            "and a head: take one of them off, or write another dialect."
        )
    leaves, arch = pytorch.learned_positions(leaves, arch)
    return pytorch.with_positions(leaves, arch, positions)


def _deit_saved(
    leaves: Tensors, arch: VitArchitecture
) -> tuple[Tensors, VitArchitecture]:
    if arch.registers != 1:
        raise errors.UserError(
            f"a DeiT has one token beside the class token; this {arch.name} has "
            f"registers={arch.registers}. Write another dialect."
        )
    return _vit_saved(leaves, arch, positions=2)


def _dinov2_saved(
    leaves: Tensors, arch: VitArchitecture
) -> tuple[Tensors, VitArchitecture]:
    leaves, arch = pytorch.learned_positions(leaves, arch)
    leaves, arch = pytorch.with_positions(leaves, arch, 1)
    pytorch.check_square(arch, "transformers' DINOv2")
    if arch.mlp == "swiglu":
        return pytorch.renamed(leaves, "blocks/mlp", _GATED), arch.replace(gelu="erf")
    return leaves, arch


def _registers_saved(
    leaves: Tensors, arch: VitArchitecture
) -> tuple[Tensors, VitArchitecture]:
    leaves, arch = _dinov2_saved(leaves, arch)
    if arch.mask_token:
        return leaves, arch
    # Its readers expect one, if only to have it.
    shape = (1, 1, arch.width)
    token = {"mask_token": (shape, lambda: np.zeros(shape, np.float32))}
    return leaves.changed(token), arch.replace(mask_token=True)


_IMAGENET: dict[str, Any] = {
    "size": (224, 224),
    "filter": "bicubic",
    "mean": pytorch.IMAGENET_MEAN,
    "std": pytorch.IMAGENET_STD,
    "rounding": "transformers",
}
_vit_preprocessing = huggingface_config.prepares(
    "ViT", size=(224, 224), filter="bilinear"
)
_deit_preprocessing = huggingface_config.prepares(
    "DeiT", transform="resize_crop", resize=(256, 256), **_IMAGENET
)
_dinov2_preprocessing = huggingface_config.prepares(
    *("Bit",),
    takes_any_size=True,
    transform="resize_small_crop",
    resize=256,
    **_IMAGENET,
)


def _rules(parts: list[Rule], *bases: str) -> tuple[Rule, ...]:
    """The head, and the rest under each base, the first of which is written."""
    return (*linear("head", "classifier"), *_under(parts, *bases))


def _under(parts: list[Rule], *bases: str) -> list[Rule]:
    return [rule for base in bases for rule in pytorch.prefixed(base, parts)]


def _distilled_says(tensors: Tensors) -> dict[str, Any]:
    return _deit_says(tensors) | {"pool": "distilled"}


def _distilled_saved(
    leaves: Tensors, arch: VitArchitecture
) -> tuple[Tensors, VitArchitecture]:
    if not arch.num_classes:
        raise errors.UserError(
            f"a DeiT of two heads has them; this {arch.name} has num_classes=0. Write "
            "another dialect."
        )
    return _deit_saved(leaves, arch)


def _distilled_config(
    arch: VitArchitecture,
    preprocessing: Preprocessing | None,
    label_names: tuple[str, ...] | None,
) -> dict[str, Any]:
    config = huggingface_config.of_deit(arch, preprocessing, label_names)
    return config | {"architectures": ["DeiTForImageClassificationWithTeacher"]}


_FIELDS = {"gelu": "erf", "norm_epsilon": 1e-12, "prefix_positions": 1} | pytorch.SHARP
_COMMON: dict[str, Any] = {
    "leaves_rest": True,
    "says_heads": False,
    "containers": ("safetensors",),
    "label_names": huggingface_outputs.label_names,
    "problem": huggingface_outputs.problem,
    "says_problem": huggingface_outputs.says_problem,
}
DIALECTS: dict[str, Dialect] = {
    # Before those whose markers its files have as well.
    "hf_deit_distilled": Dialect(
        (
            *linear("head", "cls_classifier"),
            *linear("head_dist", "distillation_classifier"),
            *_under(_DEIT, "deit.", ""),
        ),
        r"distillation_classifier\.weight",
        fields=_FIELDS | {"prefix_positions": 2},
        says=_distilled_says,
        saved=_distilled_saved,
        preprocessing=_deit_preprocessing,
        config=_distilled_config,
        **_COMMON,
    ),
    "hf_deit": Dialect(
        _rules(_DEIT, "deit.", ""),
        r"(deit\.)?embeddings\.distillation_token",
        fields=_FIELDS | {"prefix_positions": 2},
        says=_deit_says,
        saved=_deit_saved,
        preprocessing=_deit_preprocessing,
        config=huggingface_config.of_deit,
        **_COMMON,
    ),
    "hf_dinov2_with_registers": Dialect(
        _rules(_REGISTERS, "dinov2_with_registers.", ""),
        r"(dinov2_with_registers\.)?embeddings\.register_tokens",
        fields=_FIELDS | {"norm_epsilon": 1e-6} | pytorch.SMOOTH,
        says=_dinov2_says,
        loaded=_dinov2_loaded,
        saved=_registers_saved,
        preprocessing=_dinov2_preprocessing,
        config=huggingface_config.of_dinov2,
        **_COMMON,
    ),
    "hf_dinov2": Dialect(
        _rules(_DINOV2, "dinov2.", ""),
        r"(dinov2\.)?encoder\.layer\.\d+\.layer_scale1\.lambda1",
        fields=_FIELDS | {"norm_epsilon": 1e-6},
        says=_dinov2_says,
        loaded=_dinov2_loaded,
        saved=_dinov2_saved,
        preprocessing=_dinov2_preprocessing,
        config=huggingface_config.of_dinov2,
        **_COMMON,
    ),
    "hf_vit": Dialect(
        _rules(_VIT, "vit.", ""),
        r"(vit\.)?embeddings\.cls_token",
        fields=_FIELDS,
        says=_vit_says,
        saved=_vit_saved,
        preprocessing=_vit_preprocessing,
        config=huggingface_config.of_vit,
        **_COMMON,
    ),
}
