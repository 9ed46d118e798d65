"""Masked patch prediction over a split, beside the best constant prediction."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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


def sums(
    outputs: dict[str, Any],
    batch: dict[str, Any],
    *,
    masked: masked_lib.Masked,
    seed: int,
) -> dict[str, jax.Array]:
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
    loss = jnp.where(seen[:, None], task.loss(predictions, targets), 0.0)
    result = {"seen": seen.sum(), "loss": loss.sum()}
    row = seen[:, None, None]
    if task.classes:
        hits = task.hits(predictions, targets) & row
        counts = jax.vmap(_histogram, (2, None), 0)(targets, seen)
        return result | {"hits": hits.sum(), "counts": counts}
    values = jnp.where(row, targets, 0.0)
    moments = (values.sum(axis=(0, 1)), jnp.square(values).sum(axis=(0, 1)))
    return result | {"sum": moments[0], "squares": moments[1]}


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
            "objective='masked_patches'; this one has another"
        )
    source = context.open(dataset, split)
    compiled = batches.reduced(sums, context.mesh, masked=masked, seed=seed)

    def evaluate(params: Params) -> dict[str, float]:
        totals = batches.total(_pass_on, params, compiled, **context.over(source))
        figures = _figures(totals, len(source), masked.task)
        return {context.prefix + name: value for name, value in figures.items()}

    return evaluate


def _figures(
    totals: Mapping[str, np.ndarray], size: int, task: masked_lib.Task
) -> dict[str, float]:
    """Turns the sums over a split into its figures."""
    seen = int(totals["seen"]) if totals else 0
    if not seen:
        raise errors.UserError(
            f"nothing to evaluate: none of {size} examples could be read; choose "
            "another split"
        )
    patches = seen * task.corrupted
    figures = {"loss": totals["loss"] / patches}
    if task.classes:
        frequencies = totals["counts"] / patches
        logs = np.log(np.where(frequencies > 0, frequencies, 1.0))
        figures |= {
            "accuracy": totals["hits"] / (patches * len(frequencies)),
            "majority": frequencies.max(axis=1).mean(),
            "constant_loss": -(frequencies * logs).sum(axis=1).mean(),
        }
    else:
        mean = totals["sum"] / patches
        variance = totals["squares"] / patches - np.square(mean)
        figures["constant_loss"] = variance.mean()
    counts = {"examples": seen, "corrupt": size - seen}
    return {name: float(value) for name, value in figures.items()} | counts
