"""What a model does with raw images: evaluation, masked prediction, the objective."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from vit_jax import models
from vit_jax.data import augment
from vit_jax.learning import masked, objectives
from vit_jax.learning import step as step_lib
from vit_jax.models.placement import NOWHERE, Placement
from vit_jax.parallel import layouts
from vit_jax.types import Forward


def make_forward(
    graphdef: Any,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: str,
    enter: Callable[[Any], Any] = lambda params: params,
    placement: Placement = NOWHERE,
) -> Forward:
    """Returns the jitted evaluation: uint8 images in, features and logits out.

    Args:
        graphdef: of the model, from `models.split` or `models.abstract`.
        mean: subtracted from pixels in 0..255, then divided by `std`.
        std: see `mean`.
        dtype: of the normalised images.
        enter: from stored parameters to those the model is called with.
        placement: of tokens and weights on a mesh.
    """

    @jax.jit
    def forward(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        model = models.merge(graphdef, enter(params))
        pixels = augment.normalize(images, mean=mean, std=std, dtype=dtype)
        features = model.features(pixels, placement=placement)
        return {"features": features, "logits": model.classify(features)}

    return forward


def make_prediction(
    graphdef: Any,
    pixels: Mapping[str, Any],
    task: masked.Task | None,
    enter: Callable[[Any], Any],
    placement: Placement,
) -> masked.Masked | None:
    """Returns a run's masked prediction, None where it has another task.

    Args:
        graphdef: of the model.
        pixels: as `augment.normalize` takes them.
        task: what is predicted.
        enter: from stored parameters to those the model is called with.
        placement: of tokens and weights on a mesh.
    """

    def apply(
        params: Any, images: jax.Array, corruption: masked.Corruption, key: Any
    ) -> jax.Array:
        return masked.predict(
            models.merge(graphdef, enter(params)),
            augment.normalize(images, **pixels),
            corruption,
            key,
            placement=placement,
        )

    return None if task is None else masked.Masked(task, apply)


def make_loss(
    graphdef: Any,
    pixels: Mapping[str, Any],
    prediction: masked.Masked | None,
    layout: layouts.Layout,
    **options: Any,
) -> step_lib.LossFn:
    """Returns the objective over raw batches; each is normalised when it is used.

    Args:
        graphdef: of the model.
        pixels: as `augment.normalize` takes them.
        prediction: of masked patches, where that is what is trained.
        layout: of the parameters.
        **options: of `objectives.classification`.
    """
    if prediction is not None:
        return masked.masked_patches(prediction)

    def model_apply(params: Any, images: jax.Array, key: jax.Array) -> jax.Array:
        model = models.merge(graphdef, layout.enter(params))
        return model(
            augment.normalize(images, **pixels),
            deterministic=False,
            rngs=nnx.Rngs(dropout=key),
            placement=layout.placement,
        )

    return objectives.classification(model_apply, **options)
