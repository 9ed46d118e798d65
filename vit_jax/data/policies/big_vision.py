"""RandAugment (Cubuk et al., 2019) as AugReg and big_vision train with it.

Of 16 operations as many as there are layers are drawn, with replacement, and applied
one after the other at level / 10 of their ranges. Levels above 10 go beyond these.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vit_jax.data.policies import pixels, warps
from vit_jax.data.policies.steps import Step

FILL = (128, 128, 128)
_CUTOUT, _TRANSLATE = 40, 100  # pixels at level 10, whatever the size of the image
HIGHEST = 30
_PER_LAYER = 4


class Draw(NamedTuple):
    """How one operation is applied."""

    share: float  # level / 10
    sign: float  # 1 or -1, of what has a direction
    y: float  # where, in [0, 1), of what has a place
    x: float


Operation = Callable[[np.ndarray, Draw], np.ndarray]


def _enhance(draw: Draw) -> float:
    return draw.share * 1.8 + 0.1


def _rotate(image: np.ndarray, draw: Draw) -> np.ndarray:
    degrees = draw.sign * draw.share * 30.0
    return warps.nearest(image, warps.turning(degrees, *image.shape[:2]), FILL)


def _shear_x(image: np.ndarray, draw: Draw) -> np.ndarray:
    matrix = 1.0, draw.sign * draw.share * 0.3, 0.0, 0.0, 1.0, 0.0
    return warps.nearest(image, matrix, FILL)


def _shear_y(image: np.ndarray, draw: Draw) -> np.ndarray:
    matrix = 1.0, 0.0, 0.0, draw.sign * draw.share * 0.3, 1.0, 0.0
    return warps.nearest(image, matrix, FILL)


def _translate_x(image: np.ndarray, draw: Draw) -> np.ndarray:
    matrix = 1.0, 0.0, draw.sign * draw.share * _TRANSLATE, 0.0, 1.0, 0.0
    return warps.nearest(image, matrix, FILL)


def _translate_y(image: np.ndarray, draw: Draw) -> np.ndarray:
    matrix = 1.0, 0.0, 0.0, 0.0, 1.0, draw.sign * draw.share * _TRANSLATE
    return warps.nearest(image, matrix, FILL)


def _cutout(image: np.ndarray, draw: Draw) -> np.ndarray:
    height, width = image.shape[:2]
    half = int(draw.share * _CUTOUT)
    y, x = int(draw.y * height), int(draw.x * width)
    image = image.copy()
    image[max(0, y - half) : y + half, max(0, x - half) : x + half] = FILL
    return image


def _solarize(image: np.ndarray, draw: Draw) -> np.ndarray:
    # Compared with a tensor of uint8, the threshold is one: 256 of level 10 is 0, and
    # 384 of level 15 is 128. That is what the published models were trained with.
    return pixels.solarize(image, int(draw.share * 256) % 256)


def _posterize(image: np.ndarray, draw: Draw) -> np.ndarray:
    # TensorFlow shifts by 7 bits at most.
    return pixels.posterize(image, max(1, int(draw.share * 4)))


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda image, _: pixels.autocontrast(image, precise=False),
    "Equalize": lambda image, _: pixels.equalize(image),
    "Invert": lambda image, _: pixels.invert(image),
    "Rotate": _rotate,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "Color": lambda image, draw: pixels.tf_color(image, _enhance(draw)),
    "Contrast": lambda image, draw: pixels.tf_contrast(image, _enhance(draw)),
    "Brightness": lambda image, draw: pixels.brightness(image, _enhance(draw)),
    "Sharpness": lambda image, draw: pixels.tf_sharpness(image, _enhance(draw)),
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Cutout": _cutout,
    "SolarizeAdd": lambda image, draw: pixels.solarize_add(
        image, int(draw.share * 110)
    ),
}
_NAMES = tuple(OPERATIONS)


@dataclasses.dataclass(frozen=True)
class RandAugment(Step):
    """`layers` operations at `level`."""

    layers: int
    level: float

    def __call__(self, image: np.ndarray, uniforms: Sequence[float]) -> np.ndarray:
        """Applies what the numbers choose."""
        for at in range(0, self.draws, _PER_LAYER):
            choice, sign, y, x = uniforms[at : at + _PER_LAYER]
            operation = OPERATIONS[_NAMES[int(choice * len(_NAMES))]]
            draw = Draw(self.level / 10, 1.0 if sign < 0.5 else -1.0, y, x)
            image = operation(image, draw)
        return image


def randaugment(said: str, layers: int, level: float) -> RandAugment:
    """Returns the step; `said` is how a configuration asked for it."""
    return RandAugment(said, _PER_LAYER * layers, layers, level)
