"""Colour jitter, as torchvision's `ColorJitter` on Pillow's images."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from vit_jax.data.policies import pixels
from vit_jax.data.policies.steps import Step

_ORDERS = tuple(itertools.permutations(range(4)))


def hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turns the hues by a share of the circle, -0.5 to 0.5, in Pillow's HSV."""
    from PIL import Image as pillow

    turned = np.array(pillow.fromarray(image).convert("HSV"))
    turned[..., 0] += np.uint8(int(shift * 255) % 256)
    height, width = image.shape[:2]
    stored = pillow.frombuffer("HSV", (width, height), turned, "raw", "HSV", 0, 1)
    return np.asarray(stored.convert("RGB"))


_CHANGES: tuple[Callable[[np.ndarray, float], np.ndarray], ...] = (
    *(pixels.brightness, pixels.contrast, pixels.color),
    hue,
)


@dataclasses.dataclass(frozen=True)
class ColorJitter(Step):
    """Brightness, contrast, saturation and hue in an order that is drawn.

    Attributes:
        spreads: Of each: factors are uniform in 1 - spread (at least 0) to 1 + spread,
            turns of the hue in -spread to spread. What has none is left out.
    """

    spreads: tuple[float, float, float, float]

    def __call__(self, image: np.ndarray, uniforms: Sequence[float]) -> np.ndarray:
        """Applies what the numbers choose."""
        order, *drawn = uniforms
        for which in _ORDERS[int(order * len(_ORDERS))]:
            spread = self.spreads[which]
            if spread:
                middle = 0.0 if _CHANGES[which] is hue else 1.0
                low, high = middle - spread, middle + spread
                low = max(low, 0.0) if middle else low
                image = _CHANGES[which](image, low + drawn[which] * (high - low))
        return image


def color_jitter(spreads: tuple[float, float, float, float]) -> ColorJitter:
    """Returns the step."""
    shown = spreads if spreads[3] else spreads[:3]
    return ColorJitter(f"color_jitter={shown}", 5, spreads)
