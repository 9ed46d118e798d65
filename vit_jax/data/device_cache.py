"""Small datasets kept on the devices: the host sends a few bytes a row and batch."""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data import reader, resident, transforms


class DeviceRows:
    """Batches gathered on the devices, each of which holds all the images."""

    def __init__(
        self,
        source: Any,
        transform: transforms.Transform,
        corrupt: reader.CorruptLog,
        pool: concurrent.futures.ThreadPoolExecutor,
        sharding: jax.sharding.NamedSharding,
    ):
        """Decodes everything and copies it to the devices.

        Raises:
            errors.UserError: the transform resamples, which happens on the host alone.
        """
        slices, size = resident.for_devices(source, transform)
        images, labels = resident.load_padded(source, slices, size, corrupt, pool)
        replicated = jax.sharding.NamedSharding(
            sharding.mesh, jax.sharding.PartitionSpec()
        )
        self._images, self._labels = jax.device_put((images, labels), replicated)
        self._sharding = sharding
        self._slices, self._size = slices, size

    def start(
        self, examples: np.ndarray, uniforms: np.ndarray
    ) -> Callable[[], dict[str, jax.Array]]:
        """Starts a batch; call what it returns for global arrays."""
        offsets = self._slices.offsets(uniforms, *self._size).astype(np.int32)
        choice = jax.device_put((examples.astype(np.int32), offsets), self._sharding)
        images, labels = _gather_on_device(
            self._images, self._labels, *choice, self._slices.image_size, self._sharding
        )
        return lambda: {"image": images, "label": labels}


@functools.partial(jax.jit, static_argnums=(4, 5))
def _gather_on_device(
    images: jax.Array,
    labels: jax.Array,
    examples: jax.Array,
    offsets: jax.Array,
    size: tuple[int, int],
    sharding: jax.sharding.NamedSharding,
) -> tuple[jax.Array, jax.Array]:
    def window(example: jax.Array, offset: jax.Array) -> jax.Array:
        start = (example, offset[0], offset[1], jnp.int32(0))
        return jax.lax.dynamic_slice(images, start, (1, *size, 3))[0]

    chosen = jax.vmap(window)(examples, offsets), labels[examples]
    return jax.lax.with_sharding_constraint(chosen, sharding)
