"""Mixup and CutMix: images of a batch mixed with each other, and their labels alike.

Part of the jitted step, over the global batch: what is drawn depends on the step's key
alone, not on how the batch is sharded. Labels leave as vectors [b, classes].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from vit_jax import errors
from vit_jax.types import Augmentation, Batch

LEVELS = 2**12  # of weights


@dataclass(frozen=True)
class Mix:
    """How the images of a batch are mixed.

    Attributes:
        form: A key of `FORMS`.
        mixup: The p of Beta(p, p) that weights of Mixup are from; 0: none of it.
        cutmix: The same of CutMix, of the share of the image that is kept.
        switch: With both, the share of CutMix.
        share: How much of the batches, or images, is mixed at all.
        each: What has a weight of its own: "batch" or "image".
    """

    form: str
    mixup: float
    cutmix: float
    switch: float
    share: float
    each: str

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Returns that of `config.data.mix`.

        Raises:
            UserError: a value that cannot work, or one that its form does not have.
        """
        found = cls(**settings)
        errors.lookup(FORMS, found.form, "data.mix.form")
        errors.lookup(EACH, found.each, "data.mix.each")
        plain = found.cutmix == 0 and found.share == 1 and found.each == "batch"
        if found.form == "big_vision" and not plain:
            raise errors.UserError(
                'data.mix: form="big_vision" is Mixup of all batches, one weight each; '
                'CutMix, a share and a weight an image are those of form="timm"'
            )
        return found


def make(settings: Mapping[str, Any], num_classes: int) -> Augmentation | None:
    """Returns what mixes a batch; None where neither Mixup nor CutMix is asked for.

    Args:
        settings: The fields of `Mix` by name.
        num_classes: The width of labels as vectors.
    """
    mix = Mix.of(settings)
    if not (mix.mixup or mix.cutmix):
        return None
    form = FORMS[mix.form]

    def augmentation(batch: Batch, key: jax.Array) -> Batch:
        labels = batch["label"]
        if labels.ndim == 1:
            labels = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
        image, label = form(mix, batch["image"], labels.astype(jnp.float32), key)
        return batch | {"image": image, "label": label}

    return augmentation


def _rolled(
    mix: Mix, images: jax.Array, labels: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mixup as big_vision has it: one weight of at least 1/2, with the row before."""
    weight = beta(mix.mixup, (), key)
    weight = jnp.maximum(weight, 1.0 - weight)

    def mixed(x: jax.Array) -> jax.Array:
        before = jnp.roll(x, 1, axis=0)  # of bytes: a fourth of what moves
        return weight * x.astype(jnp.float32) + (1.0 - weight) * before

    return mixed(images), mixed(labels)


def _reversed(
    mix: Mix, images: jax.Array, labels: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mixup, CutMix or either as timm has them: row i with row b - 1 - i.

    A box that reaches beyond the image is cut off, and the weight is that of what it
    has of the image then.
    """
    count = 1 if mix.each == "batch" else images.shape[0]
    size = images.shape[1], images.shape[2]
    return applied(draw(mix, size, count, key), images, labels)


@dataclass(frozen=True)
class Drawn:
    """What was drawn for a batch (n = 1), or for each of n images.

    Attributes:
        blend: float32 [n], the weight of an image's own pixels by Mixup, 1 where it is
            none; None: all are.
        inside: bool [n, h, w], the pixels that CutMix takes from the partner.
        kept: float32 [n], the weight of an image's own label.
    """

    blend: jax.Array | None
    inside: jax.Array
    kept: jax.Array


def applied(
    drawn: Drawn, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns images and labels [b, ...] mixed with those from the other end."""
    partners = images[::-1]
    mixed = jnp.where(drawn.inside[..., None], partners, images)
    if drawn.blend is not None:
        by = drawn.blend[:, None, None, None]
        mixed = by * mixed + (1.0 - by) * partners
    kept = drawn.kept[:, None]
    return mixed, kept * labels + (1.0 - kept) * labels[::-1]


def beta(p: float, shape: tuple[int, ...], key: jax.Array) -> jax.Array:
    """Returns numbers from Beta(p, p), to a 4096th, from one uniform number each.

    Bytes mixed by so many of them round nothing: no order of the arithmetic, and so no
    number of devices, changes a bit. `jax.random.beta` has a loop that each device
    leaves when it may, which costs more than all else here.
    """
    bounds = scipy.special.betainc(p, p, (np.arange(LEVELS) + 0.5) / LEVELS)
    below = jnp.asarray(bounds, jnp.float32).reshape((1,) * len(shape) + (LEVELS,))
    uniform = jax.random.uniform(key, shape)[..., None]
    return (uniform >= below).sum(axis=-1) / jnp.float32(LEVELS)


def draw(mix: Mix, size: tuple[int, int], count: int, key: jax.Array) -> Drawn:
    """Draws weights and boxes.

    Args:
        mix: Of the form "timm".
        size: Of images, (height, width).
        count: How many.
        key: A typed random key, used up.
    """
    keys = jax.random.split(key, 6)
    some = (count,)
    ones = jnp.ones(some, jnp.float32)
    by_mixup = beta(mix.mixup, some, keys[0]) if mix.mixup else ones
    by_box = beta(mix.cutmix, some, keys[1]) if mix.cutmix else ones
    if mix.mixup and mix.cutmix:
        cuts = jax.random.uniform(keys[2], some) < mix.switch
    else:
        cuts = jnp.full(some, mix.cutmix > 0)
    mixes = jax.random.uniform(keys[3], some) < mix.share
    weight = jnp.where(mixes, jnp.where(cuts, by_box, by_mixup), ones)
    cuts &= mixes
    inside = jnp.zeros((count, *size), bool)
    kept = weight
    if mix.cutmix:
        rows = _interval(keys[4], size[0], weight, cuts)
        columns = _interval(keys[5], size[1], weight, cuts)
        inside = rows[:, :, None] & columns[:, None, :]
        covered = rows.sum(axis=1) * columns.sum(axis=1)
        kept = jnp.where(cuts, 1.0 - _exact(covered / (size[0] * size[1])), weight)
    blend = jnp.where(cuts, 1.0, weight) if mix.mixup else None
    return Drawn(blend, inside, kept)


def _exact(share: jax.Array) -> jax.Array:
    """A share to 16 bits, for the reason that `beta` has."""
    return jnp.round(share * 2.0**16) / 2.0**16


def _interval(
    key: jax.Array, length: int, weight: jax.Array, cuts: jax.Array
) -> jax.Array:
    """Which pixels of a side are in the box: bool [n, length]; none where not `cuts`.

    The box's side is floor(length * sqrt(1 - weight)), its middle anywhere.
    """
    side = jnp.floor(length * jnp.sqrt(1.0 - weight)).astype(jnp.int32)
    middle = jax.random.randint(key, weight.shape, 0, length)
    low, high = middle - side // 2, middle + (side + 1) // 2
    pixels = jnp.arange(length)[None]
    inside = (pixels >= low[:, None]) & (pixels < high[:, None])
    return inside & cuts[:, None]


Form = Callable[[Mix, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
FORMS: dict[str, Form] = {"big_vision": _rolled, "timm": _reversed}
EACH = {"batch": None, "image": None}
