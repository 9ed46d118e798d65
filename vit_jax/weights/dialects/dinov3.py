"""DINOv3 in transformers: rotary positions, registers, keys without a bias.

It has no classifier there. The 7B has no biases of queries and values, the ones called
"plus" and the 7B have SwiGLUs. Files on the hub have names without the "model." that
transformers 5 has in memory; both are read, the hub's are written.
"""

from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.weights.dialect import Dialect
from vit_jax.weights.dialects import huggingface, huggingface_config, pytorch
from vit_jax.weights.dialects.pytorch import linear, norm
from vit_jax.weights.rules import Rule
from vit_jax.weights.source import Tensors

_VIT = huggingface.DIALECTS["hf_vit"]
_MODEL_TYPE = "dinov3_vit"
# Of the published models; none of them has heads of another width.
_HEADS_OF_7B, _WIDTH_OF_7B, _HEAD_WIDTH = 32, 4096, 64


def _blocks(block: str) -> list[Rule]:
    attention, mlp = f"{block}.attention", f"{block}.mlp"
    return [
        *norm("blocks/norm1", f"{block}.norm1"),
        *pytorch.into_heads("blocks/attn/query", f"{attention}.q_proj"),
        *pytorch.into_heads("blocks/attn/key", f"{attention}.k_proj"),
        *pytorch.into_heads("blocks/attn/value", f"{attention}.v_proj"),
        *pytorch.out_of_heads("blocks/attn/out", f"{attention}.o_proj"),
        Rule("blocks/scale1", f"{block}.layer_scale1.lambda1"),
        *norm("blocks/norm2", f"{block}.norm2"),
        *linear("blocks/mlp/gate", f"{mlp}.gate_proj"),
        *linear("blocks/mlp/up", f"{mlp}.up_proj"),
        *linear("blocks/mlp/down", f"{mlp}.down_proj"),
        Rule("blocks/scale2", f"{block}.layer_scale2.lambda1"),
    ]


_RULES = (
    Rule("cls", "embeddings.cls_token"),
    Rule("registers", "embeddings.register_tokens"),
    Rule("mask_token", "embeddings.mask_token"),
    *pytorch.conv("patch_embed", "embeddings.patch_embeddings"),
    *_blocks("layer.{layer}"),
    *norm("norm", "norm"),
    *_blocks("model.layer.{layer}"),  # in memory
)


def _says(tensors: Tensors) -> dict[str, Any]:
    gated = any(name.endswith("mlp.gate_proj.weight") for name in tensors.names)
    width = tensors.shapes.get("embeddings.cls_token", (0,))[-1]
    heads = _HEADS_OF_7B if width == _WIDTH_OF_7B else width // _HEAD_WIDTH or None
    said = huggingface_config.says(
        tensors,
        (_MODEL_TYPE,),
        heads=heads,
        acts={"silu": "erf"} if gated else huggingface_config.GELUS,
    )
    base = pytorch.number(tensors.config or {}, "rope_theta")
    return said if base is None else said | {"rope_base": base}


def _loaded(leaves: Tensors) -> Tensors:
    """Without registers the file has a tensor of none."""
    if leaves.shapes.get("registers", (1, 1))[1]:
        return leaves
    return leaves.renamed({n: n for n in leaves.names if n != "registers"})


def _saved(leaves: Tensors, arch: VitArchitecture) -> tuple[Tensors, VitArchitecture]:
    if arch.num_classes:
        raise errors.UserError(
            f"transformers' DINOv3 has no head; this {arch.name} has num_classes="
            f"{arch.num_classes}. Take it off (num_classes=0), or write --dialect=timm."
        )
    # Its readers expect both, if only to have them.
    token, none = (1, 1, arch.width), (1, 0, arch.width)
    more: dict[str, Any] = {}
    if not arch.mask_token:
        more["mask_token"] = (token, lambda: np.zeros(token, np.float32))
    if not arch.registers:
        more["registers"] = (none, lambda: np.zeros(none, np.float32))
    if arch.mlp == "swiglu":
        arch = arch.replace(gelu="erf")
    return leaves.changed(more), arch.replace(mask_token=True)


def _config(
    arch: VitArchitecture,
    preprocessing: Preprocessing | None,
    label_names: tuple[str, ...] | None,
) -> dict[str, Any]:
    config = huggingface_config.write(
        *(arch, preprocessing, label_names),
        model_type=_MODEL_TYPE,
        classifier="DINOv3ViTModel",
        bare="DINOv3ViTModel",
        intermediate_size=arch.mlp_width,
        use_gated_mlp=arch.mlp == "swiglu",
        num_register_tokens=arch.registers,
        rope_theta=arch.rope_base,
        query_bias=arch.qkv_bias,
        key_bias=arch.qkv_bias and arch.key_bias,
        value_bias=arch.qkv_bias,
        layerscale_value=1.0,
        attention_dropout=0.0,
    )
    if arch.mlp == "swiglu":
        config["hidden_act"] = "silu"
    others = ("qkv_bias", "hidden_dropout_prob", "attention_probs_dropout_prob")
    return {key: value for key, value in config.items() if key not in others}


DIALECT = Dialect(
    _RULES,
    r"(model\.)?layer\.\d+\.attention\.q_proj\.weight",
    fields={
        **{"gelu": "erf", "norm_epsilon": 1e-5, "pool": "token"},
        **{"posemb": "none", "rope": "dinov3", "rope_base": 100.0},
    },
    says=_says,
    says_heads=False,
    leaves_rest=True,
    loaded=_loaded,
    saved=_saved,
    containers=_VIT.containers,
    preprocessing=huggingface_config.prepares(
        *("DINOv3ViT",),
        size=(224, 224),
        filter="tensor_bilinear",
        mean=pytorch.IMAGENET_MEAN,
        std=pytorch.IMAGENET_STD,
    ),
    label_names=_VIT.label_names,
    problem=_VIT.problem,
    config=_config,
    says_problem=_VIT.says_problem,
)
