"""Attention rollout: how much of each input token reaches an output (appendix D.8)."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter


def rollout(
    layers: Sequence[np.ndarray], weights: np.ndarray | None = None
) -> np.ndarray:
    """Multiplies the attention of all layers (Abnar and Zuidema, 2020).

    Of each layer the mean over its heads, plus the identity for the residual branch,
    rows divided by their sums; what comes out of layer i is that times what came into
    it. An axial block is two layers.

    Args:
        layers: [h, n, n] each, the first layer first.
        weights: [n], how much of each last token is looked at (`attention.weights`);
            None: all of them, one by one.

    Returns:
        float64 [n, n]: row q has the shares of the input tokens in output token q, of
        sum 1. With `weights` [n]: their weighted mean.
    """
    if not len(layers):
        raise ValueError("rollout wants the attention of one layer or more")
    n = layers[0].shape[-1]
    flow = np.eye(n) if weights is None else np.asarray(weights, np.float64)
    for layer in reversed(layers):
        mixed = layer.mean(axis=0, dtype=np.float64) + np.eye(n)
        flow = flow @ (mixed / mixed.sum(axis=-1, keepdims=True))
    return flow


def mask(
    values: np.ndarray, stride: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Returns values of patches as a smooth mask of an image, as the authors show it.

    Divided by their maximum, resampled by Lanczos and blurred by a Gaussian with the
    radius of a patch.

    Args:
        values: [rows, columns], none negative.
        stride: (height, width) of a patch in pixels.
        size: (height, width) of the image. What no patch covers has the value of the
            nearest one.

    Returns:
        float32 [height, width] in [0, 1].
    """
    rows, columns = values.shape
    largest = values.max()
    shares = (values / largest if largest > 0 else values).astype(np.float32)
    covered = columns * stride[1], rows * stride[0]
    smooth = Image.fromarray(shares).resize(covered, Image.Resampling.LANCZOS)
    levels = np.clip(np.asarray(smooth) * 255, 0, 255).astype(np.uint8)
    blur = ImageFilter.GaussianBlur(max(stride))
    blurred = np.asarray(Image.fromarray(levels).filter(blur))
    height, width = size
    missing = (max(height - covered[1], 0), max(width - covered[0], 0))
    full = np.pad(blurred, ((0, missing[0]), (0, missing[1])), mode="edge")
    return full[:height, :width].astype(np.float32) / 255


def masked(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns a uint8 image [h, w, 3] times a mask [h, w]."""
    return (image * (mask / max(mask.max(), 1e-6))[..., None]).astype(np.uint8)
