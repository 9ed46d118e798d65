"""A model beside its run, on images of another size than the run's."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vit_jax import models, tree
from vit_jax.evaluators.context import Resized
from vit_jax.learning import passes
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.types import Params
from vit_jax.weights import adapting, posemb
from vit_jax.weights.source import Tensors

# From an architecture and the shapes of its parameters to how it is called, and to
# these shapes with their shardings.
Bind = Callable[[models.Architecture, Params], tuple[passes.Bound, Params]]


def at_size(
    architecture: models.Architecture,
    params: Params,
    image_size: tuple[int, int],
    bind: Bind,
) -> Resized:
    """Returns a model on images of another size; positions are resampled each time.

    Their values are those that `pretrained.load` gives a checkpoint at this size.

    Args:
        architecture: Of the model.
        params: Its parameters or their shapes, and whatever is stored beside them.
        image_size: (height, width), pixels.
        bind: Says how the other one is called.

    Raises:
        UserError: a model that takes images of one size alone, or not of this one.
    """

    def resampled(leaves: Params, read: Callable[[Any], np.ndarray]) -> Tensors:
        named = dict(tree.named_leaves(leaves))
        known = {name: tuple(leaf.shape) for name, leaf in named.items()}
        tensors = Tensors(known, lambda name: read(named[name]))
        return posemb.at_size(tensors, architecture, image_size)[0]

    target, own = architecture.replace(image_size=image_size), models.abstract
    adapting.check_adapt(
        *(resampled(own(architecture)[1], np.asarray), architecture),
        *(target, own(target)[1]),
    )
    shapes = resampled(params, np.asarray).shapes
    bound, placed = bind(
        target,
        tree.map_named(
            lambda name, leaf: jax.ShapeDtypeStruct(shapes[name], leaf.dtype), params
        ),
    )
    shardings = {name: leaf.sharding for name, leaf in tree.named_leaves(placed)}

    def fit(params: Params) -> Params:
        resized = resampled(params, mesh_lib.to_host)

        def fitted(name: str, leaf: jax.Array) -> jax.Array:
            if leaf.shape == resized.shapes[name]:
                return leaf
            return mesh_lib.place(resized.read(name), shardings[name])

        return tree.map_named(fitted, params)

    return Resized(passes.make_forward(bound), fit)
