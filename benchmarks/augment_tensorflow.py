"""big_vision's RandAugment in TensorFlow's operations, for `golden_augment` and speed.

What big_vision calls is gone (tensorflow_addons), so its 16 operations are written out
here from what they do; the sampling is the kernel that tensorflow_addons called. All of
it also traces into a graph, as `tf.data` wants.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

FILL = tf.constant(128, tf.uint8)


def _blend(plain: Any, image: Any, factor: float) -> Any:
    if factor in (0.0, 1.0):
        return image if factor else plain
    plain, image = tf.cast(plain, tf.float32), tf.cast(image, tf.float32)
    mixed = plain + factor * (image - plain)
    return tf.cast(tf.clip_by_value(mixed, 0.0, 255.0), tf.uint8)


def _project(image: Any, matrix: list[Any]) -> Any:
    """The nearest pixels; a channel of ones tells what is outside."""
    ones = tf.ones_like(image[..., :1])
    numbers = [tf.cast(number, tf.float32) for number in (*matrix, 0.0, 0.0)]
    made = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.concat([image, ones], 2)[None],
        transforms=tf.stack(numbers)[None],
        output_shape=tf.shape(image)[:2],
        interpolation="NEAREST",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )[0]
    return tf.where(made[..., 3:] == 1, made[..., :3], FILL)


def _rotate(image: Any, degrees: Any) -> Any:
    turn = tf.cast(degrees * math.pi / 180, tf.float32)
    cos, sin = tf.cos(turn), tf.sin(turn)
    down, across = (tf.constant(side - 1, tf.float32) for side in image.shape[:2])
    x = (across - (cos * across - sin * down)) / 2.0
    y = (down - (sin * across + cos * down)) / 2.0
    return _project(image, [cos, -sin, x, sin, cos, y])


def _autocontrast(image: Any) -> Any:
    planes = []
    for channel in range(3):
        plane = tf.cast(image[..., channel], tf.float32)
        low, high = tf.reduce_min(plane), tf.reduce_max(plane)
        scale = 255.0 / (high - low)
        stretched = tf.clip_by_value(plane * scale + -low * scale, 0.0, 255.0)
        planes.append(tf.cast(tf.where(high > low, stretched, plane), tf.uint8))
    return tf.stack(planes, 2)


def _equalize(image: Any) -> Any:
    planes = []
    for channel in range(3):
        plane = tf.cast(image[..., channel], tf.int32)
        counts = tf.histogram_fixed_width(plane, [0, 255], nbins=256)
        last = tf.boolean_mask(counts, counts != 0)[-1]
        step = (tf.reduce_sum(counts) - last) // 255
        safe = tf.maximum(step, 1)
        table = (tf.cumsum(counts, exclusive=True) + safe // 2) // safe
        table = tf.where(tf.range(256) == 0, 0, table)
        mapped = tf.gather(tf.clip_by_value(table, 0, 255), plane)
        planes.append(tf.cast(tf.where(step > 0, mapped, plane), tf.uint8))
    return tf.stack(planes, 2)


def _contrast(image: Any, factor: float) -> Any:
    grey = tf.cast(tf.image.rgb_to_grayscale(image), tf.int32)
    counts = tf.histogram_fixed_width(grey, [0, 255], nbins=256)
    levels = tf.linspace(0.0, 255.0, 256)
    total = tf.reduce_sum(tf.cast(counts, tf.float32) * levels)
    mean = tf.cast(total / float(image.shape[0] * image.shape[1]), tf.uint8)
    return _blend(tf.zeros_like(image) + mean, image, factor)


def _color(image: Any, factor: float) -> Any:
    grey = tf.image.rgb_to_grayscale(image)
    return _blend(tf.image.grayscale_to_rgb(grey), image, factor)


def _sharpness(image: Any, factor: float) -> Any:
    weights = np.ones((3, 3, 1, 1), np.float32)
    weights[1, 1] = 5
    kernel = tf.tile(tf.constant(weights) / 13.0, [1, 1, 3, 1])
    means = tf.nn.depthwise_conv2d(
        tf.cast(image, tf.float32)[None], kernel, [1, 1, 1, 1], "VALID"
    )
    means = tf.cast(tf.clip_by_value(means, 0.0, 255.0), tf.uint8)[0]
    sides = [[1, 1], [1, 1], [0, 0]]
    inner = tf.pad(tf.ones_like(means), sides) == 1
    return _blend(tf.where(inner, tf.pad(means, sides), image), image, factor)


def _solarize(image: Any, threshold: int) -> Any:
    # The number becomes one of uint8, with whatever that does to it.
    return tf.where(image < threshold, image, 255 - image)


def _solarize_add(image: Any, addition: int) -> Any:
    added = tf.clip_by_value(tf.cast(image, tf.int64) + addition, 0, 255)
    return tf.where(image < 128, tf.cast(added, tf.uint8), image)


def _posterize(image: Any, bits: int) -> Any:
    shift = tf.constant(8 - bits, tf.uint8)
    return tf.bitwise.left_shift(tf.bitwise.right_shift(image, shift), shift)


def _cutout(image: Any, half: int, y: Any, x: Any) -> Any:
    rows, columns = tf.range(image.shape[0]), tf.range(image.shape[1])
    tall = (rows >= y - half) & (rows < y + half)
    wide = (columns >= x - half) & (columns < x + half)
    return tf.where((tall[:, None] & wide[None])[..., None], FILL, image)


def _enhance(share: float) -> float:
    return share * 1.8 + 0.1


# From an image, level / 10, a sign, and the middle of a box: big_vision's order.
OPERATIONS: dict[str, Callable[[Any, float, Any, Any, Any], Any]] = {
    "AutoContrast": lambda i, s, n, y, x: _autocontrast(i),
    "Equalize": lambda i, s, n, y, x: _equalize(i),
    "Invert": lambda i, s, n, y, x: 255 - i,
    "Rotate": lambda i, s, n, y, x: _rotate(i, n * s * 30.0),
    "Posterize": lambda i, s, n, y, x: _posterize(i, int(s * 4)),
    "Solarize": lambda i, s, n, y, x: _solarize(i, int(s * 256)),
    "Color": lambda i, s, n, y, x: _color(i, _enhance(s)),
    "Contrast": lambda i, s, n, y, x: _contrast(i, _enhance(s)),
    "Brightness": lambda i, s, n, y, x: _blend(tf.zeros_like(i), i, _enhance(s)),
    "Sharpness": lambda i, s, n, y, x: _sharpness(i, _enhance(s)),
    "ShearX": lambda i, s, n, y, x: _project(i, [1, n * s * 0.3, 0, 0, 1, 0]),
    "ShearY": lambda i, s, n, y, x: _project(i, [1, 0, 0, n * s * 0.3, 1, 0]),
    "TranslateX": lambda i, s, n, y, x: _project(i, [1, 0, n * s * 100.0, 0, 1, 0]),
    "TranslateY": lambda i, s, n, y, x: _project(i, [1, 0, 0, 0, 1, n * s * 100.0]),
    "Cutout": lambda i, s, n, y, x: _cutout(i, int(s * 40), y, x),
    "SolarizeAdd": lambda i, s, n, y, x: _solarize_add(i, int(s * 110)),
}


def randaugment(image: Any, layers: int, level: float) -> Any:
    """Operations that are drawn, in a graph."""
    height, width = image.shape[:2]
    for _ in range(layers):
        sign = tf.where(tf.random.uniform([]) < 0.5, 1.0, -1.0)
        y = tf.random.uniform([], 0, height, tf.int32)
        x = tf.random.uniform([], 0, width, tf.int32)
        branches = [
            lambda i=image, f=operation, n=sign, y=y, x=x: f(i, level / 10, n, y, x)
            for operation in OPERATIONS.values()
        ]
        which = tf.random.uniform([], 0, len(branches), tf.int32)
        image = tf.ensure_shape(tf.switch_case(which, branches), (height, width, 3))
    return image
