"""How a checkpoint wants its images at evaluation; travels inside checkpoints.

The transforms themselves are imported by the first `Preprocessing` that is made.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vit_jax import errors

if TYPE_CHECKING:
    from vit_jax.data.transforms import Transform

_HALF = (127.5, 127.5, 127.5)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform, and the mean and deviation to normalise with.

    `mean` and `std` are in units of 0..255: the model sees (x - mean) / std.

    Attributes:
        image_size: (height, width), pixels.
        transform: Key of `transforms.EVAL`.
        resize: What the image is scaled to before its centre is taken: of the short
            side, or (height, width); 0 where the transform has none.
        filter: Of `render.FILTERS`: Pillow's "bilinear", "bicubic" ..., "area", or ""
            for ours.
        mean: Of the three channels.
        std: The same.
        rounding: Key of `geometry.ROUNDINGS`, whose arithmetic a scaled side and the
            offset of the centre follow.
        fill: Colour of what the scaled image does not reach, 0..255.
        exif: "turn" photographs as they say, or take the pixels of a dataset's as they
            are "stored". Images given by hand are turned either way.

    Raises:
        errors.UserError: a value that cannot work.
    """

    image_size: tuple[int, int]
    transform: str = "resize"
    resize: int | tuple[int, int] = 0
    filter: str = ""
    mean: tuple[float, float, float] = _HALF
    std: tuple[float, float, float] = _HALF
    rounding: str = "google"
    fill: tuple[int, int, int] = (0, 0, 0)
    exif: str = "turn"

    def __post_init__(self) -> None:
        from vit_jax.data import transforms

        size = self.image_size
        size = (size, size) if isinstance(size, int) else size
        values = {
            "image_size": transforms.check_image_size(size),
            "mean": _channels("mean", self.mean),
            "std": _channels("std", self.std),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if min(self.std) <= 0:
            raise errors.UserError(f"preprocessing: std={self.std}; wanted above 0")
        for name in ("transform", "filter", "rounding", "exif"):
            if not isinstance(getattr(self, name), str):
                raise errors.UserError(
                    f"preprocessing: {name}={getattr(self, name)!r}; wanted a name"
                )
        for name in ("resize", "fill"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        self.eval_transform()

    def eval_transform(self, exif: str = "") -> "Transform":
        """Returns the transform: image -> uint8 [height, width, 3].

        Args:
            exif: Instead of the field; "": as that says.
        """
        from vit_jax.data import transforms

        errors.lookup(transforms.EVAL, self.transform, "eval transform")
        known = transforms.takes("eval", self.transform)
        params = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in known:
                params[field.name] = value
            elif field.name in _OF_SOME and not _same(value, field.default):
                raise errors.UserError(
                    f"preprocessing: {field.name}={value!r} has no meaning for "
                    f"transform {self.transform!r}; wanted {field.default!r}"
                )
        return transforms.make(
            *("eval", self.transform),
            image_size=self.image_size,
            exif=exif or self.exif,
            **params,
        )

    def at(self, image_size: tuple[int, int]) -> "Preprocessing":
        """Returns the same evaluation at another size; a crop keeps its share.

        Of a size that is longer than its share allows, the crop is all that fits.
        """
        if image_size == self.image_size:
            return self
        resize: int | tuple[int, int]
        if isinstance(self.resize, tuple):
            sides = zip(self.resize, image_size, self.image_size)
            height, width = (round(side * new / old) for side, new, old in sides)
            resize = height, width
        else:
            resize = round(self.resize * min(image_size) / min(self.image_size))
            if self.resize and self.rounding == "google":  # which cannot pad
                resize = max(resize, *image_size)
        return dataclasses.replace(self, image_size=image_size, resize=resize)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Inverts `to_dict`.

        Raises:
            errors.UserError: unknown or missing keys, or values that cannot work.
        """
        if not isinstance(values, Mapping):
            raise errors.UserError(
                f"preprocessing is a {type(values).__name__}; wanted a mapping"
            )
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(str(key) for key in values if key not in known)
        if unknown or "image_size" not in values:
            problem = f"unknown keys {unknown}" if unknown else "no image_size"
            raise errors.UserError(
                f"preprocessing: {problem}; known keys: {', '.join(known)}"
            )
        return cls(**values)


# Fields that not every transform has.
_OF_SOME = ("resize", "filter", "rounding", "fill")


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and value == default


def _channels(name: str, values: Any) -> tuple[float, float, float]:
    numbers = values if isinstance(values, (list, tuple)) else ()
    real = all(
        isinstance(number, (int, float)) and not isinstance(number, bool)
        for number in numbers
    )
    if len(numbers) != 3 or not real or not all(map(math.isfinite, numbers)):
        raise errors.UserError(
            f"preprocessing: {name}={values!r}; wanted three finite numbers, in units "
            "of 0..255"
        )
    red, green, blue = map(float, numbers)
    return red, green, blue
