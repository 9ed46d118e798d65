"""One pass over an evaluation split, shared by the evaluators."""

import functools
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vit_jax.data import loader
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.types import Forward, Params

# (outputs of the forward pass, batch without images) -> what it leaves on the host
Reduce = Callable[[dict[str, jax.Array], dict[str, jax.Array]], Any]


@functools.lru_cache(maxsize=16)
def reduced(reduce: Callable[..., Any], mesh: Mesh, **options: Hashable) -> Reduce:
    """Compiles `reduce` with a result that every process holds whole.

    What was compiled for the same function, mesh and options is used again, so give a
    function of a module, and what it depends on as options: a closure or a partial is
    another function each time. At most 16 are held.

    Args:
        reduce: (outputs, batch, **options) -> what is left on the host.
        mesh: of all devices.
        **options: of `reduce`.
    """
    return jax.jit(
        functools.partial(reduce, **options), out_shardings=mesh_lib.replicated(mesh)
    )


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

    Every process yields the same values. A batch holds "label", "mask" (0 on padding
    and on images that could not be read: `reduce` leaves them out) and "index", the
    place of each row in the split: the order of rows is that of the devices.

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
    rows = mesh_lib.local_rows(mesh, batch_size)
    batches = loader.eval_loader(
        source,
        transform,
        batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        rows=rows,
    )
    pending = None
    for number, batch in enumerate(batches):
        index = (number * batch_size + rows).astype(np.int32)
        on_device = mesh_lib.to_global(batch | {"index": index}, mesh)
        outputs = forward(params, on_device.pop("image"))
        value = reduce(outputs, on_device)
        if pending is not None:
            yield jax.device_get(pending)
        pending = value
    if pending is not None:
        yield jax.device_get(pending)
