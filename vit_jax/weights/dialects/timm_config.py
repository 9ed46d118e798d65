"""A `config.json` of timm, read and written, but for what `timm_zoo` knows of models.

It names an architecture, with the arguments that differ from it, and has all else of a
checkpoint in its `pretrained_cfg`; how images are prepared, `timm_data` reads there.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.models import mixer, variants
from vit_jax.models.mixer import MixerArchitecture
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.weights import outputs
from vit_jax.weights.dialect import Config
from vit_jax.weights.dialects import pytorch, timm_data, timm_rotary, timm_zoo
from vit_jax.weights.dialects.timm_zoo import part


def image_size(config: Config | None) -> dict[str, Any]:
    """Returns {"image_size": the one it was trained at}, {} if nothing says it."""
    size = pytorch.size_of(part(config, "model_args"), "img_size")
    if size is None:
        size = _input_size(config)
    return {} if size is None else {"image_size": size}


def _input_size(config: Config | None) -> tuple[int, int] | None:
    """Of images that it is evaluated on."""
    prepared = _prepared(config)
    channels = prepared["input_size"] if "input_size" in prepared else None
    if not isinstance(channels, list | tuple) or len(channels) != 3:
        return None
    return pytorch.size_of({"input_size": list(channels[1:])}, "input_size")


def _prepared(config: Config | None) -> Mapping[str, Any]:
    """Its `pretrained_cfg`; the older configs are one."""
    return part(config, "pretrained_cfg") or config or {}


def preprocessing(arch: Any, config: Config | None) -> Preprocessing:
    """Returns how timm evaluates a model."""
    said = None if config is None else _prepared(config)
    return timm_data.read(said, arch.image_size)


def label_ids(config: Config | None) -> tuple[str, ...] | None:
    """Returns the names of the classes; older files have them under "labels"."""
    said = {**(config or {}), **_prepared(config)}
    key = next((key for key in ("label_names", "labels") if key in said), None)
    return None if key is None else outputs.names(said[key], f"config.json: {key}")


def label_names(config: Config | None) -> tuple[str, ...] | None:
    """Returns what the classes are described as, else their names."""
    said = {**(config or {}), **_prepared(config)}
    described = said.get("label_descriptions")
    described = described if isinstance(described, Mapping) else {}
    listed = label_ids(config)
    return listed and tuple(str(described.get(name, name)) for name in listed)


# Size in ours -> in timm's names, and the patches it has there at 224 pixels.
_SIZES = {
    "Ti": ("tiny", (16,)),
    "S": ("small", (8, 16, 32)),
    "B": ("base", (8, 16, 32)),
    "L": ("large", (14, 16, 32)),
    "H": ("huge", (14,)),
    "g": ("giant", (14,)),
    "G": ("gigantic", (14,)),
}


def _architecture_name(arch: VitArchitecture) -> str:
    """The nearest of the zoo; the arguments say all that differs from it."""
    if arch.rope != "none":
        return timm_rotary.architecture_name(arch)
    if arch.norm == "post":
        return "vit_base_patch16_rpn_224"
    if arch.pool == "distilled":
        return "deit_base_distilled_patch16_224"
    if arch.stem_norm:
        quick = "quickgelu_" if arch.gelu == "quick" else ""
        return f"vit_base_patch16_clip_{quick}224"
    if arch.mlp == "swiglu":
        return "vit_giant_patch14_dinov2"
    size = (arch.width, arch.depth, arch.mlp_width, arch.heads)
    for ours, (theirs, patches) in _SIZES.items():
        known = variants.SIZES[ours]
        if size == (known.width, known.depth, known.mlp_width, known.heads):
            if arch.patch[0] in patches and arch.patch[0] == arch.patch[1]:
                return f"vit_{theirs}_patch{arch.patch[0]}_224"
    return "vit_base_patch16_224"


def of_vit(
    arch: VitArchitecture,
    preprocessing: Preprocessing | None,
    label_names: tuple[str, ...] | None,
) -> dict[str, Any]:
    """Returns the config of a Vision Transformer."""
    swiglu = arch.mlp == "swiglu"
    pools = {ours: theirs for theirs, ours in timm_zoo.POOLS.items()}
    pool = pools[arch.pool] if arch.pool in pools else "token"
    acts = {ours: theirs for theirs, ours in timm_zoo.GELUS.items()}
    arguments = {
        "img_size": list(arch.image_size),
        "in_chans": arch.channels,
        "patch_size": pytorch.side(arch.patch),
        "global_pool": pool,
        "embed_dim": arch.width,
        "depth": arch.depth,
        "num_heads": arch.heads,
        "mlp_ratio": pytorch.ratio(arch.width, arch.mlp_width * (1 + swiglu)),
        "qkv_bias": arch.qkv_bias,
        "qk_norm": arch.qk_norm,
        "init_values": (arch.layer_scale or None) if arch.norm == "pre" else None,
        "class_token": arch.has_class_token,
        "pos_embed": "learn" if arch.posemb == "learned" else "none",
        "no_embed_class": arch.positioned == 0 and arch.prefix > 0,
        "reg_tokens": arch.registers - (arch.pool == "distilled"),
        "final_norm": arch.final_norm != "none",
        "pool_include_prefix": arch.pool == "map" and arch.prefix > 0,
        "fc_norm": arch.final_norm == "pooled",
        "act_layer": "silu" if swiglu else acts[arch.gelu],
    }
    if arch.rope != "none":
        arguments = timm_rotary.arguments(arch, arguments)
    return {
        "architecture": _architecture_name(arch),
        "num_classes": arch.num_classes,
        "num_features": arch.width,
        "global_pool": pool,
        "pretrained_cfg": pretrained(arch, preprocessing, "patch_embed.proj"),
        "model_args": arguments,
        **({} if label_names is None else {"label_names": list(label_names)}),
    }


def pretrained(
    arch: Any, preprocessing: Preprocessing | None, first: str
) -> dict[str, Any]:
    """Returns what timm calls `pretrained_cfg`; `first` is its first layer."""
    said = preprocessing or Preprocessing(arch.image_size)
    return {
        "num_classes": arch.num_classes,
        **timm_data.write(said),
        "input_size": [arch.channels, *said.image_size],
        "first_conv": first,
        "classifier": "head",
    }


# Those it has at 224 pixels; their sizes are no arguments.
_MIXERS = ("S/16", "S/32", "B/16", "B/32", "L/16", "L/32")


def of_mixer(
    arch: MixerArchitecture,
    preprocessing: Preprocessing | None,
    label_names: tuple[str, ...] | None,
) -> dict[str, Any]:
    """Returns the config of a Mixer."""
    arguments: dict[str, Any] = {
        "img_size": list(arch.image_size),
        "in_chans": arch.channels,
    }
    size = _named(arch)
    name = f"mixer_{size.replace('/', '').lower()}_224" if size in _MIXERS else ""
    if not name:
        logging.warning(
            "timm has no named Mixer like this %s: its users make it with "
            "timm.models.MlpMixer(**model_args) of the config.json.",
            arch.name,
        )
        widths = (arch.tokens_mlp_width, arch.channels_mlp_width)
        arguments |= {
            "patch_size": pytorch.side(arch.patch),
            "num_blocks": arch.depth,
            "embed_dim": arch.width,
            "mlp_ratio": [pytorch.ratio(arch.width, hidden) for hidden in widths],
        }
    return {
        "architecture": name or "MlpMixer",
        "num_classes": arch.num_classes,
        "num_features": arch.width,
        "pretrained_cfg": pretrained(arch, preprocessing, "stem.proj"),
        "model_args": arguments,
        **({} if label_names is None else {"label_names": list(label_names)}),
    }


def _named(arch: MixerArchitecture) -> str:
    """The size and patch of a Mixer, e.g. "B/16"; "" if it has no name."""
    size = mixer.Size(
        *(getattr(arch, field.name) for field in dataclasses.fields(mixer.Size))
    )
    name = next((name for name, known in mixer.SIZES.items() if known == size), "")
    return f"{name}/{arch.patch[0]}" if name and len(set(arch.patch)) == 1 else ""
