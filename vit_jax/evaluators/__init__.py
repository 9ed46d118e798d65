"""What is measured on a model: `EVALUATORS` by name, each a factory of functions."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from vit_jax import errors
from vit_jax.data import catalog, labels
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.evaluators import batches, classify, fewshot, masked
from vit_jax.learning import masked as masked_lib
from vit_jax.types import Evaluator

EVALUATORS: dict[str, Callable[..., Evaluator]] = {
    "classify": classify.evaluator,
    "fewshot": fewshot.evaluator,
    "masked": masked.evaluator,
}


def match(
    outputs: labels.Side, info: catalog.DatasetInfo, mode: str = "auto"
) -> np.ndarray | None:
    """Returns the output of each class of a dataset, None where they are the same.

    Args:
        outputs: of the model.
        info: of the dataset.
        mode: key of `labels.MODES`.

    Raises:
        UserError: the model does not classify, or has other classes.
    """
    if not outputs.count:
        raise errors.UserError(
            "the model has no head, so it has no top-1: fine-tune one for "
            f"{info.name}, or measure the features with a few-shot evaluation "
            "(--fewshot)"
        )
    if outputs.count == 1:
        logging.warning("the best of one output is always right: top-1 says nothing")
    classes = labels.Side(info.name, info.num_classes, info.label_names)
    return labels.align(outputs, classes, mode)


def check_problem(problem: str, checkpoint: str) -> None:
    """Raises `UserError` where a checkpoint's outputs are numbers and no classes."""
    if problem == "regression":
        raise errors.UserError(
            f"{checkpoint} is a regression: its outputs are numbers and no classes, so "
            "it has no top-1; vit_jax.predict prints the numbers, and a few-shot "
            "evaluation (--fewshot) measures its features"
        )


def _check_single_label(info: catalog.DatasetInfo) -> None:
    if info.multi_label or not info.num_classes:
        has = "several labels an image" if info.multi_label else "no number of classes"
        raise errors.UserError(
            f"few-shot evaluation wants one label an image and to know the classes; "
            f"{info.name} has {has}. Choose another dataset"
        )


# What each kind takes beside "type" and "split".
OPTIONS: dict[str, tuple[str, ...]] = {
    "classify": (),
    "fewshot": ("train_split", "shots", "seeds", "l2"),
    "masked": ("seed",),
}


def _check_options(kind: str, options: Mapping[str, Any]) -> None:
    missing = [name for name in OPTIONS[kind] if name not in options]
    if missing:
        raise errors.UserError(
            f"an evaluation of type {kind!r} lacks {', '.join(missing)}; make it with "
            f"base.{kind}(...)"
        )


def make(
    options: Mapping[str, Any],
    *,
    dataset: str,
    data_dir: str,
    forward: batches.Forward,
    preprocessing: Preprocessing,
    num_classes: int,
    batch_size: int,
    mesh: Mesh,
    loss: str = "softmax",
    prediction: masked_lib.Masked | None = None,
    prefix: str = "",
    outputs: labels.Side | None = None,
    mode: str = "auto",
) -> Evaluator:
    """Opens the splits of a dataset and returns the evaluator over them.

    Args:
        options: "type" (a key of `EVALUATORS`) and "split", "" for the usual one of
            the dataset; for few-shot evaluation also "train_split", "shots", "seeds"
            and "l2", for masked prediction "seed".
        dataset: as `data.catalog` takes it.
        data_dir: of TFDS, or "".
        forward: `(params, uint8 images) -> {"features", "logits"}`.
        preprocessing: of images; its host part is applied here.
        num_classes: width of the model's head.
        batch_size: over all devices.
        mesh: of all devices.
        loss: that `classify` reports.
        prediction: of masked patches, which `masked` measures; None: there is none.
        prefix: of the names of the figures.
        outputs: of the model, with the names of its classes; None: they have none.
        mode: how classes are matched with them, a key of `labels.MODES`.

    Raises:
        UserError: unknown type, dataset or split; a dataset that is not prepared; a
            head for another number of classes; few-shot evaluation of several labels;
            masked prediction of a run that has another objective.
    """
    kind = options["type"]
    factory = errors.lookup(EVALUATORS, kind, "evaluator type")
    info = catalog.describe(dataset, data_dir=data_dir)
    _check_options(kind, options)
    if kind == "fewshot":
        _check_single_label(info)
    split = options["split"] or catalog.usual_split(info)
    catalog.num_examples(info, split)
    order = None
    if kind == "classify":
        outputs = outputs or labels.Side("the model", num_classes)
        order = match(outputs, info, mode)
    source = catalog.open_source(dataset, split, data_dir=data_dir)
    if order is not None:
        source = labels.Relabelled(source, order, num_classes)
    shared = {
        "source": source,
        "transform": preprocessing.eval_transform(),
        "batch_size": batch_size,
        "mesh": mesh,
        "prefix": prefix,
    }
    if kind == "masked":
        if prediction is None:
            raise errors.UserError(
                "an evaluation of type 'masked' wants a run with "
                "objective='masked_patches'; this one classifies"
            )
        return factory(masked=prediction, seed=options["seed"], **shared)
    if kind == "classify":
        return factory(forward=forward, loss=loss, **shared)
    train = options["train_split"]
    return factory(
        forward=forward,
        train_source=catalog.open_source(dataset, train, data_dir=data_dir),
        num_classes=info.num_classes,
        shots=tuple(options["shots"]),
        seeds=options["seeds"],
        l2=options["l2"],
        **shared,
    )
