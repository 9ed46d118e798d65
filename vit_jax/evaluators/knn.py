"""Classification by the nearest training examples, by the cosine of their features.

The k examples with the highest cosines vote for their classes: alike ("uniform"), or by
exp(cosine / temperature) ("exp", arXiv 1805.01978; DINO's k=20 and temperature 0.07 are
the defaults). Of equal votes the first class wins, of equal cosines the example that
comes first. Uniform votes are those of scikit-learn's KNeighborsClassifier with
metric="cosine", the others those with that function of the distance.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import errors
from vit_jax.evaluators import features as features_lib
from vit_jax.evaluators.context import Context
from vit_jax.types import Evaluator, Params

WEIGHTS = ("uniform", "exp")
# Training examples and queries whose cosines are on the device at a time.
_CHUNK, _QUERIES = 16384, 2048
_VOTES = 256  # queries whose votes are counted at a time


def unit(rows: np.ndarray) -> np.ndarray:
    """Returns rows of length 1, float32; a row of zeros stays one."""
    rows = np.asarray(rows, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


@functools.partial(jax.jit, static_argnames="k")
def _merged(
    best: tuple[jax.Array, jax.Array],
    queries: jax.Array,
    chunk: jax.Array,
    numbers: jax.Array,
    k: int,
) -> tuple[jax.Array, jax.Array]:
    """The best cosines [q, k] and whose they are, of those so far and of a chunk."""
    with jax.default_matmul_precision("highest"):
        cosines = queries @ chunk.T
    cosines = jnp.where(numbers[None, :] >= 0, cosines, -jnp.inf)  # rows that pad
    rows = jnp.broadcast_to(numbers[None, :], cosines.shape)
    cosines = jnp.concatenate([best[0], cosines], axis=1)
    rows = jnp.concatenate([best[1], rows], axis=1)
    cosines, places = jax.lax.top_k(cosines, k)  # of equals the first
    return cosines, jnp.take_along_axis(rows, places, axis=1)


def nearest(
    train: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the highest cosines [q, k], best first, and the rows that have them.

    On the device are the queries, and a chunk of the training examples.

    Args:
        train: Features [n, d].
        queries: Features [q, d].
        k: How many, at most n.
    """
    train, queries = unit(train), unit(queries)
    size = min(_CHUNK, len(train))
    parts = [queries[at : at + _QUERIES] for at in range(0, len(queries), _QUERIES)]
    there = [jnp.asarray(part) for part in parts]
    best = [
        (jnp.full((len(part), k), -jnp.inf), jnp.full((len(part), k), -1))
        for part in parts
    ]
    for start in range(0, len(train), size):
        rows = train[start : start + size]
        numbers = np.full(size, -1, np.int32)
        numbers[: len(rows)] = np.arange(start, start + len(rows))
        padded = np.pad(rows, ((0, size - len(rows)), (0, 0)))
        chunk, places = jax.device_put((padded, numbers))
        best = [_merged(b, part, chunk, places, k=k) for b, part in zip(best, there)]
    cosines, found = zip(*jax.device_get(best), strict=True)
    return np.concatenate(cosines), np.concatenate(found)


def votes(
    cosines: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    weights: str,
    temperature: float,
) -> np.ndarray:
    """Returns the class [q] that most of the neighbours' weight is for.

    Args:
        cosines: Of the neighbours, [q, k].
        labels: Theirs, int [q, k].
        num_classes: How many classes there are.
        weights: Of a vote, one of `WEIGHTS`.
        temperature: Of "exp".
    """
    weight = np.ones(cosines.shape)
    if weights == "exp":  # a common factor changes nothing, and may overflow
        weight = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / temperature)
    found = []
    for at in range(0, len(labels), _VOTES):
        part = labels[at : at + _VOTES]
        cells = np.arange(len(part))[:, None] * num_classes + part
        counted = np.bincount(
            cells.ravel(),
            weight[at : at + _VOTES].ravel(),
            minlength=len(part) * num_classes,
        )
        found.append(counted.reshape(len(part), num_classes).argmax(axis=1))
    return np.concatenate(found)


def accuracies(
    train: features_lib.Labelled,
    test: features_lib.Labelled,
    *,
    ks: Sequence[int],
    weights: str = "exp",
    temperature: float = 0.07,
) -> dict[str, float]:
    """Returns "20nn", the share of test examples that are right with k=20, by k.

    Args:
        train: Features and labels of the examples that vote.
        test: Those that are classified.
        ks: Numbers of neighbours; all examples where there are fewer.
        weights: Of a vote, one of `WEIGHTS`.
        temperature: Of "exp".

    Raises:
        UserError: options that cannot be, or features of two widths.
    """
    _check(ks, weights, temperature)
    num_classes = features_lib.check_both(train, test)
    most = min(max(ks), len(train.labels))
    cosines, rows = nearest(train.features, test.features, most)
    labels = train.labels[rows]
    figures = {}
    for k in ks:
        chosen = votes(
            *(cosines[:, :k], labels[:, :k]),
            num_classes=num_classes,
            weights=weights,
            temperature=temperature,
        )
        figures[f"{k}nn"] = float((chosen == test.labels).mean())
    return figures


def _check(ks: Sequence[Any], weights: str, temperature: float) -> None:
    whole = [k for k in ks if isinstance(k, int | np.integer) and k >= 1]
    # Cosines are divided by it in float32.
    if not whole or len(whole) < len(ks) or not np.float32(temperature) > 0:
        raise errors.UserError(
            f"knn: k={list(ks)}, temperature={temperature}; want k >= 1 and a "
            "temperature above 0"
        )
    errors.lookup(dict.fromkeys(WEIGHTS), weights, "weights")


def evaluator(
    context: Context,
    *,
    dataset: str,
    split: str,
    train_split: str,
    k: Sequence[int],
    weights: str,
    temperature: float,
) -> Evaluator:
    """Returns `params -> {"20nn", "examples"}` on the features of a model.

    Args:
        context: What is evaluated, whatever its head.
        dataset: As `data.catalog` takes it; "" for the run's.
        split: The test; "" for the usual one.
        train_split: The examples that vote.
        k: Numbers of neighbours, a figure each.
        weights: Of a vote, one of `WEIGHTS`.
        temperature: Of "exp".

    Raises:
        UserError: options that cannot be, a dataset of several labels an image; when it
            runs: features that are not finite.
    """
    _check(k, weights, temperature)
    sources = features_lib.open_both(context, dataset, train_split, split)

    def evaluate(params: Params) -> dict[str, float]:
        train, test = features_lib.collect_both(context, params, sources)
        figures = accuracies(
            train, test, ks=k, weights=weights, temperature=temperature
        )
        named = {context.prefix + name: value for name, value in figures.items()}
        return named | {"examples": len(test.labels)}

    return evaluate
