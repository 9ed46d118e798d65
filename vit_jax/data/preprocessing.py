"""How a checkpoint wants its images at evaluation; travels inside checkpoints."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from vit_jax import errors
from vit_jax.data import transforms

_HALF = (127.5, 127.5, 127.5)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform, and the mean and deviation to normalise with.

    `mean` and `std` are in units of 0..255: the model sees (x - mean) / std.

    Raises:
      errors.UserError: a value that cannot work.
    """

    image_size: tuple[int, int]  # (height, width), pixels
    transform: str = "resize"  # key of transforms.EVAL
    resize: int = 0  # "resize_small_crop": the short side, pixels; else 0
    filter: str = ""  # "bilinear", "bicubic": Pillow's; "": ours (decode.render)
    mean: tuple[float, float, float] = _HALF
    std: tuple[float, float, float] = _HALF

    def __post_init__(self):
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
        if not isinstance(self.transform, str):
            raise errors.UserError(
                f"preprocessing: transform={self.transform!r}; wanted a name"
            )
        if self.transform != "resize_small_crop" and (
            isinstance(self.resize, bool) or self.resize != 0
        ):
            raise errors.UserError(
                f"preprocessing: resize={self.resize!r} has no meaning for transform "
                f"{self.transform!r}; wanted 0"
            )
        self.eval_transform()

    def eval_transform(self) -> transforms.Transform:
        """Returns the transform: image -> uint8 [height, width, 3]."""
        small = self.transform == "resize_small_crop"
        params = {"resize": self.resize} if small else {}
        if self.filter:
            params["filter"] = self.filter
        return transforms.make(
            "eval", self.transform, image_size=self.image_size, **params
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Inverse of `to_dict`.

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
    return tuple(float(number) for number in numbers)
