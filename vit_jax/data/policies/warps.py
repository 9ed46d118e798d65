"""Rotations, shears and shifts of uint8 [h, w, 3]; what comes from outside is filled.

Two arithmetics. Pillow's, which timm uses, interpolates between 4 or 16 pixels and cuts
the result off to a level: here in float32, so that a pixel in a thousand is a level
off. TensorFlow's `ImageProjectiveTransformV3`, which big_vision uses, takes the nearest
pixel: bit for bit, from a map that is made once for every matrix.
"""

import functools
import math
from collections.abc import Callable

import cv2
import numpy as np

from vit_jax.data.policies import scratch

Fill = tuple[int, int, int]
Matrix = tuple[float, float, float, float, float, float]


def nearest(image: np.ndarray, matrix: Matrix, fill: Fill) -> np.ndarray:
    """Returns the image with pixel (x, y) from (a x + b y + c, d x + e y + f).

    Args:
        image: uint8 [h, w, 3].
        matrix: a, b, c, d, e and f, in pixels.
        fill: Where that is outside.
    """
    return cv2.remap(
        image,
        _nearest_map(matrix, image.shape[0], image.shape[1]),
        np.empty(0),
        cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=fill,
    )


# Levels of a run are few, and images of one size: 200 KB each at 224 pixels.
@functools.lru_cache(maxsize=32)
def _nearest_map(matrix: Matrix, height: int, width: int) -> np.ndarray:
    """Where each pixel comes from, int16 [h, w, 2]; halves are rounded away from 0."""
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None]
    a, b, c, d, e, f = np.array(matrix, np.float32)
    places = np.stack([a * x + b * y + c, d * x + e * y + f], -1)
    return np.trunc(places + np.copysign(np.float32(0.5), places)).astype(np.int16)


def turning(degrees: float, height: int, width: int) -> Matrix:
    """Returns the matrix of a rotation about the centre, for `nearest`."""
    turn = np.float32(degrees * math.pi / 180)
    cos, sin = np.cos(turn), np.sin(turn)
    right, bottom = np.float32(width - 1), np.float32(height - 1)
    across = (right - (cos * right - sin * bottom)) / np.float32(2)
    down = (bottom - (sin * right + cos * bottom)) / np.float32(2)
    return cos, -sin, across, sin, cos, down


def rotate(image: np.ndarray, degrees: float, *, cubic: bool, fill: Fill) -> np.ndarray:
    """Turns about the centre, counterclockwise, as Pillow's `Image.rotate`."""
    if degrees % 360.0 == 0.0:
        return image
    if cubic:
        from PIL import Image as pillow

        # OpenCV has another cubic (a = -0.75 in place of -0.5).
        cubic_too = pillow.fromarray(image).rotate(
            degrees, pillow.Resampling.BICUBIC, fillcolor=fill
        )
        return np.asarray(cubic_too)
    height, width = image.shape[:2]
    turn = -math.radians(degrees)
    cos, sin = round(math.cos(turn), 15), round(math.sin(turn), 15)
    # Of Pillow's coordinates, in which the first pixel's centre is at one half.
    across = width / 2 - cos * width / 2 - sin * height / 2
    down = height / 2 + sin * width / 2 - cos * height / 2
    x = np.arange(width) + 0.5
    y = np.arange(height)[:, None] + 0.5
    inside = _within(cos * x + (sin * y + across), width)
    inside &= _within(-sin * x + (cos * y + down), height)
    half = (cos + sin - 1) / 2, (cos - sin - 1) / 2
    matrix = np.array([[cos, sin, across + half[0]], [-sin, cos, down + half[1]]])
    turned = cv2.warpAffine(
        scratch.as_floats(0, image),
        matrix,
        (width, height),
        dst=scratch.floats(1, image.shape),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.uint8)
    return _filled(turned, inside, fill)


def _within(places: np.ndarray, size: int) -> np.ndarray:
    return (places >= 0) & (places < size)


def _filled(image: np.ndarray, inside: np.ndarray, fill: Fill) -> np.ndarray:
    """Fills what is not inside, in place."""
    return cv2.copyTo(
        _ground(fill, image.shape), np.logical_not(inside).view(np.uint8), image
    )


