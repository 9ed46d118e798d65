"""timm's BiT ResNets: `resnetv2_50x1_bit` and the like, the pre-activation form.

Stages and units are counted from 0 there, and the head is a convolution of one cell.
"""

import logging
import re
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.models import resnet_sizes
from vit_jax.models.bit import BitArchitecture
from vit_jax.weights.dialect import Dialect
from vit_jax.weights.dialects import pytorch, timm_config, timm_zoo
from vit_jax.weights.dialects.pytorch import norm
from vit_jax.weights.rules import Rule, Sizes
from vit_jax.weights.source import Tensors

_UNIT = "stage{stage}/unit{unit}"
_BLOCK = "stages.{stage}.blocks.{unit}"
_NAME = r"resnetv2_(\d+)x(\d+)_bit"
# The depths and widths that it has by name.
_NAMED = ("50x1", "50x3", "101x1", "101x3", "152x2", "152x4")


def _vectors(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    return array.reshape(array.shape[:2]).T


def _cells(array: np.ndarray, *, sizes: Sizes) -> np.ndarray:
    return array.T[:, :, None, None]


_RULES = (
    *pytorch.conv("root/conv", "stem.conv"),
    *norm(f"{_UNIT}/norm{{i}}", f"{_BLOCK}.norm{{i}}"),
    *pytorch.conv(f"{_UNIT}/conv{{i}}", f"{_BLOCK}.conv{{i}}"),
    *pytorch.conv(f"{_UNIT}/conv_proj", f"{_BLOCK}.downsample.conv"),
    *norm("norm", "norm"),
    Rule("head/kernel", "head.fc.weight", _vectors, _cells),
    Rule("head/bias", "head.fc.bias"),
)


def _renumbered(leaves: Tensors, step: int) -> Tensors:
    def moved(name: str) -> str:
        return re.sub(
            r"^stage(\d+)/unit(\d+)",
            lambda m: f"stage{int(m[1]) + step}/unit{int(m[2]) + step}",
            name,
        )

    return leaves.renamed({moved(name): name for name in leaves.names})


def _loaded(leaves: Tensors) -> Tensors:
    return _renumbered(leaves, 1)


def _saved(leaves: Tensors, arch: BitArchitecture) -> tuple[Tensors, BitArchitecture]:
    if arch.form != "pre":
        raise errors.UserError(
            f"timm's BiT has the pre-activation form; this {arch.name} has form="
            f"{arch.form!r}. Write another dialect."
        )
    return _renumbered(leaves, -1), arch


def _says(tensors: Tensors) -> dict[str, Any]:
    zoo = str(timm_zoo.argument(tensors.config, "architecture") or "")
    zoo = zoo.partition(".")[0]
    if zoo not in ("", "ResNetV2") and not re.fullmatch(_NAME, zoo):
        raise timm_zoo.refused(f"called {zoo[:50]!r}, whose convolutions may be others")
    return timm_config.image_size(tensors.config)


def _config(
    arch: BitArchitecture,
    preprocessing: Preprocessing | None,
    label_names: tuple[str, ...] | None,
) -> dict[str, Any]:
    depths = {units: depth for depth, units in resnet_sizes.UNITS.items()}
    size = f"{depths.get(arch.units)}x{arch.width:g}"
    arguments: dict[str, Any] = {"in_chans": arch.channels}
    name = f"resnetv2_{size}_bit" if size in _NAMED else ""
    if not name:
        logging.warning(
            "timm has no named BiT like this %s: its users make it with "
            "timm.models.ResNetV2(**model_args) of the config.json, and with "
            "conv_layer=partial(StdConv2d, eps=1e-8).",
            arch.name,
        )
        arguments |= {"layers": list(arch.units), "width_factor": arch.width}
        arguments["stem_type"] = "fixed"
    pretrained = timm_config.pretrained(arch, preprocessing, "stem.conv")
    pretrained |= {"classifier": "head.fc", "fixed_input_size": False}
    return {
        "architecture": name or "ResNetV2",
        "num_classes": arch.num_classes,
        "num_features": arch.feature_width,
        "pretrained_cfg": pretrained,
        "model_args": arguments,
        **({} if label_names is None else {"label_names": list(label_names)}),
    }


DIALECT = Dialect(
    _RULES,
    r"stages\.\d+\.blocks\.\d+\.norm3\.weight",
    family="bit",
    fields={"pool_padding": "zero"},
    says=_says,
    loaded=_loaded,
    saved=_saved,
    containers=("safetensors",),
    preprocessing=timm_config.preprocessing,
    label_names=timm_config.label_names,
    label_ids=timm_config.label_ids,
    config=_config,
)
