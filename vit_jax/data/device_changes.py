"""Changes of single images inside the step, for data that is kept on the devices.

Those of the host (`data.train`) cannot keep up with small images on a fast device, and
do not reach what a cache holds there. What is drawn depends on the step's key alone.
Pixels are uint8 before and after.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.types import Augmentation, Batch

FILL = 128.0  # where no pixel of the image comes to lie
# What a change of strength 1 does at most, as RandAugment's highest level.
SHEAR, SHIFT, TURN = 0.3, 0.3, math.radians(30)  # shares of the side, and the angle
FACTOR, BITS = 0.9, 4  # of colour, brightness, contrast, sharpness; bits that are lost
GEOMETRY = ("shear_x", "shear_y", "shift_x", "shift_y", "turn")
BLENDS = ("brightness", "color", "contrast", "sharpness")
REST = ("posterize", "solarize", "autocontrast")
NAMES = ("nothing", *GEOMETRY, *BLENDS, *REST)
_GREY = (0.299, 0.587, 0.114)


def trivial(strength: float) -> Augmentation:
    """Returns what does one of `NAMES` to each image, by a chance amount.

    In the manner of TrivialAugment (arXiv 2103.10158): one change an image, all equally
    likely, each by an amount that is uniform up to `strength`. It has none that
    equalises, and scales bilinearly.
    """

    def augmentation(batch: Batch, key: jax.Array) -> Batch:
        images = batch["image"]
        which, how = jax.random.split(key)
        rows = images.shape[:1]
        name = jax.random.randint(which, rows, 0, len(NAMES))
        amount = jax.random.uniform(how, rows, minval=-strength, maxval=strength)
        return batch | {"image": changed(images, name, amount)}

    return augmentation


def changed(images: jax.Array, name: jax.Array, amount: jax.Array) -> jax.Array:
    """Returns each image with one change; all others leave its bytes as they are.

    Args:
        images: uint8 [b, h, w, 3].
        name: int [b], indices into `NAMES`.
        amount: float [b], -1 to 1 and beyond; of `REST` the size counts.
    """

    def by(*which: str) -> jax.Array:
        chosen = jnp.isin(name, jnp.array([NAMES.index(one) for one in which]))
        return jnp.where(chosen, amount, 0.0)

    def image(value: jax.Array) -> jax.Array:
        return value[:, None, None, None]

    x = _moved(images, *(by(one) for one in GEOMETRY))
    base = _blended_with(x, name)
    x = base + image(1.0 + FACTOR * by(*BLENDS)) * (x - base)
    x = jnp.round(jnp.clip(x, 0.0, 255.0))
    step = jnp.exp2(jnp.round(BITS * jnp.abs(by("posterize"))))
    x = jnp.floor(x / image(step)) * image(step)
    limit = 256.0 * (1.0 - jnp.abs(by("solarize")))
    x = jnp.where(x >= image(limit), 255.0 - x, x)
    stretched = image(name == NAMES.index("autocontrast"))
    return jnp.where(stretched, _stretched(x), x).astype(jnp.uint8)


def _blended_with(x: jax.Array, name: jax.Array) -> jax.Array:
    """What colours are drawn from or pushed away from, by `BLENDS`; else the image."""
    grey = (x * jnp.array(_GREY).reshape(1, 1, 1, 3)).sum(axis=3, keepdims=True)
    cases: dict[str, Any] = {
        "brightness": jnp.zeros_like(x),
        "color": jnp.broadcast_to(grey, x.shape),
        "contrast": jnp.broadcast_to(grey.mean(axis=(1, 2), keepdims=True), x.shape),
        "sharpness": _smooth(x),
    }
    found = x
    for case, base in cases.items():
        found = jnp.where((name == NAMES.index(case))[:, None, None, None], base, found)
    return found


def _smooth(x: jax.Array) -> jax.Array:
    """Pillow's SMOOTH: a mean of 3 x 3 pixels, the middle one five times."""
    inner = jax.lax.reduce_window(
        x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "VALID"
    )
    inner = (inner + 4.0 * x[:, 1:-1, 1:-1]) / 13.0
    return x.at[:, 1:-1, 1:-1].set(inner)


