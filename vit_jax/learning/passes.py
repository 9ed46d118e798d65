"""How a run calls its model: on raw images, with parameters as they are stored."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from vit_jax import models, tree
from vit_jax.data import augment
from vit_jax.models.placement import NOWHERE, Placement
from vit_jax.parallel import layouts
from vit_jax.types import Forward, Params


@dataclass(frozen=True)
class Bound:
    """A model, and how a run calls it.

    Attributes:
        graphdef: The static half of the model, from `models.split` or `abstract`.
        architecture: The description of the model.
        mean: What is subtracted from each channel of the pixels, in units of 0..255.
        std: What they are divided by then.
        enter: Goes from stored parameters to those the model is called with.
        gather: Goes before `enter`, once for all calls of a step.
        placement: Says where tokens and weights are on a mesh.
        beside: Models that the loss reads too, as `Objective.frozen` names them.
    """

    graphdef: Any
    architecture: models.Architecture
    mean: tuple[float, ...]
    std: tuple[float, ...]
    enter: Callable[[Params], Params] = tree.same
    gather: Callable[[Params], Params] = tree.same
    placement: Placement = NOWHERE
    beside: "tuple[Bound, ...]" = ()

    def laid_out(
        self, layout: layouts.Layout, *, beside: "Sequence[Bound]" = ()
    ) -> "Bound":
        """Returns it for parameters that lie on a mesh.

        Args:
            layout: Of its parameters.
            beside: Models that its loss reads too, laid out.
        """
        return dataclasses.replace(
            self,
            enter=layout.enter,
            gather=layout.gather,
            placement=layout.placement,
            beside=tuple(beside),
        )

    def model(self, params: Params) -> Any:
        """Returns the module with these parameters; cheap, also inside `jax.jit`."""
        return models.merge(self.graphdef, self.enter(params))

    def pixels(self, images: jax.Array) -> jax.Array:
        """Returns raw images [b, h, w, 3] normalised, in the type computed in."""
        return augment.normalize(
            images, mean=self.mean, std=self.std, dtype=self.architecture.compute_dtype
        )


def make_forward(bound: Bound) -> Forward:
    """Returns the jitted evaluation of any model: from uint8 images to two outputs.

    "features" [b, width] are what the head reads, "logits" [b, classes] what it says.
    """

    @jax.jit
    def forward(params: Params, images: jax.Array) -> dict[str, jax.Array]:
        model = bound.model(params)
        features = model.features(bound.pixels(images), placement=bound.placement)
        return {"features": features, "logits": model.classify(features)}

    return forward
