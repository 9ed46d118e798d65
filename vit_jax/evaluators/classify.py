"""Top-1, top-5 and loss over a split, every example counted exactly once."""

import logging
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics

from vit_jax import errors
from vit_jax.data import catalog
from vit_jax.data import labels as labels_lib
from vit_jax.evaluators import batches, multilabel
from vit_jax.evaluators.context import Context
from vit_jax.learning import losses
from vit_jax.types import Evaluator, Params

TOP = 5


def _in_top(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns bool [b]: one of the image's labels is among the best `TOP` classes."""
    _, best = jax.lax.top_k(logits, TOP)
    return (jnp.take_along_axis(labels, best, axis=-1) > 0.5).any(axis=-1)


def measured(
    outputs: dict[str, jax.Array], batch: dict[str, jax.Array], *, loss: str
) -> metrics.Collection:
    """Returns what one batch adds to each figure.

    "top1", "top5" and "loss" are means over "examples"; integers, and float32 for the
    loss, until they are added up.

    Args:
        outputs: The model's, with "logits" [b, classes].
        batch: What the rows are: "label", int [b] or multi-hot [b, classes], where rows
            without any label are left out and any of several is a hit, the protocol of
            ImageNet ReaL; "mask" [b], 0 on rows that are no example.
        loss: A key of `losses.LOSSES`.
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
    shares = {"top1": losses.is_hit(logits, labels)}
    if classes > TOP:
        shares["top5"] = _in_top(logits, labels)
    shares["loss"] = per_example
    counts = {"seen": seen, "bad": bad, "examples": counted}
    return metrics.Collection.create_collection(
        **{name: batches.Sum.from_model_output(rows) for name, rows in counts.items()},
        **{
            name: metrics.Average.from_model_output(rows, mask=counted)
            for name, rows in shares.items()
        },
    )


def _of_batch(
    outputs: dict[str, jax.Array], batch: dict[str, jax.Array], *, loss: str
) -> tuple[metrics.Collection, dict[str, jax.Array] | None]:
    """Returns `measured`, and the rows themselves where they are ranked."""
    ranked = multilabel.applies(batch["label"], loss)
    rows = multilabel.rows(outputs, batch) if ranked else None
    return measured(outputs, batch, loss=loss), rows


def evaluator(
    context: Context, *, dataset: str, split: str, f1_at: float = 0.0
) -> Evaluator:
    """Returns `params -> {"top1", "top5", "loss", "examples", "corrupt"}`.

    top1 and top5 are shares of `examples`, the labelled images that could be read, and
    loss is their mean; top5 is left out for five classes or fewer. `corrupt` images
    could not be read. Several labels an image have "map" beside, see `multilabel`,
    where outputs are one sigmoid each.

    Args:
        context: What is evaluated.
        dataset: As `data.catalog` takes it; "" for the run's.
        split: What of it; "" for the usual one.
        f1_at: The probability from which on a class is predicted, for "f1_micro" and
            "f1_macro" of several labels; 0: none of these.

    Raises:
        UserError: outputs that are no classes, or not those of the dataset, an unknown
            loss, a threshold for single labels; when it runs: a label that is no class
            of the model, or no example.
    """
    # All that can be said without the data comes before it is opened.
    loss, split = _loss(context), context.split(dataset, split)
    info = context.datasets.describe(dataset)
    multilabel.check_threshold(f1_at, multi_label=info.multi_label, loss=loss)
    order = _order(context.outputs, info, context.mode)
    source = context.open(dataset, split)
    if order is not None:
        source = labels_lib.Relabelled(source, order, context.outputs.count)
    if info.multi_label and losses.problem_of(loss) == "multi_label":
        multilabel.check_memory(context.outputs.count, len(source))
    compiled = batches.reduced(_of_batch, context.mesh, loss=loss)

    def evaluate(params: Params) -> dict[str, float]:
        ranking = multilabel.Ranking()

        def parts() -> Iterator[metrics.Collection]:
            over = context.over(source)
            for part, rows in batches.run(context.forward, params, compiled, **over):
                if rows is not None:
                    ranking.add(rows)
                yield part

        figures = _figures(batches.summed(parts()), len(source))
        figures |= ranking.figures(f1_at)
        return {context.prefix + name: value for name, value in figures.items()}

    return evaluate


def _loss(context: Context) -> str:
    """The loss to report; a `UserError` where outputs are numbers and no classes."""
    if context.loss is None:
        raise errors.UserError(
            f"{context.outputs.what} is a regression: its outputs are numbers and no "
            "classes, so it has no top-1; vit_jax.predict prints the numbers, and a "
            "few-shot evaluation (--fewshot) measures its features; where labels are "
            "numbers too, an evaluation of type regress has errors and R2"
        )
    errors.lookup(losses.LOSSES, context.loss, "loss")
    return context.loss


def _order(
    outputs: labels_lib.Side, info: catalog.DatasetInfo, mode: str
) -> np.ndarray | None:
    """The output of each class of a dataset, None where they are the same."""
    if not outputs.count:
        raise errors.UserError(
            "the model has no head, so it has no top-1: fine-tune one for "
            f"{info.name}, or measure the features with a few-shot evaluation "
            "(--fewshot)"
        )
    if outputs.count == 1:
        logging.warning("the best of one output is always right: top-1 says nothing")
    classes = labels_lib.Side(info.name, info.num_classes, info.label_names)
    return labels_lib.align(outputs, classes, mode)


def _figures(found: Any, size: int) -> dict[str, float]:
    """The figures of a split, of a collection of what `measured` names, or of None."""
    bad, examples = (0, 0) if found is None else (found.bad.total, found.examples.total)
    if bad:
        raise errors.UserError(
            f"{bad} of {size} labels are no class of the model: below 0 or "
            "too high for its head; want a model with a head for this dataset"
        )
    if found is None or not examples:
        raise errors.UserError(
            f"nothing to evaluate: none of {size} examples has a label and could be "
            "read; choose another split"
        )
    figures = found.compute()
    shares = {n: float(figures[n]) for n in ("top1", "top5", "loss") if n in figures}
    return shares | {"examples": int(examples), "corrupt": size - int(figures["seen"])}
