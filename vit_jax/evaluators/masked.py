"""Masked patch prediction over a split, beside the best constant prediction."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics

from vit_jax import errors
from vit_jax.evaluators import batches
from vit_jax.evaluators.context import Context
from vit_jax.learning import masked as masked_lib
from vit_jax.learning import patch_targets
from vit_jax.types import Evaluator, Params


def _pass_on(params: Any, images: jax.Array) -> dict[str, Any]:
    """Stands in for the forward pass, which needs to know which example a row is."""
    return {"params": params, "image": images}


def _histogram(colors: jax.Array, seen: jax.Array) -> jax.Array:
    """Counts the colours [b, n] of the rows that are `seen` [b]: int32 [COLORS]."""
    weights = jnp.broadcast_to(seen[:, None], colors.shape).astype(jnp.int32)
    return jnp.zeros(patch_targets.COLORS, jnp.int32).at[colors].add(weights)


def measured(
    outputs: dict[str, Any],
    batch: dict[str, Any],
    *,
    masked: masked_lib.Masked,
    seed: int,
) -> metrics.Collection:
    """Returns what one batch adds to each figure.

    Args:
        outputs: What `_pass_on` gives: "params" and uint8 "image".
        batch: What the rows are: "index" int32 [b], and "mask" [b], 0 on rows that are
            no example.
        masked: The run's masked prediction.
        seed: What, with its index, decides the corruption of an example.
    """
    task, images, seen = masked.task, outputs["image"], batch["mask"] > 0
    key = jax.random.key(seed)
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(batch["index"])
    corruption = task.draw(keys)
    predictions = masked.apply(outputs["params"], images, corruption, None)
    targets = task.targets(images, corruption.positions)
    mean = functools.partial(metrics.Average.from_model_output, mask=seen)
    found: dict[str, metrics.Metric] = {
        "seen": batches.Sum.from_model_output(seen),
        "loss": mean(task.loss(predictions, targets)),
    }
    if task.classes:
        found["accuracy"] = mean(task.hits(predictions, targets))
        found["counts"] = batches.Sum(jax.vmap(_histogram, (2, None))(targets, seen))
    else:
        values = jnp.where(seen[:, None, None], targets, 0.0)
        found["sum"] = batches.Sum(values.sum(axis=(0, 1)))
        found["squares"] = batches.Sum(jnp.square(values).sum(axis=(0, 1)))
    return metrics.Collection.create_collection(**found)


def evaluator(context: Context, *, dataset: str, split: str, seed: int) -> Evaluator:
    """Returns `params -> figures` of masked prediction, each example counted once.

    "loss" is a mean over corrupted patches; "constant_loss" is what the best prediction
    that is the same for all of them would have. For colours also "accuracy", the share
    of right predictions, and "majority", that of the most frequent colour (with 16
    predictions a patch, of each its own). The corruption of an example depends on
    nothing but the seed and its place in the split.

    Args:
        context: What is evaluated, in a run that has this objective.
        dataset: As `data.catalog` takes it; "" for the run's.
        split: What of it; "" for the usual one.
        seed: The seed of the corruption.

    Raises:
        UserError: another objective; when it runs: no example that can be read.
    """
    masked = context.evaluation
    if not isinstance(masked, masked_lib.Masked):
        raise errors.UserError(
            "an evaluation of type 'masked' wants a run with "
            "objective='masked_patches' at the run's own image_size; this one has "
            "another"
        )
    source = context.open(dataset, split)
    compiled = batches.reduced(measured, context.mesh, masked=masked, seed=seed)

    def evaluate(params: Params) -> dict[str, float]:
        found = batches.total(_pass_on, params, compiled, **context.over(source))
        figures = _figures(found, len(source), masked.task)
        return {context.prefix + name: value for name, value in figures.items()}

    return evaluate


def _figures(found: Any, size: int, task: masked_lib.Task) -> dict[str, float]:
    """Turns what `measured` gave, added up over a split, or None into figures."""
    totals = {} if found is None or not found.seen.total else found.compute()
    if not totals:
        raise errors.UserError(
            f"nothing to evaluate: none of {size} examples could be read; choose "
            "another split"
        )
    seen = int(totals["seen"])
    patches = seen * task.corrupted
    figures = {"loss": totals["loss"]}
    if task.classes:
        frequencies = totals["counts"] / patches
        logs = np.log(np.where(frequencies > 0, frequencies, 1.0))
        figures |= {
            "accuracy": totals["accuracy"],
            "majority": frequencies.max(axis=1).mean(),
            "constant_loss": -(frequencies * logs).sum(axis=1).mean(),
        }
    else:
        mean = totals["sum"] / patches
        variance = totals["squares"] / patches - np.square(mean)
        figures["constant_loss"] = variance.mean()
    counts = {"examples": seen, "corrupt": size - seen}
    return {name: float(value) for name, value in figures.items()} | counts
