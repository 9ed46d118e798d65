"""Operations that look at levels and not at places, on uint8 [h, w, 3].

They have the values of Pillow's `ImageOps` and `ImageEnhance`, which timm and
torchvision call, or those of TensorFlow's arithmetic in big_vision's operations, bit
for bit unless a function says otherwise. None writes to the image that it is given.
"""

from typing import Any

import cv2
import numpy as np

from vit_jax.data.policies import scratch

# Of ITU-R 601-2 in 16 bits, as Pillow has them: exact in float32.
_LUMA = np.array([[19595, 38470, 7471]], np.float32) / np.float32(65536)
# Of `tf.image.rgb_to_grayscale`, on numbers of 0..1 that become levels again by 255.5.
_TF_LUMA = np.array([[0.2989, 0.587, 0.114]], np.float32) * np.float32(255.5 / 255)
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / np.float32(13)
_LEVELS = np.arange(256, dtype=np.int64)
_FLOATS = np.arange(256, dtype=np.float32)


def mapped(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Returns the image with every level replaced.

    Args:
        image: uint8 [h, w, 3].
        table: uint8 [256], or [256, 3] for each channel.
    """
    return cv2.LUT(image, table.reshape(256, 1, -1))


def invert(image: np.ndarray) -> np.ndarray:
    """Returns 255 minus the levels."""
    return cv2.bitwise_not(image)


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Inverts the levels from a threshold on."""
    table = np.where(_LEVELS < threshold, _LEVELS, 255 - _LEVELS)
    return mapped(image, table.astype(np.uint8))


def solarize_add(image: np.ndarray, addition: int) -> np.ndarray:
    """Adds to the levels below 128."""
    table = np.where(_LEVELS < 128, np.minimum(_LEVELS + addition, 255), _LEVELS)
    return mapped(image, table.astype(np.uint8))


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keeps the highest bits of each level; 8 and more keep all."""
    if bits >= 8:
        return image
    mask = (0xFF << (8 - bits)) & 0xFF
    return mapped(image, (_LEVELS & mask).astype(np.uint8))


def autocontrast(image: np.ndarray, *, precise: bool = True) -> np.ndarray:
    """Stretches each channel to 0..255; one of a single level stays.

    Args:
        image: uint8 [h, w, 3].
        precise: In float64, as Pillow; else in float32, as big_vision.
    """
    kind: Any = np.float64 if precise else np.float32
    table = np.empty((256, 3), np.uint8)
    for channel, plane in enumerate(cv2.split(image)):
        low, high, _, _ = cv2.minMaxLoc(plane)
        if high <= low:
            table[:, channel] = _LEVELS
            continue
        scale = kind(255.0) / kind(high - low)
        stretched = _LEVELS.astype(kind) * scale + kind(-low) * scale
        table[:, channel] = np.clip(stretched, 0, 255).astype(np.uint8)
    return mapped(image, table)


def equalize(image: np.ndarray) -> np.ndarray:
    """Makes the levels of each channel about equally frequent."""
    table = np.empty((256, 3), np.uint8)
    for channel in range(3):
        counted = cv2.calcHist([image], [channel], None, [256], [0, 256])
        counts = counted.ravel().astype(np.int64)
        step = (counts.sum() - counts[counts.nonzero()[0][-1]]) // 255
        if step == 0:
            table[:, channel] = _LEVELS
            continue
        below = counts.cumsum() - counts
        table[:, channel] = np.minimum((below + step // 2) // step, 255)
    return mapped(image, table)


def grey(image: np.ndarray) -> np.ndarray:
    """Returns Pillow's grey levels, uint8 [h, w]."""
    return _weighted(image, _LUMA, 0.5)


def _tf_grey(image: np.ndarray) -> np.ndarray:
    """TensorFlow's, but for a level where its sum is next to a whole number."""
    return _weighted(image, _TF_LUMA, 0.0)


def _weighted(image: np.ndarray, weights: np.ndarray, half: float) -> np.ndarray:
    levels: np.ndarray = cv2.transform(scratch.as_floats(0, image), weights)
    levels += half
    return levels.astype(np.uint8)


def blend(plain: np.ndarray, image: np.ndarray, factor: float) -> np.ndarray:
    """Returns plain + factor (image - plain), cut off to a level of 0..255."""
    if factor == 0.0:
        return plain
    if factor == 1.0:
        return image
    mixed = scratch.floats(0, image.shape)
    np.subtract(image, plain, out=mixed, dtype=np.float32)
    mixed *= np.float32(factor)
    mixed += plain
    if not 0.0 < factor < 1.0:
        np.clip(mixed, 0, 255, out=mixed)
    return mixed.astype(np.uint8)


def _blend_constant(level: int, image: np.ndarray, factor: float) -> np.ndarray:
    if factor == 1.0:
        return image
    mixed = np.float32(level) + np.float32(factor) * (_FLOATS - np.float32(level))
    return mapped(image, np.clip(mixed, 0, 255).astype(np.uint8))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Goes from black, at 0, through the image, at 1, and beyond."""
    return _blend_constant(0, image, factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Goes from the mean grey, rounded, through the image and beyond."""
    return _blend_constant(int(cv2.mean(grey(image))[0] + 0.5), image, factor)


def tf_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Does as `contrast` with the mean cut off to a level."""
    return _blend_constant(int(cv2.mean(_tf_grey(image))[0]), image, factor)


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Goes from grey through the image to stronger colours."""
    return blend(cv2.cvtColor(grey(image), cv2.COLOR_GRAY2RGB), image, factor)


def tf_color(image: np.ndarray, factor: float) -> np.ndarray:
    """Does as `color` with TensorFlow's grey, a level off now and then."""
    return blend(cv2.cvtColor(_tf_grey(image), cv2.COLOR_GRAY2RGB), image, factor)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Goes from the image smoothed, but for its border, through it and beyond."""
    return blend(_smooth(image, 0.5), image, factor)


def tf_sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Does as `sharpness` with the means cut off to levels.

    Means that are whole numbers are so in exact arithmetic, and may be a level lower in
    float32: they are here where they are in TensorFlow.
    """
    return blend(_smooth(image, 0.0), image, factor)


def _smooth(image: np.ndarray, delta: float) -> np.ndarray:
    """The mean of 3x3 pixels, the middle one five times, plus delta, cut off."""
    means = scratch.floats(1, image.shape)
    cv2.filter2D(scratch.as_floats(0, image), -1, _SMOOTH, dst=means, delta=delta)
    smooth = means.astype(np.uint8)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        smooth[edge] = image[edge]
    return smooth


def gaussian_blur(image: np.ndarray, radius: float) -> np.ndarray:
    """Blurs as Pillow does: three boxes in each direction, in place of a Gaussian.

    Each is rounded to levels, where float32 may decide a half otherwise: a level.
    """
    kernel = _box(radius)
    for kernels in (kernel, kernel.reshape(-1, 1)):
        for _ in range(3):
            image = cv2.filter2D(image, -1, kernels, borderType=cv2.BORDER_REPLICATE)
    return image


def _box(radius: float) -> np.ndarray:
    """Weights [1, 2 r + 3] of a box whose outermost pixels count in part.

    Three of them have the variance of a Gaussian (Gwosdek et al., 2011, equations 7,
    11 and 14).
    """
    variance = radius * radius / 3
    whole = np.floor((np.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    part /= 6 * (variance - (whole + 1) ** 2)
    inner = int((1 << 24) / (2 * (whole + part) + 1))
    outer = ((1 << 24) - (2 * int(whole) + 1) * inner) // 2
    weights = [outer, *[inner] * (2 * int(whole) + 1), outer]
    return np.array([weights], np.float32) / np.float32(1 << 24)
