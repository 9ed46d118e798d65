"""One pass over an evaluation split, shared by the evaluators."""

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import flax.struct
import jax
import numpy as np
from clu import metrics
from jax.sharding import Mesh

from vit_jax import cli
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
        reduce: Goes from (outputs, batch, **options) to what is left on the host.
        mesh: The mesh of all devices.
        **options: What else `reduce` is called with.
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
    between: Callable[[], None] | None = None,
) -> Iterator[Any]:
    """Yields `reduce` of every batch, on the host, while the device does the next one.

    Every process yields the same values. A batch holds "label", "mask" (0 on padding
    and on images that could not be read: `reduce` leaves them out) and "index", the
    place of each row in the split: the order of rows is that of the devices.

    Args:
        forward: The model, `(params, uint8 images) -> {"features", "logits"}`.
        params: The parameters of the model.
        reduce: What is done with each batch, from `reduced`.
        source: The whole split; each process reads its share.
        transform: The host part of the preprocessing.
        batch_size: Examples at a time, over all devices.
        mesh: The mesh; the batch is split over all of it.
        between: Called after every batch: what it raises ends the pass.
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
    for number, batch in enumerate(_shown(batches, len(source), batch_size)):
        index = (number * batch_size + rows).astype(np.int32)
        on_device = mesh_lib.to_global(batch | {"index": index}, mesh)
        outputs = forward(params, on_device.pop("image"))
        value = reduce(outputs, on_device)
        if pending is not None:
            yield jax.device_get(pending)
        pending = value
        if between is not None:
            between()
    if pending is not None:
        yield jax.device_get(pending)


def _shown(batches: Iterable[Any], size: int, batch_size: int) -> Iterator[Any]:
    """The batches of a split, with a bar on a terminal."""
    with cli.progress("images", size) as tell:
        for number, batch in enumerate(batches):
            if tell is not None:
                tell(min(number * batch_size, size))
            yield batch
        if tell is not None:
            tell(size)


@flax.struct.dataclass
class Sum(metrics.Metric):
    """A sum over examples, of numbers or of arrays."""

    total: jax.Array

    @classmethod
    def from_model_output(cls, values: jax.Array) -> "Sum":
        """Returns the sum of values over their first dimension."""
        return cls(total=values.sum(axis=0))

    # As metrics of clu do, which says `self: M, other: M` of their base.
    def merge(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, other: "Sum"
    ) -> "Sum":
        """Returns the sum of both."""
        return Sum(total=self.total + other.total)

    def compute(self) -> jax.Array:
        """Returns the sum."""
        return self.total


def total(forward: Forward, params: Params, reduce: Reduce, **split: Any) -> Any:
    """Adds up over a split what `reduce` leaves of each batch: int64 and float64.

    The sums are the host's, so that no number of batches loses a bit of a count.

    Args:
        forward: See `run`, as the rest.
        params: The parameters of the model.
        reduce: Gives a `clu.metrics.Collection`.
        **split: What `run` takes by keyword.

    Returns:
        The collection of the whole split; None of no batch.
    """
    return summed(run(forward, params, reduce, **split))


def summed(parts: Iterable[Any]) -> Any:
    """Adds up collections as they come; see `total`."""
    whole = None
    for part in parts:
        wide = jax.tree.map(_wide, part)
        whole = wide if whole is None else whole.merge(wide)
    return whole


def _wide(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float64 if value.dtype.kind == "f" else np.int64)
