"""The words that all rooms share: parameters, batches, and what is called with them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

# Nested dicts of arrays (or of their shapes), named "blocks/attn/query/kernel".
Params = dict[str, Any]
# "image" [b, height, width, channels] and "label" [b] or [b, classes], and the like.
Batch = dict[str, jax.Array]
# What a model takes: float [b, height, width, channels], on a device or on the host.
Images = jax.Array | np.ndarray
# Scalars by name, and `grad_squares` [leaves].
Metrics = dict[str, jax.Array]
# (params, batch, key, *frozen) -> (loss, metrics), means over the batch. `frozen` are
# the parameters of models that are not trained, one for each of `Objective.frozen`.
LossFn = Callable[..., tuple[jax.Array, Metrics]]
# (batch, key) -> the batch changed at random, inside the step
Augmentation = Callable[[Batch, jax.Array], Batch]
# (loss, global gradient norm, optimizer state) -> bool scalar: take the step's update?
Verdict = Callable[[jax.Array, jax.Array, Any], jax.Array]
# (params, uint8 images [b, height, width, 3]) -> {"features", "logits"}
Forward = Callable[[Params, jax.Array], dict[str, jax.Array]]
# From the parameters of a model to named figures.
Evaluator = Callable[[Params], dict[str, float]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that training carries from step to step; what a checkpoint holds.

    Attributes:
        step: int32 scalar, the number of updates done.
        params: nested dict of float32 arrays.
        opt_state: optax state.
        ema: Polyak average of `params`, or None.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    ema: Params | None
