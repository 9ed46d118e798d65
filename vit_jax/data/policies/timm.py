"""timm's RandAugment and 3-Augment: its operations on Pillow's arithmetic.

`rand-m9-mstd0.5-inc1` is timm's notation and means what it means there; see `parse`.
"""

import dataclasses
import math
import re
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vit_jax import errors
from vit_jax.data.policies import pixels, warps
from vit_jax.data.policies.steps import Step

_DENOMINATOR = 10.0
_PER_LAYER = 6
_NORMAL = statistics.NormalDist()
_ABOVE_ZERO = 2.0**-54


class Draw(NamedTuple):
    """How one operation is applied."""

    share: float  # magnitude / 10
    sign: float  # 1 or -1, of what has a direction
    within: float  # in [0, 1), of what has a range of its own
    cubic: bool  # else bilinear
    fill: warps.Fill


Operation = Callable[[np.ndarray, Draw], np.ndarray]


def _enhance(draw: Draw) -> float:
    return draw.share * 1.8 + 0.1


def _increasing(draw: Draw) -> float:
    return max(0.1, 1.0 + draw.sign * draw.share * 0.9)


def _bits(draw: Draw) -> int:
    return int(draw.share * 4)


def _threshold(draw: Draw) -> int:
    return min(256, int(draw.share * 256))


def _enhanced(
    operation: Callable[[np.ndarray, float], np.ndarray],
    factor: Callable[[Draw], float],
) -> Operation:
    return lambda image, draw: operation(image, factor(draw))


def _moved(
    operation: Callable[..., np.ndarray], most: Callable[[np.ndarray], float]
) -> Operation:
    """A rotation, shear or shift by a share of the most that there is."""

    def apply(image: np.ndarray, draw: Draw) -> np.ndarray:
        amount = draw.sign * draw.share * most(image)
        return operation(image, amount, cubic=draw.cubic, fill=draw.fill)

    return apply


def _desaturate(image: np.ndarray, draw: Draw) -> np.ndarray:
    strength = max(0.5, min(1.0, 0.5 + 0.5 * draw.share))
    return pixels.color(image, 1.0 - strength)


def _blur(image: np.ndarray, draw: Draw) -> np.ndarray:
    radius = max(0.1, min(2.0, 0.1 + 1.9 * draw.share))
    return pixels.gaussian_blur(image, radius)


def _blur_at_random(image: np.ndarray, draw: Draw) -> np.ndarray:
    highest = 2.0 * max(0.0, min(1.0, draw.share))
    return pixels.gaussian_blur(image, 0.1 + draw.within * (highest - 0.1))


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda image, _: pixels.autocontrast(image),
    "Equalize": lambda image, _: pixels.equalize(image),
    "Invert": lambda image, _: pixels.invert(image),
    "Rotate": _moved(warps.rotate, lambda image: 30.0),
    "Posterize": lambda image, draw: pixels.posterize(image, _bits(draw)),
    "PosterizeIncreasing": lambda image, draw: pixels.posterize(image, 4 - _bits(draw)),
    "Solarize": lambda image, draw: pixels.solarize(image, _threshold(draw)),
    "SolarizeIncreasing": lambda image, draw: pixels.solarize(
        image, 256 - _threshold(draw)
    ),
    "SolarizeAdd": lambda image, draw: pixels.solarize_add(
        image, min(128, int(draw.share * 110))
    ),
    "Color": _enhanced(pixels.color, _enhance),
    "ColorIncreasing": _enhanced(pixels.color, _increasing),
    "Contrast": _enhanced(pixels.contrast, _enhance),
    "ContrastIncreasing": _enhanced(pixels.contrast, _increasing),
    "Brightness": _enhanced(pixels.brightness, _enhance),
    "BrightnessIncreasing": _enhanced(pixels.brightness, _increasing),
    "Sharpness": _enhanced(pixels.sharpness, _enhance),
    "SharpnessIncreasing": _enhanced(pixels.sharpness, _increasing),
    "ShearX": _moved(warps.shear_x, lambda image: 0.3),
    "ShearY": _moved(warps.shear_y, lambda image: 0.3),
    "TranslateXRel": _moved(warps.translate_x, lambda image: 0.45 * image.shape[1]),
    "TranslateYRel": _moved(warps.translate_y, lambda image: 0.45 * image.shape[0]),
    "Desaturate": _desaturate,
    "GaussianBlur": _blur,
    "GaussianBlurRand": _blur_at_random,
}

