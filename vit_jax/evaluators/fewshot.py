"""Few-shot classification of features by ridge regression, in closed form.

The paper's few-shot evaluation (section 4.1): frozen features, targets in {-1, 1}^K,
least squares with an L2 penalty. The procedure, its constants and its random choice of
examples are those of big_vision's `fewshot_lsr`, whose figures it reproduces.
"""

import logging
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vit_jax import errors
from vit_jax.evaluators import features, least_squares
from vit_jax.evaluators.context import Context
from vit_jax.types import Evaluator, Params

L2 = 2.0**10


def choose_support(
    labels: np.ndarray, *, num_classes: int, shots: int, seed: int
) -> np.ndarray:
    """Returns the indices of `shots` random examples of each class, class by class.

    One generator serves all classes in order, and fewer shots are a prefix of more. A
    class with fewer examples gives all that it has.
    """
    rng = np.random.default_rng(seed)
    chosen = [
        rng.permutation(np.flatnonzero(labels == c))[:shots] for c in range(num_classes)
    ]
    return np.concatenate(chosen)


def _checked(
    features: np.ndarray, labels: np.ndarray, num_classes: int, what: str
) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(features, np.float32), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise errors.UserError(
            f"few-shot: {what} features {features.shape} and labels {labels.shape}; "
            "want [examples, width] and one integer label an example"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise errors.UserError(
            f"few-shot: {what} labels are {labels.dtype}; want integer class indices"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise errors.UserError(
            f"few-shot: {what} labels go from {labels.min()} to {labels.max()}; "
            f"want 0 to {num_classes - 1}: set num_classes to that of the dataset"
        )
    return features, labels.astype(np.int32)


def _check_settings(shots: Sequence[Any], l2s: Sequence[Any], seeds: Any = 1) -> None:
    good = len(shots) and len(l2s)
    for count in (*shots, seeds):
        good = good and isinstance(count, numbers.Integral) and int(count) >= 1
    for l2 in l2s:
        good = good and isinstance(l2, numbers.Real) and float(l2) > 0
    if not good:
        raise errors.UserError(
            f"few-shot: shots={list(shots)}, l2={list(l2s)}, seeds={seeds}; "
            "want shots >= 1, l2 > 0 and seeds >= 1"
        )


def sweep(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_classes: int,
    shots: int,
    seed: int,
    l2s: Sequence[float],
) -> np.ndarray:
    """Returns the test accuracy at each penalty, from one eigendecomposition.

    Args:
        train_features: Features [n, d]; `shots` of each class are used.
        train_labels: Integers [n].
        test_features: Features [m, d], all used.
        test_labels: Integers [m].
        num_classes: The number of classes K.
        shots: Examples a class; a class with fewer gives all it has, with a warning.
        seed: The seed of the choice of examples.
        l2s: Penalties, > 0.

    Raises:
        UserError: shapes or labels that do not fit, no shots, a penalty <= 0.
    """
    train_features, train_labels = _checked(
        train_features, train_labels, num_classes, "training"
    )
    test_features, test_labels = _checked(
        test_features, test_labels, num_classes, "test"
    )
    _check_settings([shots], l2s)
    few = np.flatnonzero(np.bincount(train_labels, minlength=num_classes) < shots)
    if len(few):
        logging.warning(
            "%d-shot, seed %d: %d of %d classes have fewer training examples and give "
            "all they have, class %d first",
            *(shots, seed, len(few), num_classes, few[0]),
        )
    support = choose_support(
        train_labels, num_classes=num_classes, shots=shots, seed=seed
    )
    factors = least_squares.factorise(
        train_features[support], train_labels[support], num_classes
    )
    features, labels = jax.device_put((test_features, test_labels))
    return least_squares.accuracies(factors, features, labels, l2s)


def accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_classes: int,
    shots: int,
    seed: int = 0,
    l2: float = L2,
) -> float:
    """Returns the few-shot test accuracy at one penalty; see `sweep`."""
    accuracies = sweep(
        train_features,
        train_labels,
        test_features,
        test_labels,
        num_classes=num_classes,
        shots=shots,
        seed=seed,
        l2s=[l2],
    )
    return float(accuracies[0])


def evaluator(
    context: Context,
    *,
    dataset: str,
    split: str,
    train_split: str,
    shots: Sequence[int],
    seeds: int,
    l2: float,
) -> Evaluator:
    """Returns `params -> figures` of few-shot accuracy on the features of a model.

    "5shot" is the mean over seeds, "5shot_std" the standard deviation (of these seeds,
    not an estimate for more), "5shot_seed0" the accuracy at one seed; "examples" is
    the number of test images.

    Args:
        context: What is evaluated, whatever its head.
        dataset: As `data.catalog` takes it; "" for the run's.
        split: The test; "" for the usual one.
        train_split: What the shots are chosen from.
        shots: Numbers of examples a class.
        seeds: How many choices of examples there are.
        l2: The penalty.

    Raises:
        UserError: a dataset of several labels an image, no shots, no seeds, a penalty
            <= 0; when it runs: labels that are not single classes, features that are
            not finite.
    """
    info = context.datasets.describe(dataset)
    features.check_single_label(info, "few-shot evaluation")
    _check_settings(shots, [l2], seeds)
    test_source = context.open(dataset, split)
    train_source = context.open(dataset, train_split)

    def evaluate(params: Params) -> dict[str, float]:
        train, test = (
            features.collect(context.forward, params, **context.over(source))
            for source in (train_source, test_source)
        )
        figures: dict[str, float] = {}
        for k in shots:
            accuracies = [
                accuracy(
                    *(*train, *test),
                    num_classes=info.num_classes,
                    shots=k,
                    seed=seed,
                    l2=l2,
                )
                for seed in range(seeds)
            ]
            figures[f"{k}shot"] = float(np.mean(accuracies))
            figures[f"{k}shot_std"] = float(np.std(accuracies))
            for seed, value in enumerate(accuracies):
                figures[f"{k}shot_seed{seed}"] = value
        named = {context.prefix + name: value for name, value in figures.items()}
        return named | {"examples": len(test[1])}

    return evaluate
