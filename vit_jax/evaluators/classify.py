"""Top-1, top-5 and loss over a split, every example counted exactly once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vit_jax import errors
from vit_jax.evaluators import batches
from vit_jax.learning import losses

TOP = 5


def _in_top(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns bool [b]: one of the image's labels is among the best `TOP` classes."""
    _, best = jax.lax.top_k(logits, TOP)
    return (jnp.take_along_axis(labels, best, axis=-1) > 0.5).any(axis=-1)


def sums(
    outputs: dict[str, jax.Array], batch: dict[str, jax.Array], *, loss: str
) -> dict[str, jax.Array]:
    """Returns what one batch adds to each figure: integers, and float32 for the loss.

    Args:
        outputs: with "logits" [b, classes].
        batch: "label", int [b] or multi-hot [b, classes]: rows without any label are
            left out and any of several is a hit, the protocol of ImageNet ReaL;
            "mask" [b], 0 on rows that are no example.
        loss: a key of `losses.LOSSES`.
    """
    logits = outputs["logits"].astype(jnp.float32)
    classes = logits.shape[-1]
    labels, seen = batch["label"], batch["mask"] > 0
    bad = jnp.zeros_like(seen)
    if labels.ndim == 1:
        bad = seen & ((labels < 0) | (labels >= classes))
    elif labels.shape[-1] != classes:
        raise errors.UserError(
            f"labels have {labels.shape[-1]} classes, the model has {classes}; "
            "want a model with a head for this dataset"
        )
    labels = losses.multi_hot(labels, classes)
    counted = seen & (labels > 0.5).any(axis=-1)
    per_example = losses.LOSSES[loss].per_example(logits, labels)
    result = {
        "seen": seen.sum(),
        "bad": bad.sum(),
        "examples": counted.sum(),
        "top1": (counted & losses.is_hit(logits, labels)).sum(),
        "loss": jnp.where(counted, per_example, 0.0).sum(),
    }
    if classes > TOP:
        result["top5"] = (counted & _in_top(logits, labels)).sum()
    return result


def evaluator(
    *,
    forward: batches.Forward,
    source: Any,
    transform: Any,
    batch_size: int,
    mesh: Mesh,
    loss: str = "softmax",
    prefix: str = "",
) -> Callable[[Any], dict[str, float]]:
    """Returns `params -> {"top1", "top5", "loss", "examples", "corrupt"}`.

    top1 and top5 are shares of `examples`, the labelled images that could be read, and
    loss is their mean; top5 is left out for five classes or fewer. `corrupt` images
    could not be read.

    Args:
        forward: `(params, uint8 images) -> {"logits"}`.
        source: of the whole split.
        transform: host part of the preprocessing.
        batch_size: over all devices.
        mesh: of all devices.
        loss: a key of `losses.LOSSES`.
        prefix: of the names of the figures.

    Raises:
        UserError: unknown loss; when it runs: a label that is no class of the model, or
            no example at all.
    """
    errors.lookup(losses.LOSSES, loss, "loss")

    compiled = batches.reduced(sums, mesh, loss=loss)

    def evaluate(params: Any) -> dict[str, float]:
        totals: dict[str, float] = {}
        for part in batches.run(
            forward,
            params,
            compiled,
            source=source,
            transform=transform,
            batch_size=batch_size,
            mesh=mesh,
        ):
            for name, value in part.items():
                totals[name] = totals.get(name, 0) + value.item()
        figures = _figures(totals, len(source))
        return {prefix + name: value for name, value in figures.items()}

    return evaluate


def _figures(totals: dict[str, float], size: int) -> dict[str, float]:
    if totals.get("bad"):
        raise errors.UserError(
            f"{totals['bad']} of {size} labels are no class of the model: below 0 or "
            "too high for its head; want a model with a head for this dataset"
        )
    if not totals.get("examples"):
        raise errors.UserError(
            f"nothing to evaluate: none of {size} examples has a label and could be "
            "read; choose another split"
        )
    examples = totals["examples"]
    shares = {k: totals[k] / examples for k in ("top1", "top5", "loss") if k in totals}
    return shares | {"examples": examples, "corrupt": size - totals["seen"]}
