"""What training minimises: losses over class scores and the loss function of a step."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from vit_jax import errors
from vit_jax.types import Batch, Params


def multi_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Returns labels as float32 [b, classes]; integer labels [b] become one-hot."""
    if labels.ndim == 1:
        return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return labels.astype(jnp.float32)


def sigmoid_xent(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns one binary cross-entropy a class, summed over classes, as float32 [b].

    The loss of the paper's JFT and ImageNet-21k runs: an image may have many labels.

    Args:
        logits: [b, classes].
        labels: [b, classes], 0..1.
    """
    logits = logits.astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(logits, labels).sum(axis=-1)


def softmax_xent(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the cross-entropy of softmax(logits), float32 [b]; used in fine-tuning.

    Several labels of one image add up, as in the published code.
    """
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), labels)


def smooth_off_on(labels: jax.Array, amount: float) -> jax.Array:
    """Moves 0 to `amount` and 1 to `1 - amount` (ImageNet with sigmoids: 1e-4)."""
    return labels * (1.0 - 2.0 * amount) + amount


def smooth_uniform(labels: jax.Array, amount: float) -> jax.Array:
    """Mixes `amount` of the uniform distribution over classes into the labels."""
    return labels * (1.0 - amount) + amount / labels.shape[-1]


@dataclass(frozen=True)
class Loss:
    """A loss per example, its label smoothing, and the probabilities it trains."""

    per_example: Callable[[jax.Array, jax.Array], jax.Array]
    smooth: Callable[[jax.Array, float], jax.Array]
    probabilities: Callable[[jax.Array], jax.Array]


LOSSES: dict[str, Loss] = {
    "sigmoid": Loss(sigmoid_xent, smooth_off_on, jax.nn.sigmoid),
    "softmax": Loss(softmax_xent, smooth_uniform, jax.nn.softmax),
}


# What outputs are -> the loss that trains such; None: numbers, which none here does.
PROBLEMS: dict[str, str | None] = {
    "single_label": "softmax",
    "multi_label": "sigmoid",
    "regression": None,
}


def problem_of(loss: str) -> str:
    """Returns the key of `PROBLEMS` that a key of `LOSSES` trains.

    Raises:
        UserError: unknown loss.
    """
    errors.lookup(LOSSES, loss, "loss")
    return next(problem for problem, name in PROBLEMS.items() if name == loss)


def is_hit(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns bool [b]: the class with the highest score is one of the image's labels.

    Args:
        logits: [b, classes].
        labels: multi-hot [b, classes].
    """
    best = jnp.argmax(logits, axis=-1)[:, None]
    return jnp.take_along_axis(labels, best, axis=-1)[:, 0] > 0.5


def classification(
    model_apply: Callable[[Params, jax.Array, jax.Array], jax.Array],
    *,
    loss: str,
    label_smoothing: float,
    num_classes: int,
) -> Callable[[Params, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]:
    """Returns `loss_fn(params, batch, key) -> (loss, {"loss", "accuracy"})`.

    Args:
        model_apply: `(params, images, key) -> logits` in training mode.
        loss: a key of `LOSSES`.
        label_smoothing: 0 is off; its meaning is the loss's own (`LOSSES`).
        num_classes: width of the logits.

    The batch holds "image" (normalised) and "label" (int [b], multi-hot [b, classes]).
    Both figures are means over the batch; accuracy looks at the labels unsmoothed.

    Raises:
        UserError: unknown loss.
    """
    chosen = errors.lookup(LOSSES, loss, "loss")

    def loss_fn(
        params: Params, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits = model_apply(params, batch["image"], key)
        labels = multi_hot(batch["label"], num_classes)
        smoothed = chosen.smooth(labels, label_smoothing) if label_smoothing else labels
        value = chosen.per_example(logits, smoothed).mean()
        accuracy = is_hit(logits, labels).mean(dtype=jnp.float32)
        return value, {"loss": value, "accuracy": accuracy}

    return loss_fn
