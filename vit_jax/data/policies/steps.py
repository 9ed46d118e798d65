"""A crop and what is done to its pixels then, as one transform of the loader."""

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np

from vit_jax.data import decode, windows


@dataclasses.dataclass(frozen=True)
class Step(abc.ABC):
    """What is done to the pixels of a crop, by uniform numbers that are given.

    Attributes:
        said: The keys and values of `data.train` that asked for it, for messages.
        draws: Uniform numbers that it wants.
    """

    said: str
    draws: int

    @abc.abstractmethod
    def __call__(self, image: np.ndarray, uniforms: Sequence[float]) -> np.ndarray:
        """Returns uint8 [h, w, 3] of uint8 [h, w, 3], which is left as it was."""


@dataclasses.dataclass(frozen=True)
class Augmented(windows.Windowed):
    """A crop followed by steps."""

    crop: windows.Windowed
    steps: tuple[Step, ...]

    def _write(
        self, opened: decode.Image, uniforms: Sequence[float], out: np.ndarray
    ) -> None:
        self.crop._write(opened, uniforms[: self.crop.draws], out)
        pixels, at = out, self.crop.draws
        for step in self.steps:
            pixels = step(pixels, uniforms[at : at + step.draws])
            at += step.draws
        if pixels is not out:
            out[...] = pixels


def augmented(crop: windows.Windowed, steps: Sequence[Step]) -> windows.Windowed:
    """Returns the crop followed by steps, or alone where there are none.

    Numbers of a crop are the first that are drawn, so it is the same with steps.
    """
    if not steps:
        return crop
    return Augmented(
        crop.name,
        crop.image_size,
        crop.draws + sum(step.draws for step in steps),
        crop=crop,
        steps=tuple(steps),
        turn=crop.turn,
        augments=", ".join(step.said for step in steps),
    )
