"""The two ways in which a part of an image becomes the input of a model.

A box is scaled and a window of the result taken (`Resample`), or a window of the padded
image is taken as it is (`PadCrop`). Which box and which window, `transforms` says.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.data import decode, render

# In place of a filter: one of these, as timm draws them.
RANDOM = "random"
_RANDOM_FILTERS = "bilinear", "bicubic"

Plan = Callable[[int, int, Sequence[float]], render.Window]


@dataclasses.dataclass(frozen=True)
class Windowed(abc.ABC):
    """An image made the input of a model, by uniform numbers that are given."""

    name: str
    image_size: tuple[int, int]  # (height, width) of the output, pixels
    draws: int  # uniform numbers that it wants
    turn: bool = dataclasses.field(default=True, kw_only=True)  # as EXIF says
    # What is done to the pixels then, as `data.train` says it; "": nothing
    augments: str = dataclasses.field(default="", kw_only=True)

    def __call__(
        self,
        image: Any,
        uniforms: Sequence[float] = (),
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns uint8 [h, w, 3] of anything that `decode.open_image` opens.

        Args:
            image: Encoded bytes, a uint8 array or a Pillow image.
            uniforms: `draws` numbers in [0, 1).
            out: Where to write, contiguous; a new array if None.

        Raises:
            decode.BadImage: the image cannot be read.
            errors.UserError: `PadCrop`'s, an image that is too small, or for "none"
                not of the size.
        """
        out = np.empty((*self.image_size, 3), np.uint8) if out is None else out
        self._write(decode.open_image(image, turn=self.turn), uniforms, out)
        return out

    @abc.abstractmethod
    def _write(
        self, opened: decode.Image, uniforms: Sequence[float], out: np.ndarray
    ) -> None:
        """Writes an opened image's input to `out`."""


@dataclasses.dataclass(frozen=True)
class Resample(Windowed):
    """A box of the image is scaled, and a window of the result is the output."""

    plan: Plan
    antialias: bool
    filter: str = ""  # of render.FILTERS, or RANDOM, which the last number draws
    fill: tuple[int, int, int] = render.BLACK  # where the image does not reach

    def _write(
        self, opened: decode.Image, uniforms: Sequence[float], out: np.ndarray
    ) -> None:
        window = self.plan(opened.height, opened.width, uniforms)
        filter = self.filter
        if filter == RANDOM:
            filter = _RANDOM_FILTERS[int(uniforms[-1] * 2)]
        render.render(
            opened,
            window,
            out,
            antialias=self.antialias,
            filter=filter,
            fill=self.fill,
        )


@dataclasses.dataclass(frozen=True)
class PadCrop(Windowed):
    """A window of the padded image, unscaled."""

    pad: int
    mode: render.Padding  # of np.pad; "constant" is zeros

    def _write(
        self, opened: decode.Image, uniforms: Sequence[float], out: np.ndarray
    ) -> None:
        self.check(opened.height, opened.width)
        pixels = decode.whole(opened)
        numbers = np.array([uniforms], np.float64).reshape(1, self.draws)
        y, x = self.offsets(numbers, opened.height, opened.width)[0]
        height, width = self.image_size
        out[...] = self.padded(pixels[None])[0, y : y + height, x : x + width]

    def check(self, height: int, width: int) -> None:
        """Raises a `UserError` where images of this size do not fit."""
        wanted, grown = self.image_size, (height + 2 * self.pad, width + 2 * self.pad)
        if not self.draws and grown != wanted:
            raise errors.UserError(
                f"transform {self.name!r} leaves images as they are: got "
                f"{height}x{width}, wanted {wanted[0]}x{wanted[1]} pixels. "
                'Choose a transform that resizes, such as "resize".'
            )
        if grown[0] < wanted[0] or grown[1] < wanted[1]:
            raise errors.UserError(
                f"transform {self.name!r}: an image of {height}x{width} padded by "
                f"{self.pad} is smaller than {wanted[0]}x{wanted[1]} pixels. "
                'Choose a transform that resizes, such as "inception_crop".'
            )
        if self.mode == "reflect" and self.pad >= min(height, width):
            raise errors.UserError(
                f"transform {self.name!r}: an image of {height}x{width} cannot be "
                f"reflected by {self.pad} pixels; lower pad or use mode='zeros'"
            )

    def padded(self, images: np.ndarray) -> np.ndarray:
        """Pads uint8 [n, h, w, 3]."""
        if not self.pad:
            return images
        sides = (self.pad, self.pad)
        return np.pad(images, ((0, 0), sides, sides, (0, 0)), self.mode)

    def offsets(self, uniforms: np.ndarray, height: int, width: int) -> np.ndarray:
        """Returns where the windows lie in the padded images: int64 [b, 2], (y, x).

        Args:
            uniforms: float64 [b, draws].
            height: Of the images before padding.
            width: The same.
        """
        if not self.draws:
            return np.zeros((len(uniforms), 2), np.int64)
        room = np.array([height, width]) + 2 * self.pad - np.array(self.image_size)
        return (uniforms * (room[None] + 1)).astype(np.int64)