def _stretched(x: jax.Array) -> jax.Array:
    """Each channel from 0 to 255; one of a single value stays as it is."""
    low = x.min(axis=(1, 2), keepdims=True)
    high = x.max(axis=(1, 2), keepdims=True)
    scale = 255.0 / jnp.maximum(high - low, 1.0)
    return jnp.where(high > low, jnp.round((x - low) * scale), x)


def _moved(
    images: jax.Array,
    shear_x: jax.Array,
    shear_y: jax.Array,
    shift_x: jax.Array,
    shift_y: jax.Array,
    turn: jax.Array,
) -> jax.Array:
    """Images moved about their middle, by amounts [b]: float32 [b, h, w, 3]."""
    height, width = images.shape[1:3]
    y = (jnp.arange(height) - (height - 1) / 2)[None, :, None]
    x = (jnp.arange(width) - (width - 1) / 2)[None, None, :]

    def plane(value: jax.Array) -> jax.Array:
        return value[:, None, None]

    cos, sin = plane(jnp.cos(TURN * turn)), plane(jnp.sin(TURN * turn))
    from_x = cos * x + (sin + plane(SHEAR * shear_x)) * y
    from_y = cos * y - (sin - plane(SHEAR * shear_y)) * x
    from_x += plane(SHIFT * width * shift_x) + (width - 1) / 2
    from_y += plane(SHIFT * height * shift_y) + (height - 1) / 2
    return _sampled(images, from_y, from_x)


def _sampled(images: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """Images [b, h, w, 3] at places [b, h, w] between pixels; `FILL` beyond them."""
    height, width = images.shape[1:3]
    flat = images.reshape(images.shape[0], height * width, 3)
    top, left = jnp.floor(y), jnp.floor(x)
    total = jnp.zeros((1, 1, 1, 1), jnp.float32)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        at_y, at_x = top + row, left + column
        inside = (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
        index = jnp.clip(at_y, 0, height - 1) * width + jnp.clip(at_x, 0, width - 1)
        index = index.astype(jnp.int32).reshape(images.shape[0], -1, 1)
        pixels = jnp.take_along_axis(flat, index, axis=1).reshape(images.shape)
        weight = (1 - jnp.abs(y - at_y)) * (1 - jnp.abs(x - at_x))
        value = jnp.where(inside[..., None], pixels.astype(jnp.float32), FILL)
        total += weight[..., None] * value
    return total


def erase(share: float) -> Augmentation:
    """Returns what fills a rectangle of a share of the images with random bytes.

    Random erasing (arXiv 1708.04896) as timm draws it: 2 % to a third of the image,
    log(height / width) uniform between 0.3 and 1 / 0.3. What would be longer than a
    side is cut to it.
    """

    def augmentation(batch: Batch, key: jax.Array) -> Batch:
        images = batch["image"]
        count, height, width, _ = images.shape
        keys = jax.random.split(key, 6)

        def uniform(number: int, low: float, high: float) -> jax.Array:
            return jax.random.uniform(keys[number], (count,), minval=low, maxval=high)

        area = uniform(0, 0.02, 1 / 3) * height * width
        aspect = jnp.exp(uniform(1, math.log(0.3), -math.log(0.3)))
        chosen = uniform(2, 0.0, 1.0) < share
        rows = _span(jnp.sqrt(area * aspect), height, uniform(3, 0.0, 1.0))
        columns = _span(jnp.sqrt(area / aspect), width, uniform(4, 0.0, 1.0))
        inside = rows[:, :, None] & columns[:, None, :] & chosen[:, None, None]
        noise = jax.random.bits(keys[5], images.shape, images.dtype)
        return batch | {"image": jnp.where(inside[..., None], noise, images)}

    return augmentation


def _span(side: jax.Array, length: int, where: jax.Array) -> jax.Array:
    """Which of `length` pixels are within a side that begins anywhere: [b, length]."""
    side = jnp.clip(jnp.round(side), 1, length)
    start = jnp.floor(where * (length - side + 1))[:, None]
    pixels = jnp.arange(length)[None]
    return (pixels >= start) & (pixels < start + side[:, None])


CHANGES: dict[str, Callable[[float], Augmentation]] = {
    "device_trivial": trivial,
    "device_erase": erase,
}
