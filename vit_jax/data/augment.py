"""Augmentation on the device: part of the jitted step, uint8 in."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.types import Augmentation, Batch


def normalize(
    images: jax.Array, *, mean: Sequence[float], std: Sequence[float], dtype: str
) -> jax.Array:
    """Returns (images - mean) / std per channel, computed in float32.

    Args:
        images: Pixels [b, h, w, 3], values 0..255.
        mean: What is subtracted from each channel, in units of 0..255.
        std: What each channel is divided by then.
        dtype: The type of the result.
    """
    means = jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, -1)
    deviations = jnp.asarray(std, jnp.float32).reshape(1, 1, 1, -1)
    return ((images.astype(jnp.float32) - means) / deviations).astype(dtype)


def flip(images: jax.Array, key: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability one half.

    The bits are drawn once for the global batch: under jit they do not depend on how
    the batch is sharded or on the number of processes.

    Args:
        images: Pixels [b, h, w, c], of any type.
        key: A typed random key.
    """
    mirrored = jax.random.bernoulli(key, shape=(images.shape[0],))
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def random_flip(batch: Batch, key: jax.Array) -> Batch:
    """Applies `flip` to the images of a batch."""
    return batch | {"image": flip(batch["image"], key)}


def _changes(name: str) -> Callable[[Any, int], Augmentation]:
    """A row of `device_changes.CHANGES`, which most runs do not load."""

    def make(value: Any, classes: int) -> Augmentation:
        del classes
        from vit_jax.data import device_changes

        return device_changes.CHANGES[name](value)

    return make


def _mix(value: Any, classes: int) -> Augmentation | None:
    if not (value["mixup"] or value["cutmix"]):
        return None
    from vit_jax.data import mixing  # which many runs do not need

    return mixing.make(value, classes)


# Key of `config.data` -> from its value and the number of classes to what is applied
# where the value is set, or None. A batch may leave with labels as vectors [b, classes]
# and images that are no whole numbers, so mixing comes last.
AUGMENTATIONS: dict[str, Callable[[Any, int], Augmentation | None]] = {
    "flip": lambda value, classes: random_flip,
    "device_trivial": _changes("device_trivial"),
    "device_erase": _changes("device_erase"),
    "mix": _mix,
}


def chosen(settings: Mapping[str, Any], num_classes: int) -> list[Augmentation]:
    """Returns the augmentations that settings ask for, in the order of the table.

    Args:
        settings: The value of every key of `AUGMENTATIONS`; false, 0 or "" is none.
        num_classes: The width of labels as vectors.
    """
    made = (
        make(settings[name], num_classes)
        for name, make in AUGMENTATIONS.items()
        if settings[name]
    )
    return [one for one in made if one is not None]
