"""Augmentation on the device: part of the jitted step, uint8 in."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def normalize(
    images: jax.Array, *, mean: Sequence[float], std: Sequence[float], dtype: str
) -> jax.Array:
    """Returns (images - mean) / std per channel, computed in float32.

    Args:
      images: [b, h, w, 3], values 0..255.
      mean: of each channel, in units of 0..255.
      std: the same.
      dtype: of the result.
    """
    means = jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, -1)
    deviations = jnp.asarray(std, jnp.float32).reshape(1, 1, 1, -1)
    return ((images.astype(jnp.float32) - means) / deviations).astype(dtype)


def flip(images: jax.Array, key: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability one half.

    The bits are drawn once for the global batch: under jit they do not depend on how
    the batch is sharded or on the number of processes.

    Args:
      images: [b, h, w, c], of any type.
      key: a typed random key.
    """
    mirrored = jax.random.bernoulli(key, shape=(images.shape[0],))
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
