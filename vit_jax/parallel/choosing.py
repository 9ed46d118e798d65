"""Which layout and rematerialisation fit a device's memory, by arithmetic.

An estimate, made in a second from shapes alone; the compiler's own figure comes later
and is what a run is refused by.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vit_jax import models
from vit_jax.parallel import axes, hardware, layouts
from vit_jax.types import Params, TrainState

# From the fastest to the smallest.
REMATS = ("none", "dots_nb", "full")


@dataclasses.dataclass(frozen=True)
class Choice:
    """A layout and a rematerialisation.

    Attributes:
        layout: Key of `layouts.LAYOUTS`.
        remat: Of the architecture.
        peak_bytes: Estimated, of one device.
    """

    layout: str
    remat: str
    peak_bytes: int


def choose(
    layout: str,
    remat: str,
    *,
    architecture: models.Architecture,
    state: TrainState,
    mesh: Mesh,
    examples: int,
    frozen: Sequence[Params] = (),
) -> Choice:
    """Returns the first that fits, from the fastest to the smallest.

    Where nothing says how much memory a device has, that is the fastest; where nothing
    fits, the smallest.

    Args:
        layout: Key of `layouts.LAYOUTS`, or "auto".
        remat: Of the architecture, or "auto".
        architecture: Its own `remat` does not count.
        state: Shapes of the training state.
        mesh: From `mesh.make_mesh`.
        examples: Of one microbatch on one device.
        frozen: Shapes of the parameters of models that are not trained.
    """
    limit = hardware.usable_memory(mesh.devices.flat[0])
    # One by one: a peak costs a trace of the model.
    tried = []
    for name, kept in _candidates(layout, remat, architecture, mesh):
        peak = _peak(architecture, name, kept, (state, frozen), mesh, examples)
        tried.append(Choice(name, kept, peak))
        if limit is None or peak <= limit:
            break
    return tried[-1]


def _candidates(
    layout: str, remat: str, architecture: models.Architecture, mesh: Mesh
) -> Iterator[tuple[str, str]]:
    known = type(architecture).CHOICES["remat"]
    remats = [r for r in REMATS if r in known] if remat == layouts.AUTO else [remat]
    names = [layout]
    if layout == layouts.AUTO:
        names = ["zero1", "fsdp"] if mesh.shape["fsdp"] > 1 else ["dp"]
    for kept in remats:
        for name in names:
            # Without remat the two are one program.
            if not (kept == "none" and name == "fsdp" and len(names) > 1):
                yield name, kept


def _peak(
    architecture: models.Architecture,
    layout: str,
    remat: str,
    arrays: Any,
    mesh: Mesh,
    examples: int,
) -> int:
    """Bytes of what is kept, of gathered weights, of gradients and of activations."""
    kind = layouts.LAYOUTS[layout]
    placed = axes.shardings(arrays, mesh, kind.rules, quiet=True)
    held = sum(
        math.prod(s.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, s in zip(jax.tree.leaves(arrays), jax.tree.leaves(placed))
    )
    # Along tensor. What it saves of the activations is left out: an upper bound.
    weights = models.count_parameters(architecture) // mesh.shape["tensor"]
    width = jnp.dtype(architecture.compute_dtype).itemsize
    gathered = 0
    if kind.sharded and not (kind.regathers and remat != "none"):
        gathered = weights * width
    # A loop over blocks stacks gradients as the weights are, before they are cast.
    looped = remat != "none" or 0 < architecture.unroll < architecture.depth
    gradients = weights * (4 if kind.sharded or looped else width)
    if kind.sharded:
        gradients //= mesh.shape["fsdp"]
    block = bytes_per_example(architecture, "none") // architecture.depth
    kept = bytes_per_example(architecture, remat)
    return held + gathered + gradients + examples * (kept + 2 * block)


@functools.cache
def bytes_per_example(architecture: models.Architecture, remat: str) -> int:
    """Returns what the backward pass keeps of each image, from shapes alone.

    Args:
        architecture: Its own `remat` and `unroll` do not count.
        remat: A choice of the architecture's.
    """
    looped = architecture.replace_known(remat=remat, unroll=1)
    graphdef, params = models.abstract(looped)

    def residuals(batch: int) -> int:
        shape = (batch, *architecture.image_size, architecture.channels)
        images = jax.ShapeDtypeStruct(shape, jnp.float32)

        def backward(params: Any, images: jax.Array) -> Any:
            return jax.vjp(lambda p: models.merge(graphdef, p)(images), params)[1]

        kept = jax.tree.leaves(jax.eval_shape(backward, params, images))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in kept)

    return residuals(2) - residuals(1)
