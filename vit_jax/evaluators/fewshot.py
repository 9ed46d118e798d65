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
BETWEEN = " + "  # of several datasets, and of the splits of each


def choose_support(
    labels: np.ndarray, *, num_classes: int, shots: int, seed: int | None
) -> np.ndarray:
    """Returns the indices of `shots` random examples of each class, class by class.

    One generator serves all classes in order, and fewer shots are a prefix of more. A
    class with fewer examples gives all that it has. Without a seed they are the first.
    """
    rng = None if seed is None else np.random.default_rng(seed)
    chosen = []
    for c in range(num_classes):
        indices = np.flatnonzero(labels == c)
        chosen.append((indices if rng is None else rng.permutation(indices))[:shots])
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
    seed: int | None,
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
        seed: The seed of the choice of examples; None: the first of each class.
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
            "%d-shot, seed %s: %d of %d classes have fewer training examples and give "
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


def best_penalty(accuracies: Sequence[Sequence[float]]) -> int:
    """Returns which of several penalties has the best mean rank over datasets.

    The rule of the paper's time: one penalty for all of them, so that none is chosen on
    the test of one. Equal accuracies share their ranks; of equal means the first wins.

    Args:
        accuracies: Of each dataset, at each penalty.
    """
    ranks = []
    for row in np.asarray(accuracies, np.float64):
        below = (row[None] < row[:, None]).sum(axis=1)
        ranks.append(below + (row[None] == row[:, None]).sum(axis=1) / 2)
    return int(np.argmax(np.mean(ranks, axis=0)))


def _constant(l2: float, powers: Sequence[int], *, several: bool) -> list[float]:
    return [l2]


def _by_mean_rank(l2: float, powers: Sequence[int], *, several: bool) -> list[float]:
    if not several:
        raise errors.UserError(
            "few-shot: l2_rule='mean_rank' chooses one penalty of several datasets; of "
            "one it would be chosen on its test. Want pets,dtd,... or 'constant'"
        )
    if len(powers) != 2 or not -64 <= powers[0] <= powers[1] <= 64:
        raise errors.UserError(
            f"few-shot: l2_powers={tuple(powers)}; want the least and the greatest "
            "power of two, as in -10,19"
        )
    return [2.0**power for power in range(powers[0], powers[1] + 1)]


# The penalties that there are to choose among.
RULES = {"constant": _constant, "mean_rank": _by_mean_rank}
CHOICES = {"random": False, "first": True}


def evaluator(
    context: Context,
    *,
    dataset: str,
    split: str,
    train_split: str,
    shots: Sequence[int],
    seeds: int,
    l2: float,
    l2_rule: str = "constant",
    l2_powers: Sequence[int] = (-10, 19),
    choice: str = "random",
) -> Evaluator:
    """Returns `params -> figures` of few-shot accuracy on the features of a model.

    "5shot" is the mean over seeds, "5shot_std" the standard deviation (of these seeds,
    not an estimate for more), "5shot_seed0" the accuracy at one seed; "examples" is
    the number of test images. Of several datasets these are "DATASET_5shot" and so on,
    "5shot" is the mean over datasets, and "5shot_l2" the penalty that was chosen.

    Args:
        context: What is evaluated, whatever its head.
        dataset: As `data.catalog` takes it; "" for the run's. Several: `BETWEEN` them.
        split: The test; "" for the usual one. Of several datasets one each, likewise.
        train_split: What the shots are chosen from; likewise.
        shots: Numbers of examples a class.
        seeds: How many choices of examples there are.
        l2: The penalty, big_vision's constant.
        l2_rule: Key of `RULES`: whether it is that, or one for all datasets by the mean
            rank of its accuracy.
        l2_powers: The least and the greatest power of two to choose among.
        choice: Key of `CHOICES`: the examples of a class are random, or the first.

    Raises:
        UserError: a dataset of several labels an image, no shots, no seeds, a penalty
            <= 0, a rule that cannot be; when it runs: labels that are not single
            classes, features that are not finite.
    """
    names = dataset.split(BETWEEN)
    several = len(names) > 1
    infos = [context.datasets.describe(name) for name in names]
    for info in infos:
        features.check_single_label(info, "few-shot evaluation")
    _check_settings(shots, [l2], seeds)
    rule = errors.lookup(RULES, l2_rule, "few-shot: l2_rule")
    l2s = rule(l2, l2_powers, several=several)
    first = errors.lookup(CHOICES, choice, "few-shot: choice")
    _check_names(names, train_split)
    tests, trains = (
        [context.open(*pair) for pair in zip(names, _each(text, names), strict=True)]
        for text in (split, train_split)
    )

    def accuracies(params: Params, n: int) -> tuple[dict[int, np.ndarray], int]:
        train, test = (
            features.collect(context.forward, params, **context.over(source))
            for source in (trains[n], tests[n])
        )
        classes = infos[n].num_classes
        found = {}
        for k in shots:
            options: dict[str, Any] = dict(num_classes=classes, shots=k, l2s=l2s)
            seeded = [None] if first else range(seeds)
            sweeps = [sweep(*train, *test, seed=seed, **options) for seed in seeded]
            found[k] = np.array(sweeps, np.float64)
        return found, len(test[1])

    def evaluate(params: Params) -> dict[str, float]:
        found = [accuracies(params, n) for n in range(len(names))]
        figures: dict[str, float] = {}
        for k in shots:
            at = best_penalty([one[k].mean(axis=0) for one, _ in found])
            for name, (one, _) in zip(names, found, strict=True):
                start = f"{short(name)}_" if several else ""
                figures |= _figures(f"{start}{k}shot", one[k][:, at], first)
            if several:
                means = [one[k][:, at].mean() for one, _ in found]
                figures |= {f"{k}shot": float(np.mean(means)), f"{k}shot_l2": l2s[at]}
        named = {context.prefix + name: value for name, value in figures.items()}
        return named | {"examples": sum(size for _, size in found)}

    return evaluate


def _check_names(names: Sequence[str], train_split: str) -> None:
    """Raises `UserError` for datasets whose figures have one name, or without shots."""
    for one in _each(train_split, names):
        features.check_train_split(one)
    called = [short(name) for name in names]
    if twice := next((one for one in called if called.count(one) > 1), ""):
        raise errors.UserError(
            f"few-shot: two of the datasets are called {twice!r}, and so would their "
            "figures be; want each once, or an evaluation for each"
        )


def _figures(name: str, values: np.ndarray, first: bool) -> dict[str, float]:
    """The figures of one number of shots, from the accuracy at each seed."""
    found = {name: float(np.mean(values))}
    if first:
        return found
    found[f"{name}_std"] = float(np.std(values))
    return found | {f"{name}_seed{s}": float(v) for s, v in enumerate(values)}


def _each(text: str, names: Sequence[str]) -> list[str]:
    """The split of each dataset; one is that of all."""
    splits = text.split(BETWEEN)
    if len(splits) not in (1, len(names)):
        raise errors.UserError(
            f"few-shot: {len(splits)} splits, {text!r}, of {len(names)} datasets; want "
            "one for all, or one each"
        )
    return splits * len(names) if len(splits) == 1 else splits


def short(dataset: str) -> str:
    """Returns what the figures of one of several datasets begin with."""
    name, _, rest = dataset.partition(":")
    path = rest if rest and not rest[0].isdigit() else ""  # else a version
    return path.rstrip("/").rpartition("/")[2] or name.replace("/", "_")
