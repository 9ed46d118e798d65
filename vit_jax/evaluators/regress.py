"""Errors and R2 of numbers, over a split, every example counted exactly once.

All are scikit-learn's with several numbers an image: the mean over these of
`mean_squared_error`, `mean_absolute_error` and `r2_score`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import errors
from vit_jax.evaluators import batches
from vit_jax.evaluators.context import Context
from vit_jax.types import Evaluator, Params


def _rows(outputs: dict[str, jax.Array], batch: dict[str, jax.Array]) -> Any:
    return {
        "found": outputs["logits"].astype(jnp.float32),
        "wanted": batch["label"],
        "seen": batch["mask"] > 0,
    }


def figures(found: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Returns "mse", "mae" and "r2" of numbers [n, k].

    R2 is the mean over the k numbers; one that is the same in all images has 1 where it
    is always found, else 0, as in scikit-learn.

    Args:
        found: What the model says.
        wanted: The labels.
    """
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    squares = np.square(found - wanted).sum(axis=0)
    spread = np.square(wanted - wanted.mean(axis=0)).sum(axis=0)
    shares = 1 - squares / np.where(spread > 0, spread, 1)
    r2 = np.where(spread > 0, shares, squares == 0)
    return {
        "mse": float(squares.mean() / len(wanted)),
        "mae": float(np.abs(found - wanted).mean()),
        "r2": float(r2.mean()),
    }


def evaluator(context: Context, *, dataset: str, split: str) -> Evaluator:
    """Returns `params -> {"mse", "mae", "r2", "examples", "corrupt"}`; see `figures`.

    Args:
        context: What is evaluated.
        dataset: As `data.catalog` takes it; "" for the run's.
        split: What of it; "" for the usual one.

    Raises:
        UserError: outputs or labels that are classes, or not as many numbers; when it
            runs: no image that could be read.
    """
    info = context.datasets.describe(dataset)
    if context.loss is not None or not info.numeric:
        what = context.outputs.what if context.loss is not None else info.name
        raise errors.UserError(
            f"{what} has classes and no numbers: want an evaluation of type classify, "
            "or --config.data.label_column=number:COLUMN and objective=regression"
        )
    if info.num_classes != context.outputs.count:
        raise errors.UserError(
            f"{info.name} has {info.num_classes} numbers an image, "
            f"{context.outputs.what} {context.outputs.count} outputs; want as many"
        )
    source = context.open(dataset, split)
    reduce = batches.reduced(_rows, context.mesh)

    def evaluate(params: Params) -> dict[str, float]:
        parts = list(
            batches.run(context.forward, params, reduce, **context.over(source))
        )
        seen = np.concatenate([part["seen"] for part in parts])
        if not seen.any():
            raise errors.UserError(
                f"nothing to evaluate: none of {len(source)} images could be read"
            )
        found, wanted = (
            np.concatenate([part[name] for part in parts])[seen]
            for name in ("found", "wanted")
        )
        measured = figures(found, wanted)
        measured |= {"examples": len(found), "corrupt": len(source) - len(found)}
        return {context.prefix + name: value for name, value in measured.items()}

    return evaluate