_BOTH = ("AutoContrast", "Equalize", "Invert", "Rotate")
_WARPS = ("ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
_ENHANCE = ("Color", "Contrast", "Brightness", "Sharpness")
_PLAIN = (*_BOTH, "Posterize", "Solarize", "SolarizeAdd", *_ENHANCE, *_WARPS)
_INCREASING = (
    *(*_BOTH, "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd"),
    *(f"{name}Increasing" for name in _ENHANCE),
    *_WARPS,
)
# By timm's `t` section; with weights they are drawn without replacement.
SETS: dict[str, dict[str, float]] = {
    "3a": dict.fromkeys(("SolarizeIncreasing", "Desaturate", "GaussianBlur"), 0.0),
    "3aw": {
        **{"SolarizeIncreasing": 6, "Desaturate": 6, "GaussianBlur": 6, "Rotate": 3},
        **{"ShearX": 2, "ShearY": 2, "PosterizeIncreasing": 1, "AutoContrast": 1},
        **{"ColorIncreasing": 1, "SharpnessIncreasing": 1, "ContrastIncreasing": 1},
        **{"BrightnessIncreasing": 1, "Equalize": 1, "Invert": 1},
    },
    "weights": {
        **{"Rotate": 3, "ShearX": 2, "ShearY": 2, "TranslateXRel": 1},
        **{"TranslateYRel": 1, "ColorIncreasing": 0.25, "SharpnessIncreasing": 0.25},
        **{"AutoContrast": 0.25, "SolarizeIncreasing": 0.05, "SolarizeAdd": 0.05},
        **{"ContrastIncreasing": 0.05, "BrightnessIncreasing": 0.05},
        **{"Equalize": 0.05, "PosterizeIncreasing": 0.05, "Invert": 0.05},
    },
}
INTERPOLATIONS = ("bilinear", "bicubic", "random")


@dataclasses.dataclass(frozen=True)
class Look:
    """How the operations that move pixels do it."""

    interpolation: str  # of `INTERPOLATIONS`
    fill: warps.Fill

    def draw(
        self, share: float, sign: float, within: float, interpolation: float
    ) -> Draw:
        """Returns how an operation is applied."""
        cubic = self.interpolation == "bicubic"
        if self.interpolation == "random":
            cubic = interpolation >= 0.5
        return Draw(share, 1.0 if sign < 0.5 else -1.0, within, cubic, self.fill)


@dataclasses.dataclass(frozen=True)
class RandAugment(Step):
    """Operations, each applied with a probability, about a magnitude.

    Attributes:
        look: How pixels are moved.
        names: Of the operations that there are.
        weights: Of each, drawn without replacement then; (): all alike, with.
        probability: With which each is applied.
        magnitude: Of 10.
        deviation: Of the magnitude, normal; infinity: uniform from 0 to it.
        highest: Magnitude that there may be.
    """

    look: Look
    names: tuple[str, ...]
    weights: tuple[float, ...]
    probability: float
    magnitude: float
    deviation: float
    highest: float

    def __call__(self, image: np.ndarray, uniforms: Sequence[float]) -> np.ndarray:
        """Applies what the numbers choose."""
        names, weights = list(self.names), list(self.weights)
        for at in range(0, self.draws, _PER_LAYER):
            choice, applies, magnitude, *rest = uniforms[at : at + _PER_LAYER]
            index = int(choice * len(names))
            if weights:
                index = _weighted(choice, weights)
            name = names[index]
            if weights:
                del names[index], weights[index]
            if applies < self.probability:
                draw = self.look.draw(self._drawn(magnitude) / _DENOMINATOR, *rest)
                image = OPERATIONS[name](image, draw)
        return image

    def _drawn(self, uniform: float) -> float:
        """A magnitude."""
        magnitude = self.magnitude
        if math.isinf(self.deviation):
            magnitude *= uniform
        elif self.deviation:
            standard = _NORMAL.inv_cdf(max(uniform, _ABOVE_ZERO))
            magnitude += self.deviation * standard
        return max(0.0, min(magnitude, self.highest))


def _weighted(uniform: float, weights: Sequence[float]) -> int:
    left = uniform * sum(weights)
    for index, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return index
    return len(weights) - 1


_THREE = (("Solarize", 0.5), ("Desaturate", 1.0), ("GaussianBlurRand", 1.0))


@dataclasses.dataclass(frozen=True)
class ThreeAugment(Step):
    """Solarized from 128 on, grey or blurred by 0.1 to 2 pixels (DeiT III, 2022)."""

    look: Look

    def __call__(self, image: np.ndarray, uniforms: Sequence[float]) -> np.ndarray:
        """Applies what the numbers choose."""
        name, share = _THREE[int(uniforms[0] * 3)]
        return OPERATIONS[name](image, self.look.draw(share, 0.0, uniforms[1], 0.0))


def three_augment(said: str, look: Look) -> ThreeAugment:
    """Returns the step; `said` is how a configuration asked for it."""
    return ThreeAugment(said, 2, look)


# Sections of the notation, which `parse` explains, and what they are if not there.
_DEFAULTS = {"m": 10.0, "n": 2.0, "p": 0.5, "mstd": 0.0, "mmax": 10.0, "inc": 0.0}
_UNIFORM_FROM = 100.0  # `mstd` above it is uniform
_MOST_LAYERS = 16


def parse(policy: str, look: Look) -> RandAugment:
    """Returns what `rand-m9-n2-p0.5-mstd0.5-mmax10-inc1-tweights` asks for.

    `m` magnitude (10), `n` operations an image (2), `p` probability of each (0.5),
    `mstd` deviation of the magnitude (0; above 100 uniform from 0), `mmax` its highest
    value (10), `inc1` operations that grow stronger with it, `t` a set of operations:
    weights, 3a, 3aw.

    Raises:
        errors.UserError: anything else.
    """
    said: dict[str, float] = {}
    names: dict[str, float] | None = None
    for section in policy.split("-")[1:]:
        if section.startswith("t"):
            names = errors.lookup(SETS, section[1:], f"{policy}: operations")
            continue
        match = re.fullmatch(r"([a-z]+)(\d+\.?\d*)", section)
        if match is None or match[1] not in _DEFAULTS:
            raise errors.UserError(
                f"auto_augment={policy!r} cannot be read at {section!r}; wanted rand "
                "and sections such as -m9, -n2, -p0.5, -mstd0.5, -mmax10, -inc1, "
                "-tweights"
            )
        said[match[1]] = float(match[2])
    return _made(policy, look, names, _DEFAULTS | said)


def _made(
    policy: str,
    look: Look,
    names: dict[str, float] | None,
    values: dict[str, float],
) -> RandAugment:
    if names is None:
        names = dict.fromkeys(_INCREASING if values["inc"] else _PLAIN, 0.0)
    weights = tuple(names.values()) if any(names.values()) else ()
    layers, most = values["n"], len(weights) or _MOST_LAYERS
    if not layers.is_integer() or not 1 <= layers <= most or values["p"] > 1:
        raise errors.UserError(
            f"auto_augment={policy!r}: wanted n1 to n{most} operations an image, each "
            "with a probability p of at most 1"
        )
    uniform = values["mstd"] > _UNIFORM_FROM
    return RandAugment(
        *(f"auto_augment={policy!r}", _PER_LAYER * int(layers), look),
        *(tuple(names), weights),
        probability=values["p"],
        magnitude=values["m"],
        deviation=math.inf if uniform else values["mstd"],
        highest=values["mmax"] or _DENOMINATOR,
    )
