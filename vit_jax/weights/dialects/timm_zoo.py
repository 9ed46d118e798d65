"""What the models of timm's zoo are, where their tensors do not say it.

A `config.json` names an architecture of the zoo and has the arguments that differ from
it. Two networks of the zoo may have the same names and shapes and be other functions:
what has the tensors of a plain Vision Transformer and is none is refused here, by name.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

from vit_jax import errors
from vit_jax.weights.dialect import Config
from vit_jax.weights.dialects import pytorch, timm_rotary

Shapes = Mapping[str, tuple[int, ...]]

# What an architecture has and neither tensors nor config say; all rows that fit count.
_ZOO: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"vit_so400m_patch16_siglip.*", {"heads": 16, "gelu": "tanh"}),
    (r"vit_giantopt_patch16_siglip.*", {"heads": 16, "gelu": "tanh"}),
    (r"vit_base_patch32_siglip.*", {"gelu": "tanh"}),
    (r"vit_large_patch16_siglip.*_512", {"gelu": "tanh"}),
    (r"(vit|deit3)_(huge|gigantic|so400m)_.*", {"heads": 16}),
    (r"vit_giant_patch14_224|vit_giant_patch16_gap_224", {"heads": 16}),
    (r"vit_base_patch16_gap_224", {"heads": 16}),
    (r"vit_base_patch16_rpn_224", {"norm": "post"}),
    (r"vit_.*_clip_.*", {"norm_epsilon": 1e-5}),
    (r"vit_giant_patch14_clip_.*", {"heads": 16}),
    (r"vit_.*_clip_quickgelu_.*", {"gelu": "quick"}),
    (r"eva_giant_.*", {"heads": 16}),
    (r"eva02_enormous_.*", {"heads": 16, "norm": "post"}),
    (r"test_vit[24]?", {"heads": 2}),
    # As its weights are loaded for another size.
    (r"flexivit_.*", {"posemb_resample": "bilinear"}),
)
# Its other architectures' heads are 64 wide.
_IN_ZOO = r"(vit|deit3?|flexivit|eva|eva02)_.*"
# These have no tensors of their own for their positions.
_ROTARY = r"_rope_|_dinov3|_lingbot|_sapiens2|^vit_pe_|^eva02_(?!enormous_)"
# Of those whose queries and values alone have biases, the ones without rotation.
_SPLIT_BIAS = r"eva_giant_.*|eva02_enormous_.*"
_POOLS_PREFIX = "test_vit3"

# Tensors of blocks and stems that are other functions than ours.
_OTHERS: tuple[tuple[str, str], ...] = (
    (r"blocks\.\d+\.attn\.lambda_.*", "with differential attention"),
    (r"blocks\.\d+\.in_proj\..*", "whose blocks run attention and MLP side by side"),
    (r"blocks\.\d+\.attns\..*", "whose blocks run several attentions side by side"),
    (r"blocks\.\d+\.(attn|mlp)\.norm\..*", "with norms inside attention and MLP"),
    (r"(blocks\.\d+\.attn\.)?(shared_)?rel(ative)?_pos.*", "with relative positions"),
    (r"blocks\.\d+\.attn\.q_proj\..*", "with q_proj apart, as its rotary EVAs"),
    (r"patch_embed\.backbone\..*running_mean", "with batch norms before the patches"),
)
# Of attention, by which a file is known to be one of timm's.
MARKER = r"blocks\.\d+\.(attn\.(qkv|q_proj)|in_proj|attns\.\d+\.(attn\.)?qkv)\.weight"

REGISTERS = ("reg_token", "register_tokens", "dist_token")
_TOKENS = ("cls_token", "pos_embed", *REGISTERS)
POOLS = {"token": "token", "avg": "mean", "map": "map", "": "none"}
GELUS = {"gelu": "erf", "gelu_tanh": "tanh", "quick_gelu": "quick"}
_SILUS = ("silu", "swish")


def part(config: Config | None, key: str) -> Mapping[str, Any]:
    """Returns an object in a config, empty where there is none."""
    found = config[key] if config is not None and key in config else None
    return found if isinstance(found, Mapping) else {}


def argument(config: Config | None, key: str) -> Any:
    """Returns an argument of the model, which may stand at a config's top as well."""
    for values in (part(config, "model_args"), config or {}):
        if key in values:
            return values[key]
    return None


def refused(what: str, do: str = "Only timm itself can run it.") -> errors.UserError:
    """Returns the error that says what a model has."""
    return errors.UserError(f"it is a timm model {what}; there is none here. {do}")


