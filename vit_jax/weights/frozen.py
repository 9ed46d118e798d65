"""Models that a loss reads and nobody trains, a teacher for instance.

Their weights are arguments of the step, laid out over the mesh as those that are
trained: no constants of the program, not differentiated, donated or saved.
"""

import logging
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vit_jax import models
from vit_jax.learning import passes
from vit_jax.parallel import layouts
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.types import Params, TrainState
from vit_jax.weights import adapting, loaded, pretrained


@dataclass(frozen=True)
class Frozen:
    """A model beside the one that is trained.

    Attributes:
        path: Where its weights are, as `vit_jax.load` takes it.
        params: Shapes of its parameters, with shardings once it is laid out.
        bound: How a run calls it.
    """

    path: str
    params: Params
    bound: passes.Bound

    def laid_out(self, name: str, mesh: Mesh, *, microbatches: int) -> "Frozen":
        """Returns it with its parameters on a mesh; arguments as `layouts.make`."""
        step: Any = jax.ShapeDtypeStruct((), jnp.int32)
        layout = layouts.make(
            *(name, TrainState(step, self.params, (), None), mesh),
            dtype=self.bound.architecture.compute_dtype,
            microbatches=microbatches,
        )
        params = mesh_lib.with_shardings(self.params, layout.state.params)
        return Frozen(self.path, params, self.bound.laid_out(layout))


def describe(
    path: str, *, image_size: tuple[int, int], compute_dtype: str, unroll: int
) -> Frozen:
    """Returns a checkpoint as a model on a run's images; nothing is read but shapes.

    It sees them normalised as it was trained, with its position table at their size.

    Args:
        path: As `vit_jax.load` takes it.
        image_size: The run's, in pixels.
        compute_dtype: The run's.
        unroll: The run's.

    Raises:
        UserError: no such checkpoint, or one that does not take such images.
    """
    opened = pretrained.describe(path)
    loaded.check_color(opened.architecture)
    architecture = opened.architecture.replace_known(
        image_size=image_size, compute_dtype=compute_dtype, unroll=unroll
    )
    graphdef, params = models.abstract(architecture)
    adapting.check_adapt(opened.leaves, opened.architecture, architecture, params)
    prepared = opened.preprocessing
    bound = passes.Bound(graphdef, architecture, prepared.mean, prepared.std)
    return Frozen(path, params, bound)


def load(frozen: Frozen) -> Params:
    """Returns the parameters of what has been laid out, each leaf on its shards."""
    with pretrained.open_weights(frozen.path) as opened:
        params, report = adapting.adapt(
            opened.leaves,
            opened.architecture,
            frozen.bound.architecture,
            frozen.params,
            place=lambda array, like: mesh_lib.place(array, like.sharding),
        )
    logging.info("frozen weights of %s:\n%s", frozen.path, report)
    return params
