"""Vision towers of CLIP and SigLIP in transformers.

A file may hold the tower alone or with the text tower beside it, which is left aside.
CLIP projects its class token to the space that it shares with text: those embeddings
are the outputs here, from a head whose bias is zero. SigLIP's output is that of its
attention pooling, and there is no head. Their image classifiers pool the mean of the
patches, CLIP's without the last LayerNorm.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.weights.dialect import Dialect
from vit_jax.weights.dialects import (
    huggingface,
    huggingface_config,
    processors,
    pytorch,
    towers_config,
)
from vit_jax.weights.dialects.pytorch import linear, norm
from vit_jax.weights.rules import Rule, Sizes
from vit_jax.weights.source import Tensors

_BASES = ("vision_model.", "")
_BLOCK = "encoder.layers.{layer}"
# Stands for "head" where there is no bias.
_PROJECTION = "projection"
_VIT = huggingface.DIALECTS["hf_vit"]

_clip_preprocessing = huggingface_config.prepares(
    "CLIP",
    size=(224, 224),
    transform="resize_small_crop",
    resize=224,
    filter="bicubic",
    mean=tuple(255 * value for value in processors.CLIP_MEAN),
    std=tuple(255 * value for value in processors.CLIP_STD),
    rounding="transformers",
)
_siglip_preprocessing = huggingface_config.prepares(
    "Siglip", size=(224, 224), filter="bicubic"
)


def _table(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    return array[None]


def _token(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    return array.reshape(1, 1, -1)


def _row(array: np.ndarray, *, sizes: Sizes) -> np.ndarray:
    return array[0]


def _number(array: np.ndarray, *, sizes: Sizes) -> np.ndarray:
    return array.reshape(-1)


_TOWER = [
    *pytorch.conv("patch_embed", "embeddings.patch_embedding"),
    Rule("posemb", "embeddings.position_embedding.weight", _table, _row),
    *norm("blocks/norm1", f"{_BLOCK}.layer_norm1"),
    *pytorch.into_heads("blocks/attn/query", f"{_BLOCK}.self_attn.q_proj"),
    *pytorch.into_heads("blocks/attn/key", f"{_BLOCK}.self_attn.k_proj"),
    *pytorch.into_heads("blocks/attn/value", f"{_BLOCK}.self_attn.v_proj"),
    *pytorch.out_of_heads("blocks/attn/out", f"{_BLOCK}.self_attn.out_proj"),
    *norm("blocks/norm2", f"{_BLOCK}.layer_norm2"),
    *linear("blocks/mlp/up", f"{_BLOCK}.mlp.fc1"),
    *linear("blocks/mlp/down", f"{_BLOCK}.mlp.fc2"),
    *norm("norm", "post_layernorm"),
]
_CLIP = [
    *_TOWER,
    Rule("cls", "embeddings.class_embedding", _token, _number),
    *norm("stem_norm", "pre_layrnorm"),
]
_FUSED = pytorch.fused(
    ("map/attn/query", "map/attn/key", "map/attn/value"),
    "head.attention.in_proj",
    heads=True,
)
_SIGLIP = [
    *_TOWER,
    Rule("map/probe", "head.probe"),
    *(
        dataclasses.replace(rule, theirs=rule.theirs.replace("in_proj.", "in_proj_"))
        for rule in _FUSED
    ),
    *pytorch.out_of_heads("map/attn/out", "head.attention.out_proj"),
    *norm("map/norm", "head.layernorm"),
    *linear("map/mlp/up", "head.mlp.fc1"),
    *linear("map/mlp/down", "head.mlp.fc2"),
]
# Not of the images' side.
_ASIDE = (
    r"text_model\..*",
    r"text_projection\..*",
    r"logit_(scale|bias)",
    r"(vision_model\.)?embeddings\.position_ids",
)


def _says(tensors: Tensors, kind: str) -> dict[str, Any]:
    for base in _BASES:
        patch = tensors.shapes.get(f"{base}embeddings.patch_embedding.weight")
        if patch is not None and len(patch) != 4:
            raise errors.UserError(
                f"its patches are embedded by a tensor {patch}, as a SigLIP 2 for "
                "images of any shape (NaFlex) does; there is none here. Take one of a "
                "fixed size, e.g. siglip2-base-patch16-224."
            )
    config = towers_config.vision(tensors, kind)
    if config is None:
        if kind == "clip":
            logging.warning(
                "%s: no config.json says which GELU this CLIP has: OpenAI's "
                "x * sigmoid(1.702 x) is taken. Pass gelu='erf' for the exact one.",
                tensors.label,
            )
        return {}
    act = config["hidden_act"]
    if not pytorch.is_one_of(act, huggingface_config.GELUS):
        raise errors.UserError(
            f"config.json: hidden_act={str(act)[:50]!r}; ours: "
            f"{', '.join(huggingface_config.GELUS)}."
        )
    found = {
        "gelu": huggingface_config.GELUS[act],
        "heads": pytorch.whole(config, "num_attention_heads"),
        "norm_epsilon": pytorch.number(config, "layer_norm_eps"),
        "image_size": pytorch.size_of(config, "image_size"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _clip_says(tensors: Tensors) -> dict[str, Any]:
    pool = "mean" if "classifier.weight" in tensors.shapes else "token"
    return {"pool": pool} | _says(tensors, "clip")


def _siglip_says(tensors: Tensors) -> dict[str, Any]:
    if "classifier.weight" in tensors.shapes:
        pool = "mean"
    else:
        pooled = any(f"{base}head.probe" in tensors.shapes for base in _BASES)
        pool = "map" if pooled else "none"
    return {"pool": pool} | _says(tensors, "siglip")


def _without(leaves: Tensors, start: str, why: str) -> Tensors:
    """Leaves out what a model has and does not use, and says so."""
    dropped = [name for name in leaves.names if name.startswith(start)]
    if dropped:
        logging.info(
            "%s: %d tensors (%s) are not read: %s.",
            *(leaves.label, len(dropped), start, why),
        )
    return leaves.renamed({n: n for n in leaves.names if n not in dropped})


def _clip_loaded(leaves: Tensors) -> Tensors:
    if "head/kernel" in leaves.shapes:
        return _without(leaves, "norm/", "the classifier reads what comes before it")
    name = f"{_PROJECTION}/kernel"
    if name not in leaves.shapes:
        return leaves
    outputs = leaves.shapes[name][-1]
    logging.info(
        "%s: its %d outputs are embeddings of images, not classes.",
        *(leaves.label, outputs),
    )
    bias = {"head/bias": ((outputs,), lambda: np.zeros(outputs, np.float32))}
    return pytorch.renamed(leaves, _PROJECTION, "head").changed(bias)


def _siglip_loaded(leaves: Tensors) -> Tensors:
    if "head/kernel" not in leaves.shapes:
        return leaves
    return _without(leaves, "map/", "the classifier reads the mean of the patches")


def _check(arch: VitArchitecture, kind: str, wanted: Mapping[str, Any]) -> None:
    for field, value in wanted.items():
        if getattr(arch, field) != value:
            raise errors.UserError(
                f"a {kind} has {field}={value!r}; this {arch.name} has "
                f"{getattr(arch, field)!r}. Write another dialect."
            )


def _clip_saved(
    leaves: Tensors, arch: VitArchitecture
) -> tuple[Tensors, VitArchitecture]:
    _check(arch, "CLIP", {"stem_norm": True, "patch_bias": False, "class_token": "yes"})
    leaves, arch = pytorch.learned_positions(leaves, arch)
    leaves, arch = pytorch.with_positions(leaves, arch, 1)
    if arch.pool == "mean" and arch.num_classes:
        _check(arch, "CLIP's classifier", {"final_norm": "none"})
        width = (arch.width,)  # its readers expect the norm, if only to have it
        unused = {
            "norm/scale": (width, lambda: np.ones(width, np.float32)),
            "norm/bias": (width, lambda: np.zeros(width, np.float32)),
        }
        return leaves.changed(unused), arch
    if not arch.num_classes:
        return leaves, arch
    if leaves.read("head/bias").any():
        raise errors.UserError(
            f"a CLIP's outputs have no bias; the head of this {arch.name} has one. "
            "Take it off (num_classes=0), or write another dialect."
        )
    names = {n: n for n in leaves.names if n != "head/bias"}
    return pytorch.renamed(leaves.renamed(names), "head", _PROJECTION), arch


def _siglip_saved(
    leaves: Tensors, arch: VitArchitecture
) -> tuple[Tensors, VitArchitecture]:
    wanted = {"stem_norm": False, "patch_bias": True, "class_token": "no"}
    _check(arch, "SigLIP", wanted)
    return pytorch.learned_positions(leaves, arch)


def _rules(tower: list[Rule]) -> tuple[Rule, ...]:
    """The outputs, and the tower under each base, the first of which is written."""
    return (
        *linear("head", "classifier"),
        *linear(_PROJECTION, "visual_projection"),
        *(rule for base in _BASES for rule in pytorch.prefixed(base, tower)),
    )


_PATCHES = r"(vision_model\.)?embeddings\.patch_embedding\.weight"
# Before those of `huggingface`, whose markers their files have as well.
DIALECTS: dict[str, Dialect] = {
    "hf_clip": dataclasses.replace(
        _VIT,
        rules=_rules(_CLIP),
        marker=r"(vision_model\.)?pre_layrnorm\.weight",
        fields={**_VIT.fields, "gelu": "quick", "norm_epsilon": 1e-5},
        ignore=_ASIDE,
        says=_clip_says,
        loaded=_clip_loaded,
        saved=_clip_saved,
        preprocessing=_clip_preprocessing,
        problem=towers_config.problem_of_clip,
        says_problem=lambda problem: {},  # its architectures say it
        config=towers_config.of_clip,
    ),
    "hf_siglip": dataclasses.replace(
        _VIT,
        rules=_rules(_SIGLIP),
        marker=_PATCHES,
        fields={
            **_VIT.fields,
            "gelu": "tanh",
            "norm_epsilon": 1e-6,
            "prefix_positions": 0,
        },
        ignore=_ASIDE,
        says=_siglip_says,
        loaded=_siglip_loaded,
        saved=_siglip_saved,
        preprocessing=_siglip_preprocessing,
        config=towers_config.of_siglip,
    ),
}
