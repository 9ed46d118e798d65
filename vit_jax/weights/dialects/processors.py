"""Image processors of transformers: `preprocessor_config.json`, read and written.

The classes that its plain vision models come with differ in their defaults alone; all
resize, crop at the centre, rescale and normalise. They do it with Pillow, or, as the
class whose name ends in "Fast", with torchvision on uint8 tensors: a grey level apart
here and there, more where a filter overshoots in a tall image. A file says which by the
name of its class. (transformers 5 has one name for both and takes torchvision where it
is installed; files that name no "Fast" class were published for Pillow's.) What a file
does not say is the class's default; a null turns a step off. Alpha is dropped, as its
pipelines do when they open a file (a processor that is handed a Pillow image with alpha
and `do_convert_rgb` lays it on white instead).
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

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
_VIT: dict[str, Any] = {
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "default_to_square": True,  # whether a bare number is both sides, or the short one
    "resample": 2,
    "do_center_crop": False,
    "crop_size": None,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
_CROPPED = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
_CLIP = {
    **{"size": {"shortest_edge": 224}, "default_to_square": False, "resample": 3},
    **{"image_mean": CLIP_MEAN, "image_std": CLIP_STD},
}
# The defaults of the classes, by the start of their names.
KINDS: dict[str, dict[str, Any]] = {
    "ViT": _VIT,
    "Beit": _VIT | {"resample": 3},
    "DeiT": _VIT | _CROPPED | {"size": {"height": 256, "width": 256}, "resample": 3},
    "Bit": _VIT | _CROPPED | _CLIP,
    "CLIP": _VIT | _CROPPED | _CLIP,
    "DINOv3ViT": _VIT
    | {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    "Siglip": _VIT | {"resample": 3, "default_to_square": False},
}
# What the names of classes may end in, over the years.
_FAST = "ImageProcessorFast"
# These have no other than tensors', whatever their name. They rescale before they
# resize, so that no pixel is rounded: half a grey level from what is done here.
_ON_TENSORS = ("DINOv3ViT",)
_ENDS = ("FeatureExtractor", "ImageProcessor", "ImageProcessorPil", _FAST)
# With which keys of `size` an image is scaled how: cropped, and not cropped.
_SCALED: dict[tuple[str, ...], tuple[str, str]] = {
    ("height", "width"): ("resize_crop", "resize"),
    ("shortest_edge",): ("resize_small_crop", "resize_small"),
    ("shortest_edge", "longest_edge"): ("resize_between_crop", ""),
    ("max_height", "max_width"): ("resize_inside_crop", ""),
}


def _wrong(key: str, value: Any, wanted: str) -> errors.UserError:
    return errors.UserError(
        f"preprocessor_config.json: {key}={str(value)[:60]!r}; {wanted}."
    )


def read(
    said: Said | None, kind: str, image_size: Size, *, takes_any_size: bool = False
) -> Preprocessing:
    """Returns what a processor does.

    Args:
        said: The file's object; None: there is none.
        kind: Key of `KINDS`, for a file that names no class.
        image_size: Of the model, for a file that says no size.
        takes_any_size: Whether the model does; then the class's own size is meant.

    Raises:
        errors.UserError: a class, or a value of a field, that is not known here.
    """
    found = dict(said or {})
    kind, fast = _kind(found, kind)
    values = KINDS[kind] | found
    mean, std = _normalisation(values)
    if _flag(values, "do_pad"):
        raise _wrong("do_pad", True, "padding to a size is not known here")
    transform, resize, size = _geometry(values, image_size)
    fields: dict[str, Any] = {"mean": mean, "std": std}
    if transform not in ("none", "crop"):
        fields["filter"] = _filter(values["resample"], fast)
    if transform not in ("none", "resize"):
        fields |= {"resize": resize, "rounding": _ROUNDINGS[fast]}
    made = Preprocessing(size, transform, **fields)
    unsaid = not {"size", "crop_size"} & set(found)
    return made.at(image_size) if unsaid and not takes_any_size else made


_ROUNDINGS = {False: "transformers", True: "transformers_fast"}


def _kind(found: Said, default: str) -> tuple[str, bool]:
    """A key of `KINDS`, and whether it works on tensors."""
    for key in ("image_processor_type", "feature_extractor_type"):
        if key in found and found[key] is not None:
            name = str(found[key])
            for kind in KINDS:
                if name in [kind + end for end in _ENDS]:
                    return kind, name.endswith(_FAST) or kind in _ON_TENSORS
            known = ", ".join(f"{kind}ImageProcessor" for kind in KINDS)
            raise _wrong(key, name, f"known: {known}")
    return default, default in _ON_TENSORS


def _flag(values: Said, key: str) -> bool:
    value = values[key] if key in values else False
    if value not in (True, False, None):
        raise _wrong(key, value, "want true or false")
    return bool(value)


def _filter(value: Any, fast: bool) -> str:
    names = {number: name for name, number in render.PILLOW_FILTERS.items()}
    known: dict[Any, str] = {**names, **{name: name for name in names.values()}}
    found = str(value).lower() if isinstance(value, str) else value
    if isinstance(found, bool) or not isinstance(found, int | str):
        found = None
    if found not in known:
        listed = ", ".join(
            f"{number} ({name})" for number, name in sorted(names.items())
        )
        raise _wrong("resample", value, f"known: {listed}")
    tensors = f"tensor_{known[found]}"  # box and hamming only Pillow has
    return tensors if fast and tensors in render.TENSOR_FILTERS else known[found]


def _normalisation(values: Said) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of pixels in 0..255 that rescaling and normalising come to."""
    units = 1.0
    if _flag(values, "do_rescale"):
        factor = values["rescale_factor"]
        good = isinstance(factor, int | float) and not isinstance(factor, bool)
        if not good or not 0 < factor < math.inf:
            raise _wrong("rescale_factor", factor, "want a number above 0")
        units = 1 / factor
        if factor == 1 / 255:
            units = 255.0  # 1 / (1 / 255) is not quite
    if not _flag(values, "do_normalize"):
        return (0.0,) * 3, (pytorch.digits(units),) * 3
    mean, std = (_channels(values, key, units) for key in ("image_mean", "image_std"))
    return mean, std