def fields(config: Config | None, shapes: Shapes) -> dict[str, Any]:
    """Returns the fields of the architecture that its name and arguments give.

    Args:
        config: The `config.json`, if there is one.
        shapes: Of the tensors, in timm's names.

    Raises:
        errors.UserError: a network that is not one of ours.
    """
    zoo = _architecture(config)
    turns = rotary(config)
    _refuse_others(config, shapes, zoo, turns is not None)
    found: dict[str, Any] = dict(turns or {})
    for regex, values in _ZOO:
        if re.fullmatch(regex, zoo):
            found |= values
    if any(name.startswith("patch_embed.backbone.") for name in shapes):
        found["resnet_style"] = "timm"
    if "norm_pre.weight" in shapes and not zoo:
        found |= _of_a_nameless_clip(config)
    if "mask_token" in shapes and "register_tokens" not in shapes:
        found["posemb_resample"] = "bicubic_offset"  # DINOv2's own file
    width = next((s[-1] for n, s in shapes.items() if n in _TOKENS and s), 0)
    heads = pytorch.whole(part(config, "model_args"), "num_heads")
    if heads is not None:
        found["heads"] = heads
    elif "heads" not in found and re.fullmatch(_IN_ZOO, zoo) and width >= 64:
        found["heads"] = width // 64
    return found | _activation(config, _is_swiglu(shapes)) | _pool(config, shapes)


def _architecture(config: Config | None) -> str:
    """Its name without a tag."""
    return str(argument(config, "architecture") or "").partition(".")[0]


def rotary(config: Config | None) -> dict[str, Any] | None:
    """Returns the fields of a model with rotary positions; None: with none of ours."""
    zoo = _architecture(config)
    if not timm_rotary.is_known(zoo):
        return None
    return timm_rotary.fields(zoo, {**(config or {}), **part(config, "model_args")})


def _of_a_nameless_clip(config: Config | None) -> dict[str, Any]:
    """Of a CLIP tower whose name is not known."""
    if argument(config, "act_layer") is None:
        logging.warning(
            "it is a CLIP tower and no config.json names its architecture: its GELU is "
            "taken for the exact one. OpenAI's and some others are gelu='quick'."
        )
    return {"norm_epsilon": 1e-5}


def prefix(shapes: Shapes) -> int:
    """Returns how many tokens come before the patches."""
    registers = [shapes[name] for name in REGISTERS if name in shapes]
    counts = [shape[1] for shape in registers if len(shape) == 3]
    return ("cls_token" in shapes) + sum(counts)


def positions(shapes: Shapes, image_size: tuple[int, int] | None) -> dict[str, Any]:
    """Returns how many of the tokens before the patches have a position.

    A table of another rank, or no patches, is refused with the other shapes.
    """
    table, patch = shapes.get("pos_embed"), shapes.get("patch_embed.proj.weight", ())
    if table is None:
        return {"posemb": "none"}
    if len(table) != 3 or len(patch) != 4 or 0 in patch:
        return {}
    if any(name.startswith("patch_embed.backbone.") for name in shapes):
        image_size = None  # the table is of cells of the ResNet, not of pixels
    count = pytorch.positioned(table[1], prefix(shapes), patch[2:], image_size)
    return {"prefix_positions": count}


def _refuse_others(
    config: Config | None, shapes: Shapes, zoo: str, turns: bool
) -> None:
    """Raises `UserError` for what has our names and is another function."""
    if re.search(_ROTARY, zoo) and not turns:
        raise refused("with rotary positions of another kind")
    for regex, what in _OTHERS:
        if any(re.fullmatch(regex, name) for name in shapes):
            raise refused(what)
    unsaid = "pos_embed" not in shapes and argument(config, "pos_embed") != "none"
    split = "blocks.0.attn.q_bias" in shapes and not re.fullmatch(_SPLIT_BIAS, zoo)
    if (unsaid or split or "rope.freqs" in shapes) and not turns:
        raise refused("with rotary positions that no config.json beside it tells of")
    every = bool(argument(config, "pool_include_prefix")) or zoo == _POOLS_PREFIX
    every |= turns and "attn_pool.latent" in shapes
    if prefix(shapes) and every != ("attn_pool.latent" in shapes):
        wrong = "both patches and the tokens before them" if every else "patches alone"
        raise refused(f"that pools {wrong}" + ("" if every else " by attention"))
    if argument(config, "norm_layer") not in (None, "layernorm"):
        raise refused(f"with norm_layer={str(argument(config, 'norm_layer'))[:50]!r}")


def _is_swiglu(shapes: Shapes) -> bool:
    first, last = (shapes.get(f"blocks.0.mlp.{n}.weight") for n in ("fc1", "fc2"))
    if first is None or last is None:
        return True  # fc1_g and fc1_x, or DINOv2's w12 and w3
    return len(first) == len(last) == 2 and first[0] == 2 * last[1]


def _activation(config: Config | None, swiglu: bool) -> dict[str, str]:
    act = argument(config, "act_layer")
    if act is None or (swiglu and pytorch.is_one_of(act, _SILUS)):
        return {}
    if swiglu or not pytorch.is_one_of(act, GELUS):
        gated = " in a gated MLP" if swiglu else ""
        raise refused(f"with act_layer={str(act)[:50]!r}{gated}")
    return {"gelu": GELUS[act]}


def _pool(config: Config | None, shapes: Shapes) -> dict[str, str]:
    if "dist_token" in shapes:
        return {"pool": "distilled"}
    pooled = "fc_norm.weight" in shapes
    found = {"final_norm": "pooled"} if pooled else {}
    pool = argument(config, "global_pool")
    if pool is not None:
        if not pytorch.is_one_of(pool, POOLS):
            raise refused(f"with global_pool={str(pool)[:50]!r}")
        found["pool"] = POOLS[pool]
    elif pooled:
        found["pool"] = "mean"
    return found
