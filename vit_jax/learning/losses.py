"""Losses over class scores, and the labels that they take."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from vit_jax import errors
from vit_jax.data import catalog


def labels_of(info: catalog.DatasetInfo, rows: int) -> jax.ShapeDtypeStruct:
    """Returns the labels of a dataset's batch: int32 [rows], float32 [rows, classes].

    Args:
        info: The dataset; one of several labels an image, or of numbers, has vectors.
        rows: The number of examples.
    """
    if info.multi_label or info.numeric:
        return jax.ShapeDtypeStruct((rows, info.num_classes), jnp.float32)
    return jax.ShapeDtypeStruct((rows,), jnp.int32)


def multi_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Returns labels as float32 [b, classes]; integer labels [b] become one-hot."""
    if labels.ndim == 1:
        return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return labels.astype(jnp.float32)


def sigmoid_xent(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns one binary cross-entropy a class, summed over classes, as float32 [b].

    The loss of the paper's JFT and ImageNet-21k runs: an image may have many labels.

    Args:
        logits: Scores [b, classes].
        labels: Targets [b, classes], each 0..1.
    """
    logits = logits.astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(logits, labels).sum(axis=-1)


def softmax_xent(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the cross-entropy of softmax(logits), float32 [b]; used in fine-tuning.

    Several labels of one image add up, as in the published code.
    """
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), labels)


def bce(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns one binary cross-entropy a class, their mean, as float32 [b].

    DeiT III's (arXiv 2204.07118): every class that was mixed in is one of the image's,
    so targets above 0 are 1; labels that were smoothed have none that is not.

    Args:
        logits: Scores [b, classes].
        labels: Targets [b, classes], each 0..1.
    """
    present = (labels > 0).astype(jnp.float32)
    return sigmoid_xent(logits, present) / logits.shape[-1]


def smooth_off_on(labels: jax.Array, amount: float) -> jax.Array:
    """Moves 0 to `amount` and 1 to `1 - amount` (ImageNet with sigmoids: 1e-4)."""
    return labels * (1.0 - 2.0 * amount) + amount


def smooth_uniform(labels: jax.Array, amount: float) -> jax.Array:
    """Mixes `amount` of the uniform distribution over classes into the labels."""
    return labels * (1.0 - amount) + amount / labels.shape[-1]


@dataclass(frozen=True)
class Loss:
    """A loss over class scores.

    Attributes:
        per_example: The loss of each row, from logits and labels [b, classes].
        smooth: The label smoothing that goes with it, by an amount; None: it has none.
        probabilities: What the logits it trains say, as probabilities.
        problem: The key of `PROBLEMS` that it trains.
    """

    per_example: Callable[[jax.Array, jax.Array], jax.Array]
    smooth: Callable[[jax.Array, float], jax.Array] | None
    probabilities: Callable[[jax.Array], jax.Array]
    problem: str


LOSSES: dict[str, Loss] = {
    "bce": Loss(bce, None, jax.nn.sigmoid, "multi_label"),
    "sigmoid": Loss(sigmoid_xent, smooth_off_on, jax.nn.sigmoid, "multi_label"),
    "softmax": Loss(softmax_xent, smooth_uniform, jax.nn.softmax, "single_label"),
}


OF_NUMBERS = ("squared", "absolute")  # of objective=regression

# What outputs are -> the loss that is reported of their classes; None: numbers, see
# `regression.LOSSES`.
PROBLEMS: dict[str, str | None] = {
    "single_label": "softmax",
    "multi_label": "sigmoid",
    "regression": None,
}


def problem_of(loss: str) -> str:
    """Returns the key of `PROBLEMS` that a loss trains.

    Args:
        loss: A key of `LOSSES`, or one of a regression.

    Raises:
        UserError: unknown loss.
    """
    if loss in OF_NUMBERS:
        return "regression"
    return errors.lookup(LOSSES, loss, "loss").problem


def is_hit(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns bool [b]: the class with the highest score is one of the image's labels.

    Args:
        logits: Scores [b, classes].
        labels: Multi-hot vectors [b, classes].
    """
    best = jnp.argmax(logits, axis=-1)[:, None]
    return jnp.take_along_axis(labels, best, axis=-1)[:, 0] > 0.5