def _channels(values: Said, key: str, units: float) -> tuple[float, ...]:
    try:
        found = pytorch.channels(values, key, units)
    except errors.UserError as error:
        text = str(error).replace("config.json", "preprocessor_config.json")
        raise errors.UserError(text) from None
    if found is None:
        raise _wrong(key, None, "want three numbers")
    return found


def _geometry(values: Said, image_size: Size) -> tuple[str, Any, Size]:
    """(transform, resize, size of the result)."""
    cropped = _flag(values, "do_center_crop")
    crop = _crop_size(values) if cropped else None
    if not _flag(values, "do_resize"):
        return ("crop", 0, crop) if crop else ("none", 0, image_size)
    size = _size(values)
    keys = next((k for k in _SCALED if set(k) == set(size)), None)
    if keys is None or not all(map(_is_side, size.values())):
        known = ", ".join("{" + ", ".join(k) + "}" for k in _SCALED)
        raise _wrong("size", values["size"], f"want pixels as {known}")
    sides = tuple(size[key] for key in keys)
    transform = _SCALED[keys][0 if crop else 1]
    if not transform:
        raise _wrong("size", size, "without do_center_crop no image has the same size")
    if transform == "resize" or (keys == ("height", "width") and sides == crop):
        return "resize", 0, (sides[0], sides[1])
    resize = sides[0] if len(sides) == 1 else sides
    return transform, resize, crop or (sides[0], sides[0])


def _crop_size(values: Said) -> Size:
    value = values["crop_size"]
    if isinstance(value, int):
        value = {"height": value, "width": value}
    if isinstance(value, list) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}
    if not isinstance(value, Mapping) or set(value) != {"height", "width"}:
        raise _wrong("crop_size", value, "want pixels as {height, width}")
    if not all(map(_is_side, value.values())):
        raise _wrong("crop_size", value, "want whole numbers of pixels")
    return value["height"], value["width"]


def _size(values: Said) -> dict[str, Any]:
    value = values["size"]
    if isinstance(value, list) and len(value) == 2:
        return {"height": value[0], "width": value[1]}
    if _is_side(value):
        square = _flag(values, "default_to_square")
        return dict.fromkeys(
            ("height", "width") if square else ("shortest_edge",), value
        )
    return dict(value) if isinstance(value, Mapping) else {}


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def write(said: Preprocessing) -> dict[str, Any]:
    """Returns the file's object; undone by `read` where a processor can do it."""
    cropped = said.transform == "crop" or said.transform.endswith("_crop")
    height, width = said.image_size
    size = _written_size(said)
    fast = said.filter in render.TENSOR_FILTERS or said.rounding == _ROUNDINGS[True]
    kind = "Bit" if cropped else "ViT"  # Bit's is the one that crops
    return {
        "image_processor_type": f"{kind}{_FAST if fast else 'ImageProcessor'}",
        "do_resize": said.transform not in ("none", "crop"),
        "size": size or {"height": height, "width": width},
        "do_center_crop": cropped,
        **({"crop_size": {"height": height, "width": width}} if cropped else {}),
        "resample": _NUMBERS[said.filter],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in said.mean],
        "image_std": [value / 255 for value in said.std],
    }


# What comes nearest where Pillow has no such filter; `weights.write` says so.
_NUMBERS = {
    **render.PILLOW_FILTERS,
    **{name: render.PILLOW_FILTERS[of] for name, of in render.TENSOR_FILTERS.items()},
    **{"": 2, "area": 4},
}


def _written_size(said: Preprocessing) -> dict[str, int]:
    resize = said.resize
    if said.transform == "resize_cover_crop" and isinstance(resize, tuple):
        return {"shortest_edge": min(resize)}  # the nearest; `weights.write` says so
    for keys, transforms in _SCALED.items():
        if said.transform in transforms and resize:
            return dict(zip(keys, resize if isinstance(resize, tuple) else (resize,)))
    return {}


def published(size: Size, image_size: Size, **fields: Any) -> Preprocessing:
    """Returns what a model's published files say, for a model of another size.

    Args:
        size: Of the published model's images.
        image_size: Of this model's.
        **fields: Of `Preprocessing`.
    """
    return Preprocessing(size, **fields).at(image_size)
