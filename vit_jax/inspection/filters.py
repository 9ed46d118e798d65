"""Principal components of the filters that see pixels (the paper's Figure 7, left)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.models.vit_architecture import VitArchitecture

COUNT = 28  # as many as the paper shows, in 4 rows


@dataclasses.dataclass(frozen=True)
class Filters:
    """The first principal components of a model's filters.

    Attributes:
        what: Which filters they are of, in words.
        components: float32 [k, h, w, channels], of length 1, the largest variance
            first.
        variance: float64 [k]: the share of all variance that each explains.
    """

    what: str
    components: np.ndarray
    variance: np.ndarray

    @property
    def images(self) -> np.ndarray:
        """The components as uint8 [k, h, w, 3], each from its least to its largest."""
        return as_images(self.components)


def filters(
    params: Mapping[str, Any], arch: VitArchitecture, count: int = COUNT
) -> Filters:
    """Returns the components of the patch embedding, of a hybrid of its root.

    Args:
        params: Nested dicts of arrays, as `Loaded.params`.
        arch: Of the model.
        count: How many at most.
    """
    if arch.resnet is None:
        what, kernel = "the patch embedding", params["patch_embed"]["kernel"]
        return Filters(what, *principal(np.asarray(kernel), count))
    kernel = np.asarray(params["resnet"]["root"]["conv"]["kernel"], np.float64)
    kernel = kernel - kernel.mean(axis=(0, 1, 2))  # as the convolution uses it
    kernel = kernel / np.maximum(kernel.std(axis=(0, 1, 2)), 1e-10)
    return Filters("the ResNet's first convolution", *principal(kernel, count))


def principal(kernel: np.ndarray, count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    """Returns the principal components of filters, and the variance they explain.

    Args:
        kernel: [h, w, channels, filters].
        count: How many at most; there are no more than filters or weights of one.

    Returns:
        float32 [k, h, w, channels] of length 1, whose largest weight is positive, and
        float64 [k], the shares of the variance over filters.
    """
    height, width, channels, filters = kernel.shape
    flat = kernel.reshape(-1, filters).T.astype(np.float64)
    _, values, components = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    components = components[:count]
    largest = np.abs(components).argmax(axis=1, keepdims=True)
    components = components * np.sign(np.take_along_axis(components, largest, axis=1))
    squares = values**2
    variance = (squares / max(squares.sum(), np.finfo(float).tiny))[:count]
    shape = (-1, height, width, channels)
    return components.reshape(shape).astype(np.float32), variance


def as_images(components: np.ndarray) -> np.ndarray:
    """Returns components as uint8 [k, h, w, 3], each from its least to its largest.

    One channel is shown as grey, three as colours; of other numbers the mean, as grey.
    """
    x = components.astype(np.float64)
    if x.shape[-1] != 3:
        x = np.repeat(x.mean(axis=-1, keepdims=True), 3, axis=-1)
    least = x.min(axis=(1, 2, 3), keepdims=True)
    span = x.max(axis=(1, 2, 3), keepdims=True) - least
    return np.round(255 * (x - least) / np.maximum(span, 1e-12)).astype(np.uint8)
