"""Host transforms: an image of any size becomes uint8 [height, width, 3].

Sections 3.1 and 4.1 of the paper: pre-training crops the Inception way; fine-tuning
follows BiT (resize to a square, random crop) or, as the released code ran it, crops the
Inception way again; testing resizes. What is drawn at random arrives as uniform numbers
from outside (`draws.uniforms`), so a transform is a pure function.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from vit_jax import errors
from vit_jax.data import geometry, render
from vit_jax.data.geometry import MAX_SIDE
from vit_jax.data.windows import RANDOM, PadCrop, Resample, Windowed

# Only boxes of images more than 15 times as long as wide ever need a second attempt.
_ATTEMPTS = 5


Transform = Windowed


def _inception_crop(
    image_size: tuple[int, int],
    *,
    area: tuple[float, float] = (0.05, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    antialias: bool = False,
    filter: str = "",
) -> Resample:
    """A random part of the image, stretched to the output (the paper's section 3.2).

    Drawn as TensorFlow's `sample_distorted_bounding_box`, which the authors ran, does:
    the aspect ratio (width / height) uniform, then the height uniform among those whose
    area is within `area` times the image's and which fit. (torchvision draws area and
    log aspect uniformly.) The whole image where nothing fits.
    """
    drawn = _check_train_filter("inception_crop", filter)
    area = _interval("area", area, 1.0)
    aspect = _interval("aspect", aspect, 100.0)

    def plan(height: int, width: int, u: Sequence[float]) -> render.Window:
        least, most = area[0] * height * width, area[1] * height * width
        for k in range(0, 4 * _ATTEMPTS, 4):
            ratio = aspect[0] + u[k] * (aspect[1] - aspect[0])
            high = min(
                round(math.sqrt(most / ratio)), height, int((width + 0.4999) / ratio)
            )
            low = min(round(math.sqrt(least / ratio)), high)
            h = low + int(u[k + 1] * (high - low + 1))
            w = round(h * ratio)
            if h * w < least:
                h, w = h + 1, round((h + 1) * ratio)
            elif h * w > most:
                h, w = h - 1, round((h - 1) * ratio)
            if least <= h * w <= most and 0 < h <= height and 0 < w <= width:
                top = int(u[k + 2] * (height - h + 1))
                left = int(u[k + 3] * (width - w + 1))
                return render.Window(top, left, h, w, image_size)
        return render.Window(0, 0, height, width, image_size)

    draws = 4 * _ATTEMPTS + drawn
    return Resample("inception_crop", image_size, draws, plan, bool(antialias), filter)


def _resize(
    image_size: tuple[int, int], *, antialias: bool = False, filter: str = ""
) -> Resample:
    """The whole image, its aspect ratio ignored."""
    _check_filter("resize", filter)

    def plan(height: int, width: int, u: Sequence[float]) -> render.Window:
        return render.Window(0, 0, height, width, image_size)

    return Resample("resize", image_size, 0, plan, bool(antialias), filter)


def _resize_crop(
    image_size: tuple[int, int],
    *,
    resize: int = 448,
    antialias: bool = False,
    filter: str = "",
) -> Resample:
    """Resize to a square of `resize` pixels, then a random crop (BiT; section 4.1)."""
    drawn = _check_train_filter("resize_crop", filter)
    _check_resize("resize_crop", resize, image_size)

    def plan(height: int, width: int, u: Sequence[float]) -> render.Window:
        y = int(u[0] * (resize - image_size[0] + 1))
        x = int(u[1] * (resize - image_size[1] + 1))
        return render.Window(0, 0, height, width, (resize, resize), y, x)

    name = "resize_crop"
    return Resample(name, image_size, 2 + drawn, plan, bool(antialias), filter)


def _resize_small_crop(
    image_size: tuple[int, int],
    *,
    resize: int = 448,
    antialias: bool = False,
    filter: str = "",
) -> Resample:
    """Short side to `resize` pixels, aspect ratio kept, then a random crop."""
    _check_resize("resize_small_crop", resize, image_size)
    drawn = _check_train_filter("resize_small_crop", filter)

    def plan(height: int, width: int, u: Sequence[float]) -> render.Window:
        resized = geometry.small(height, width, resize, geometry.ROUNDINGS["google"])
        y = int(u[0] * (resized[0] - image_size[0] + 1))
        x = int(u[1] * (resized[1] - image_size[1] + 1))
        return render.Window(0, 0, height, width, resized, y, x)

    name = "resize_small_crop"
    return Resample(name, image_size, 2 + drawn, plan, bool(antialias), filter)


def _centred(name: str) -> Callable[..., Resample]:
    """The factory of a row of `geometry.FITS`: scaled as it says, then the centre."""
    fit = geometry.FITS[name]

    def factory(
        image_size: tuple[int, int],
        *,
        resize: Any = 0,
        antialias: bool = False,
        filter: str = "",
        rounding: str = "google",
        fill: tuple[int, int, int] = render.BLACK,
    ) -> Resample:
        what = f"transform {name}: rounding"
        rule = errors.lookup(geometry.ROUNDINGS, rounding, what)
        _check_filter(name, filter)
        wanted = fit.check(resize) if fit.check else 0
        if name == "resize_small_crop" and rounding == "google":
            _check_resize(name, wanted, image_size)  # TensorFlow's crop cannot pad

        def plan(height: int, width: int, u: Sequence[float]) -> render.Window:
            resized = fit.scaled(height, width, wanted, rule)
            if not fit.crops:
                _check_exact(name, resized, image_size)
            y, x = geometry.centre(resized, image_size, rule)
            return render.Window(0, 0, height, width, resized, y, x)

        colour = geometry.check_colour(fill)
        return Resample(name, image_size, 0, plan, bool(antialias), filter, colour)

    return factory


def _check_exact(
    name: str, resized: tuple[int, int], image_size: tuple[int, int]
) -> None:
    if resized != image_size:
        raise errors.UserError(
            f"transform {name!r} crops nothing: this image comes out as {resized[0]}x"
            f"{resized[1]} pixels, the model wants {image_size[0]}x{image_size[1]}.\n"
            "The checkpoint's own code fails on it too: give images of the model's "
            "aspect ratio."
        )


_PAD_MODES: dict[str, render.Padding] = {"zeros": "constant", "reflect": "reflect"}


def _random_crop_pad(
    image_size: tuple[int, int], *, pad: int = 4, mode: str = "zeros"
) -> PadCrop:
    """A random window of the padded image: for small images that all have one size."""
    if not isinstance(pad, int) or isinstance(pad, bool) or not 0 <= pad <= MAX_SIDE:
        raise errors.UserError(f"transform random_crop_pad: pad={pad!r}; wanted 0, 1..")
    padded = errors.lookup(_PAD_MODES, mode, "transform random_crop_pad: mode")
    return PadCrop("random_crop_pad", image_size, 2, pad, padded)


def _none(image_size: tuple[int, int]) -> PadCrop:
    """Images as they are; all must have the size of the output."""
    return PadCrop("none", image_size, 0, 0, "constant")


TRAIN: dict[str, Callable[..., Transform]] = {
    "inception_crop": _inception_crop,
    "resize": _resize,
    "resize_crop": _resize_crop,
    "resize_small_crop": _resize_small_crop,
    "random_crop_pad": _random_crop_pad,
    "none": _none,
}
EVAL: dict[str, Callable[..., Transform]] = {
    "resize": _resize,
    **{name: _centred(name) for name in geometry.FITS},
    "none": _none,
}
KINDS = {"train": TRAIN, "eval": EVAL}


# What becomes of a photograph that says how it is to be turned.
EXIF = {"turn": True, "stored": False}


def make(
    kind: str,
    name: str,
    *,
    image_size: int | tuple[int, int],
    exif: str = "turn",
    **params: Any,
) -> Transform:
    """Returns the transform `name` of `KINDS[kind]`.

    Args:
        kind: "train" or "eval".
        name: Key of `TRAIN` or `EVAL`.
        image_size: Of the output, pixels; an int means a square.
        exif: "turn" photographs as they say, or take the pixels as they are "stored".
        **params: What the transform takes; see the functions of the tables.

    Raises:
        errors.UserError: unknown name or parameter, or a value that cannot work.
    """
    table = errors.lookup(KINDS, kind, "kind of transform")
    factory = errors.lookup(table, name, f"{kind} transform")
    turn = errors.lookup(EXIF, exif, "exif")
    known = takes(kind, name)
    for param in params:
        if param not in known:
            raise errors.UserError(
                f"{kind} transform {name!r} takes no {param!r}; it takes: "
                f"{', '.join(known) or 'nothing'}.{errors.suggest(param, known)}"
            )
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    transform = factory(check_image_size(size), **params)
    return dataclasses.replace(transform, turn=turn)


def takes(kind: str, name: str) -> list[str]:
    """Returns the parameters of a transform by name."""
    return list(inspect.signature(KINDS[kind][name]).parameters)[1:]


def check_image_size(size: Any) -> tuple[int, int]:
    """Returns (height, width) as ints, or raises a `UserError`."""
    sides = tuple(size) if isinstance(size, Sequence) else ()
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if len(sides) != 2 or not whole or not all(1 <= s <= MAX_SIDE for s in sides):
        raise errors.UserError(
            f"image_size={size!r}; wanted (height, width) in 1..{MAX_SIDE} pixels"
        )
    return sides


def _check_resize(name: str, resize: Any, image_size: tuple[int, int]) -> None:
    whole = isinstance(resize, int) and not isinstance(resize, bool)
    if not whole or not max(image_size) <= resize <= MAX_SIDE:
        raise errors.UserError(
            f"transform {name}: resize={resize!r}; wanted a whole number of pixels in "
            f"{max(image_size)}..{MAX_SIDE}, so that the crop of {image_size} fits"
        )


def _check_train_filter(name: str, filter: str) -> int:
    """How many numbers the choice of the filter takes."""
    if filter == RANDOM:
        return 1
    _check_filter(name, filter)
    return 0


def _check_filter(name: str, filter: str) -> None:
    if filter:
        known = dict.fromkeys(render.FILTERS[1:])
        errors.lookup(known, filter, f"transform {name}: filter")


def _interval(name: str, bounds: Any, limit: float) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in bounds)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not 0 < low <= high <= limit:
        raise errors.UserError(
            f"transform inception_crop: {name}={bounds!r}; wanted two numbers, "
            f"0 < low <= high <= {limit:g}"
        )
    return low, high
