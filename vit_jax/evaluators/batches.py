"""One pass over an evaluation split, shared by the evaluators."""

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from vit_jax import mesh as mesh_lib
from vit_jax.data import loader

Params = Any
Forward = Callable[[Params, jax.Array], dict[str, jax.Array]]
# (outputs of the forward pass, labels, mask) -> what each batch leaves on the host
Reduce = Callable[[dict[str, jax.Array], jax.Array, jax.Array], Any]

NAMES_SHOWN = 5


@functools.cache
def reduced(reduce: Reduce, mesh: Mesh) -> Reduce:
    """Compiles `reduce` with a result that every process holds whole."""
    return jax.jit(reduce, out_shardings=mesh_lib.replicated(mesh))


def run(
    forward: Forward,
    params: Params,
    reduce: Reduce,
    *,
    source: Any,
    transform: Any,
    batch_size: int,
    mesh: Mesh,
) -> Iterator[Any]:
    """Yields `reduce` of every batch, on the host, while the device does the next one.

    Every process yields the same values. Masked rows (padding, images that could not
    be read) are there too: `reduce` leaves them out.

    Args:
        forward: `(params, uint8 images) -> {"features", "logits"}`.
        params: of the model.
        reduce: from `reduced`.
        source: of the whole split; each process reads its share.
        transform: host part of the preprocessing.
        batch_size: over all devices.
        mesh: the batch is split over all of it.
    """
    mesh_lib.check_batch("batch_size", batch_size, mesh)
    batches = loader.eval_loader(
        source,
        transform,
        batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    pending = None
    for batch in batches:
        on_device = mesh_lib.to_global(batch, mesh)
        outputs = forward(params, on_device["image"])
        value = reduce(outputs, on_device["label"], on_device["mask"])
        if pending is not None:
            yield jax.device_get(pending)
        pending = value
    if pending is not None:
        yield jax.device_get(pending)
    if batches.corrupt:
        shown = ", ".join(map(str, batches.corrupt[:NAMES_SHOWN]))
        logging.warning("%d unreadable images: %s", len(batches.corrupt), shown)