@functools.lru_cache(maxsize=8)
def _ground(fill: Fill, shape: tuple[int, ...]) -> np.ndarray:
    ground = np.empty(shape, np.uint8)
    ground[...] = fill
    return ground


def shear_x(image: np.ndarray, factor: float, *, cubic: bool, fill: Fill) -> np.ndarray:
    """Moves each row to the left by `factor` times its place."""
    shifts = factor * (np.arange(image.shape[0]) + 0.5)
    return _shifted(image, shifts, cubic, fill)


def shear_y(image: np.ndarray, factor: float, *, cubic: bool, fill: Fill) -> np.ndarray:
    """Moves each column up by `factor` times its place."""
    return _turned(shear_x, image, factor, cubic, fill)


def translate_x(
    image: np.ndarray, pixels: float, *, cubic: bool, fill: Fill
) -> np.ndarray:
    """Moves the image to the left."""
    return _shifted(image, np.full(image.shape[0], float(pixels)), cubic, fill)


def translate_y(
    image: np.ndarray, pixels: float, *, cubic: bool, fill: Fill
) -> np.ndarray:
    """Moves the image up."""
    return _turned(translate_x, image, pixels, cubic, fill)


def _turned(
    operation: Callable[..., np.ndarray],
    image: np.ndarray,
    amount: float,
    cubic: bool,
    fill: Fill,
) -> np.ndarray:
    """An operation along rows, along columns."""
    moved = operation(cv2.transpose(image), amount, cubic=cubic, fill=fill)
    return cv2.transpose(moved)


def _shifted(
    image: np.ndarray, shifts: np.ndarray, cubic: bool, fill: Fill
) -> np.ndarray:
    """Reads row y at x + shifts[y], between its pixels: float64 [h]."""
    height, width = image.shape[:2]
    wholes = np.floor(shifts).astype(np.int64)
    parts = (shifts - wholes).astype(np.float32)[:, None]
    first, taps = (-1, 4) if cubic else (0, 2)
    # Whoever reads this far outside gets the fill: enough of the last pixels.
    wholes = wholes.clip(-width - 1, width + 1)
    left = max(0, -(int(wholes.min()) + first))
    right = max(0, int(wholes.max()) + first + taps - 1)
    border = 0, 0, left, right
    padded = cv2.copyMakeBorder(image, *border, cv2.BORDER_REPLICATE)
    row, column, byte = padded.strides
    size = (width + taps - 1) * 3
    places = padded.shape[1] - width - taps + 2
    lines = np.lib.stride_tricks.as_strided(
        padded, (height, places, size), (row, column, byte), writeable=False
    )[np.arange(height), wholes + first + left]
    tapped = [lines[:, 3 * k : 3 * (k + width)] for k in range(taps)]
    mixed = (_cubic if cubic else _linear)(tapped, parts)
    x = np.arange(width) + 0.5
    inside = _within(x + shifts[:, None], width)
    return _filled(mixed.reshape(height, width, 3), inside, fill)


def _linear(taps: list[np.ndarray], part: np.ndarray) -> np.ndarray:
    mixed = scratch.floats(0, taps[0].shape)
    np.subtract(taps[1], taps[0], out=mixed, dtype=np.float32)
    mixed *= part
    mixed += taps[0]
    return mixed.astype(np.uint8)


def _cubic(taps: list[np.ndarray], part: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -1, which is that of Pillow's transforms."""
    before, at, after, beyond = taps
    mixed, first, last, slope = (scratch.floats(k, at.shape) for k in range(4))
    np.subtract(before, at, out=first, dtype=np.float32)
    np.subtract(after, beyond, out=last, dtype=np.float32)
    np.subtract(after, before, out=slope, dtype=np.float32)
    np.add(first, last, out=mixed)
    mixed *= -part
    first += first
    first += last
    mixed += first
    mixed *= part
    mixed += slope
    mixed *= part
    mixed += at
    np.clip(mixed, 0, 255, out=mixed)
    return mixed.astype(np.uint8)
