"""Features of a whole split, in the order of the dataset."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vit_jax import errors
from vit_jax.data import catalog
from vit_jax.evaluators import batches
from vit_jax.evaluators.context import Context
from vit_jax.types import Params


@dataclass(frozen=True)
class Labelled:
    """Features with a class each.

    Attributes:
        features: float32 [n, d].
        labels: Integers [n].
        what: What messages call them.
    """

    features: np.ndarray
    labels: np.ndarray
    what: str = "the features"

    def only(self, chosen: np.ndarray) -> "Labelled":
        """Returns the examples where `chosen`, bool [n], is True."""
        return Labelled(self.features[chosen], self.labels[chosen], self.what)


def check_both(train: Labelled, test: Labelled) -> int:
    """Returns the number of classes of examples to learn from and to classify.

    Raises:
        UserError: none of either, or features of two widths.
    """
    for one in (train, test):
        if not len(one.labels):
            raise errors.UserError(f"{one.what}: no example; want some with a label")
    widths = [one.features.shape[1] for one in (train, test)]
    if widths[0] != widths[1]:
        raise errors.UserError(
            f"{train.what} has features of {widths[0]} numbers, {test.what} of "
            f"{widths[1]}: want those of one model"
        )
    return int(max(train.labels.max(), test.labels.max())) + 1


def check_single_label(info: catalog.DatasetInfo, what: str) -> None:
    """Raises `UserError` unless an example has one class of a known number.

    Args:
        info: The dataset.
        what: Wants that.
    """
    if info.multi_label or info.numeric or not info.num_classes:
        has = "several labels an image" if info.multi_label else "no number of classes"
        has = "numbers as labels" if info.numeric else has
        raise errors.UserError(
            f"{what} wants one label an image and to know the classes; {info.name} "
            f"has {has}. Choose another dataset"
        )


def check_train_split(train_split: str) -> None:
    """Raises `UserError` for no split to learn from: "" is the one of the test."""
    if not train_split.strip():
        raise errors.UserError(
            "train_split is empty: want what to learn from, as in train or train[:90%]"
        )


def open_both(
    context: Context, dataset: str, train_split: str, split: str
) -> tuple[Any, Any]:
    """Opens the examples to learn from and those to classify.

    Raises:
        UserError: a dataset of several labels an image, no split to learn from, or what
            `Context.open` raises.
    """
    info = context.datasets.describe(dataset)
    check_single_label(info, "an evaluation of features")
    check_train_split(train_split)
    return context.open(dataset, train_split), context.open(dataset, split)


def collect_both(
    context: Context, params: Params, sources: tuple[Any, Any]
) -> tuple[Labelled, Labelled]:
    """Returns the features and labels of what `open_both` opened."""
    train, test = (
        Labelled(*collect(context.forward, params, **context.over(source)))
        for source in sources
    )
    return train, test


def _rows(outputs: dict[str, jax.Array], batch: dict[str, jax.Array]) -> Any:
    if batch["label"].ndim != 1:
        raise errors.UserError(
            "an evaluation of features wants one label an image; these have several"
        )
    return batch | {"features": outputs["features"].astype(np.float32)}


def collect(
    forward: batches.Forward,
    params: Any,
    *,
    source: Any,
    transform: Any,
    batch_size: int,
    mesh: Mesh,
    between: Callable[[], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns features float32 [n, d] and integer labels [n] of a split.

    Every process holds all of them. Images that could not be read are left out. The
    rest is as `batches.run` takes it.

    Raises:
        UserError: labels that are not single classes, features that are not finite.
    """
    parts = batches.run(
        forward,
        params,
        batches.reduced(_rows, mesh),
        source=source,
        transform=transform,
        batch_size=batch_size,
        mesh=mesh,
        between=between,
    )
    rows: dict[str, list[np.ndarray]] = {}
    for part in parts:
        good = part.pop("mask") > 0
        for name, values in part.items():
            rows.setdefault(name, []).append(values[good])
    whole = {name: np.concatenate(values) for name, values in rows.items()}
    order = np.argsort(whole["index"])
    features, labels = whole["features"][order], whole["label"][order]
    if not np.isfinite(features).all():
        raise errors.UserError(
            "the features are not finite: the checkpoint is damaged, or the model "
            "overflows; try model.compute_dtype=float32"
        )
    return features, labels
