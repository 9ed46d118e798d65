"""How timm evaluates: the `pretrained_cfg` of its `config.json`, read and written.

As `timm.data.resolve_data_config` and `create_transform` have it: `input_size` and
`crop_pct`, not the `test_` ones, which its validation script alone asks for. A side is
scaled to floor(side / crop_pct); then

| `crop_mode` | scaled                                        | border            |
|-------------|-----------------------------------------------|-------------------|
| center      | square: short side; else until it covers both | black             |
| squash      | to both sides, aspect ratio ignored           | black             |
| border      | until it fits into both                       | the mean's colour |
"""

import math
from collections.abc import Mapping
from typing import Any

from vit_jax import errors
from vit_jax.data import render
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.weights.dialects import pytorch

Said = Mapping[str, Any]
Size = tuple[int, int]

MODES = ("center", "squash", "border")
# What its `PretrainedCfg` has where a config does not say it.
_DEFAULTS: dict[str, Any] = {
    "crop_pct": 0.875,
    "crop_mode": "center",
    "interpolation": "bicubic",
    "mean": [value / 255 for value in pytorch.IMAGENET_MEAN],
    "std": [value / 255 for value in pytorch.IMAGENET_STD],
}
# Without any config: what its Vision Transformers have.
_BARE = _DEFAULTS | {"crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.5] * 3}


def read(said: Said | None, image_size: Size) -> Preprocessing:
    """Returns how timm evaluates a model.

    Args:
        said: Its `pretrained_cfg`; None: there is none.
        image_size: Of the model.

    Raises:
        errors.UserError: a value of a field that timm does not know.
    """
    # It takes a default for whatever is empty or 0.
    given = {key: value for key, value in (said or {}).items() if value}
    values = (_BARE if said is None else _DEFAULTS) | given
    crop, mode, filter = (values[k] for k in ("crop_pct", "crop_mode", "interpolation"))
    good = isinstance(crop, int | float) and not isinstance(crop, bool)
    if not good or not 0 < crop < math.inf:
        raise errors.UserError(
            f"config.json: crop_pct={str(crop)[:50]!r}; want a number above 0."
        )
    _known("crop_mode", mode, MODES)
    _known("interpolation", filter, render.PILLOW_FILTERS)
    scaled = math.floor(image_size[0] / crop), math.floor(image_size[1] / crop)
    if min(scaled) < 1:
        raise errors.UserError(f"config.json: crop_pct={crop}; nothing would be left.")
    mean, std = (pytorch.channels(values, key, 255) for key in ("mean", "std"))
    assert mean and std, "both have defaults"
    return Preprocessing(
        image_size,
        filter=filter,
        mean=mean,
        std=std,
        **_geometry(image_size, scaled, mode, mean),
    )


def _known(key: str, value: Any, known: Any) -> None:
    if value not in list(known):
        raise errors.UserError(
            f"config.json: {key}={str(value)[:50]!r}; known: {', '.join(known)}."
        )


def _geometry(
    image_size: Size, scaled: Size, mode: str, mean: tuple[float, ...]
) -> dict[str, Any]:
    if mode == "squash":
        if scaled == image_size:
            return {}
        return {"transform": "resize_crop", "resize": scaled, "rounding": "torchvision"}
    if mode == "border":
        fill = tuple(min(max(round(value), 0), 255) for value in mean)
        return {
            **{"transform": "resize_inside_crop", "resize": scaled},
            **{"rounding": "timm", "fill": fill},
        }
    if scaled[0] == scaled[1]:
        return {
            **{"transform": "resize_small_crop", "resize": scaled[0]},
            "rounding": "torchvision",
        }
    return {"transform": "resize_cover_crop", "resize": scaled, "rounding": "timm"}


# What comes nearest where Pillow has no such filter; `weights.write` says so.
_NAMES = {
    **{name: name for name in render.PILLOW_FILTERS},
    **render.TENSOR_FILTERS,
    **{"": "bilinear", "area": "box"},
}
_MODES = {"resize": "squash", "resize_crop": "squash", "resize_inside_crop": "border"}


def write(said: Preprocessing) -> dict[str, Any]:
    """Returns the part of a `pretrained_cfg`; undone by `read` where timm can do it."""
    return {
        "input_size": [3, *said.image_size],
        "fixed_input_size": True,
        "crop_pct": _crop_pct(said),
        "crop_mode": _MODES[said.transform] if said.transform in _MODES else "center",
        "interpolation": _NAMES[said.filter],
        "mean": [value / 255 for value in said.mean],
        "std": [value / 255 for value in said.std],
    }


def _crop_pct(said: Preprocessing) -> float:
    """A share that scales every side to what is wanted, if there is one."""
    if not said.resize:
        return 1.0
    resize = said.resize
    wanted = resize if isinstance(resize, tuple) else (resize, resize)
    pairs = list(zip(said.image_size, wanted))
    # Halfway to the next pixel is as good and sure to be rounded down to the same.
    shares = [side / new for side, new in pairs]
    shares += [side / (new + 0.5) for side, new in pairs]
    for share in shares:
        if all(math.floor(side / share) == new for side, new in pairs):
            return share
    return shares[0]
