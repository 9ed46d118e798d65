"""A `config.json` of CLIP and SigLIP in transformers, read and written."""

from collections.abc import Mapping
from typing import Any

from vit_jax import errors
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.weights import outputs
from vit_jax.weights.dialect import Config
from vit_jax.weights.dialects import huggingface_config, huggingface_outputs
from vit_jax.weights.formats.sidecars import PREPROCESSOR
from vit_jax.weights.source import Tensors

# What a config leaves out, because transformers' classes have it by default.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "clip": {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip": {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}
_SIZES = {"num_attention_heads": 12, "image_size": 224}


def vision(tensors: Tensors, kind: str) -> Config | None:
    """Returns the config of the tower, which may stand inside of one of both towers.

    Raises:
        errors.UserError: the config of another network with such tensors.
    """
    config = tensors.config
    if config is None or set(config) <= {PREPROCESSOR}:
        return None
    nested = config["vision_config"] if "vision_config" in config else None
    said = nested if isinstance(nested, Mapping) else config
    for part in (config, said):
        found = part["model_type"] if "model_type" in part else None
        if found not in (None, kind, f"{kind}_vision_model"):
            raise errors.UserError(
                f"config.json: model_type={str(found)[:50]!r} has the tensors of a "
                f"{kind} and may be another function; it is not supported."
            )
    return _SIZES | _DEFAULTS[kind] | dict(said)


def _write(
    arch: VitArchitecture,
    preprocessing: Preprocessing | None,
    label_names: tuple[str, ...] | None,
    *,
    kind: str,
    name: str,
    **more: Any,
) -> dict[str, Any]:
    config = huggingface_config.of_vit(arch, preprocessing, label_names)
    config |= {"model_type": f"{kind}_vision_model", **more}
    config["intermediate_size"] = arch.mlp_width
    if arch.pool != "mean":
        projects = "WithProjection" if arch.num_classes else ""
        return config | {"architectures": [f"{name}VisionModel{projects}"]}
    top = ("id2label", "label2id", "dtype", PREPROCESSOR)
    return {
        "architectures": [f"{name}ForImageClassification"],
        "model_type": kind,
        **{key: config[key] for key in top},
        "vision_config": {k: v for k, v in config.items() if k not in top},
    }


def of_clip(
    arch: VitArchitecture,
    preprocessing: Preprocessing | None,
    label_names: tuple[str, ...] | None,
) -> dict[str, Any]:
    """Returns the config of a CLIP's tower."""
    more: dict[str, Any] = {}
    if arch.num_classes:
        more["projection_dim"] = arch.num_classes
    return _write(*(arch, preprocessing, label_names), kind="clip", name="CLIP", **more)


def of_siglip(
    arch: VitArchitecture,
    preprocessing: Preprocessing | None,
    label_names: tuple[str, ...] | None,
) -> dict[str, Any]:
    """Returns the config of a SigLIP's tower."""
    return _write(
        *(arch, preprocessing, label_names),
        kind="siglip",
        name="Siglip",
        vision_use_head=arch.pool == "map",
    )


def problem_of_clip(config: Config | None) -> str | None:
    """Returns what outputs are: of no classifier, the numbers shared with text."""
    said = (config or {}).get("architectures")
    if isinstance(said, list) and "CLIPForImageClassification" in said:
        return huggingface_outputs.problem(config)
    return outputs.REGRESSION
