"""Random erasing (Zhong et al., 2017), as timm applies it to normalised images.

Noise is normal there, of mean 0 and deviation 1. Here it is that, taken back to levels:
rounded, and cut off at 0 and 255.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from vit_jax.data import draws
from vit_jax.data.policies.steps import Step

_AREA = 0.02, 1 / 3  # share of the image, over all boxes
_LOG_ASPECT = math.log(0.3), -math.log(0.3)
_ATTEMPTS = 10
_PER_BOX = 2 * _ATTEMPTS + 3
_WORD = 2**16


@dataclasses.dataclass(frozen=True)
class RandomErasing(Step):
    """Boxes of the image become noise.

    Attributes:
        probability: With which any are.
        most: Boxes of an image: 1 to so many.
        fill: From a box's height and width and a number in [0, 1) to its pixels.
    """

    probability: float
    most: int
    fill: Callable[[int, int, float], np.ndarray]

    def __call__(self, image: np.ndarray, uniforms: Sequence[float]) -> np.ndarray:
        """Applies what the numbers choose."""
        applies, number, *rest = uniforms
        if applies >= self.probability:
            return image
        image = image.copy()
        count = 1 + int(number * self.most)
        for at in range(0, count * _PER_BOX, _PER_BOX):
            top, left, noise, *sides = rest[at : at + _PER_BOX]
            height, width = _sides(image.shape[:2], count, sides)
            y = int(top * (image.shape[0] - height + 1))
            x = int(left * (image.shape[1] - width + 1))
            box = image[y : y + height, x : x + width]
            box[...] = self.fill(height, width, noise)
        return image


def _sides(
    size: tuple[int, ...], count: int, uniforms: Sequence[float]
) -> tuple[int, int]:
    """Height and width of a box; nothing where none of the attempts fits."""
    for area, aspect in zip(uniforms[::2], uniforms[1::2]):
        share = _AREA[0] + area * (_AREA[1] - _AREA[0])
        pixels = share * size[0] * size[1] / count
        ratio = math.exp(_LOG_ASPECT[0] + aspect * (_LOG_ASPECT[1] - _LOG_ASPECT[0]))
        height, width = (
            round(math.sqrt(pixels * ratio)),
            round(math.sqrt(pixels / ratio)),
        )
        if height < size[0] and width < size[1]:
            return height, width
    return 0, 0


@dataclasses.dataclass(frozen=True)
class _Noise:
    """Levels of normal noise, from 16 random bits: uint8 [3, 65536]."""

    levels: np.ndarray

    def pixels(self, height: int, width: int, uniform: float) -> np.ndarray:
        """Returns noise of each pixel, uint8 [height, width, 3]."""
        count = height * width * 3
        words = draws.words(int(uniform * 2**53), -(-count // 4))
        bits = words.view(np.uint16)[:count].reshape(height, width, 3)
        return np.stack([self.levels[c][bits[..., c]] for c in range(3)], -1)

    def color(self, height: int, width: int, uniform: float) -> np.ndarray:
        """Returns one colour for all, uint8 [1, 1, 3]."""
        return self.pixels(1, 1, uniform)


def _noise(mean: Sequence[float], std: Sequence[float]) -> _Noise:
    """A table in which each level is as frequent as in the noise."""
    tables = []
    for centre, spread in zip(mean, std):
        below = [
            round(_WORD * statistics.NormalDist(centre, spread).cdf(level + 0.5))
            for level in range(255)
        ]
        counts = np.diff([0, *below, _WORD])
        tables.append(np.repeat(np.arange(256, dtype=np.uint8), counts))
    return _Noise(np.stack(tables))


def _constant(
    mean: Sequence[float], std: Sequence[float]
) -> Callable[[int, int, float], np.ndarray]:
    colour = np.array([round(channel) for channel in mean], np.int64).clip(0, 255)
    return lambda height, width, uniform: colour.astype(np.uint8)


# By timm's names: the mean of the images, noise of a box, noise of each pixel.
MODES: dict[
    str,
    Callable[
        [Sequence[float], Sequence[float]], Callable[[int, int, float], np.ndarray]
    ],
] = {
    "const": _constant,
    "rand": lambda mean, std: _noise(mean, std).color,
    "pixel": lambda mean, std: _noise(mean, std).pixels,
}


def random_erasing(
    probability: float,
    mode: str,
    count: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> RandomErasing:
    """Returns the step.

    Args:
        probability: With which an image is erased at all.
        mode: Key of `MODES`.
        count: Boxes at most.
        mean: Of the images, in units of 0..255.
        std: The same.
    """
    said = f"erase={probability}"
    fill = MODES[mode](mean, std)
    return RandomErasing(said, 2 + count * _PER_BOX, probability, count, fill)
