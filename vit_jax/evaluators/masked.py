"""Masked patch prediction over a split, beside the best constant prediction."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vit_jax import errors
from vit_jax.evaluators import batches
from vit_jax.learning import masked as masked_lib
from vit_jax.learning import patch_targets


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
        outputs: "params" and uint8 "image".
        batch: "index" int32 [b] and "mask" [b], 0 on rows that are no example.
        masked: the run's masked prediction.
        seed: the corruption of an example is a function of it and of its index.
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


def evaluator(
    *,
    masked: masked_lib.Masked,
    source: Any,
    transform: Any,
    batch_size: int,
    mesh: Mesh,
    seed: int = 0,
    prefix: str = "",
) -> Callable[[Any], dict[str, float]]:
    """Returns `params -> figures` of masked prediction, each example counted once.

    "loss" is a mean over corrupted patches; "constant_loss" is what the best prediction
    that is the same for all of them would have. For colours also "accuracy", the share
    of right predictions, and "majority", that of the most frequent colour (with 16
    predictions a patch, of each its own). The corruption of an example depends on
    nothing but the seed and its place in the split.

    Args:
        masked: from `experiment.assemble`.
        source: of the whole split.
        transform: host part of the preprocessing.
        batch_size: over all devices.
        mesh: of all devices.
        seed: of the corruption.
        prefix: of the names of the figures.

    Raises:
        UserError: when it runs: no example that can be read.
    """
    compiled = batches.reduced(sums, mesh, masked=masked, seed=seed)

    def evaluate(params: Any) -> dict[str, float]:
        totals: dict[str, Any] = {}
        for part in batches.run(
            _pass_on,
            params,
            compiled,
            source=source,
            transform=transform,
            batch_size=batch_size,
            mesh=mesh,
        ):
            for name, value in part.items():
                wide = np.float64 if value.dtype.kind == "f" else np.int64
                totals[name] = totals.get(name, 0) + value.astype(wide)
        figures = _figures(totals, len(source), masked.task)
        return {prefix + name: value for name, value in figures.items()}

    return evaluate


def _figures(
    totals: dict[str, Any], size: int, task: masked_lib.Task
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
    figures = {name: float(value) for name, value in figures.items()}
    return figures | {"examples": seen, "corrupt": size - seen}
