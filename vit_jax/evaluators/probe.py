"""Linear probe: multinomial logistic regression of features, solved by L-BFGS.

What is minimised is the mean cross-entropy plus l2 / 2 times the sum of the squared
weights, the biases left out: scikit-learn's LogisticRegression with C = 1 / (l2 * n) of
n examples. l2 is chosen by the accuracy on a tenth of the training examples that is
held out; the solution is then that of all of them. The loss and its gradient are
computed on the device in float32, a block of examples at a time, and SciPy's L-BFGS-B,
which scikit-learn uses too, works on the host.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import errors
from vit_jax.evaluators import features as features_lib
from vit_jax.evaluators.context import Context
from vit_jax.types import Evaluator, Params

Labelled = features_lib.Labelled

L2S = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ITERATIONS = 1000
TOLERANCE = 1e-5  # of the largest entry of the gradient
HELD_OUT = 10  # every tenth example
# Examples whose logits are on the device at a time.
_BLOCK = 16384
_MEMORY = 10  # of L-BFGS: pairs of steps and gradients, as scikit-learn


@dataclass(frozen=True)
class Solution:
    """A linear classifier.

    Attributes:
        weights: float64 [d, classes].
        bias: float64 [classes].
        loss: What was minimised.
        iterations: Of L-BFGS.
    """

    weights: np.ndarray
    bias: np.ndarray
    loss: float
    iterations: int

    def accuracy(self, data: Labelled) -> float:
        """Returns the share of examples whose highest score is their class's."""
        right = 0
        for at in range(0, len(data.labels), _BLOCK):
            scores = _scores(
                data.features[at : at + _BLOCK],
                self.weights.astype(np.float32),
                self.bias.astype(np.float32),
            )
            best = np.asarray(scores).argmax(axis=1)
            right += int((best == data.labels[at : at + _BLOCK]).sum())
        return right / len(data.labels)


@jax.jit
def _scores(features: jax.Array, weights: jax.Array, bias: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        return features @ weights + bias[None, :]


@jax.jit
def _loss_and_gradient(
    weights: jax.Array,
    bias: jax.Array,
    blocks: tuple[jax.Array, jax.Array],
    l2: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The loss, and its gradients [d, classes] and [classes].

    Args:
        weights: [d, classes].
        bias: [classes].
        blocks: Features [blocks, rows, d] and labels [blocks, rows], -1 of rows that
            pad.
        l2: The penalty.
    """
    count = (blocks[1] >= 0).sum()

    def add(total: Any, block: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        x, labels = block
        scores = jax.nn.log_softmax(_scores(x, weights, bias))
        hot = jax.nn.one_hot(labels, len(bias))  # of -1 zeros
        seen = (labels >= 0)[:, None]
        slope = jnp.where(seen, jnp.exp(scores) - hot, 0) / count
        with jax.default_matmul_precision("highest"):
            found = -(scores * hot).sum() / count, x.T @ slope, slope.sum(axis=0)
        return jax.tree.map(jnp.add, total, found), None

    zeros = jnp.zeros(()), jnp.zeros_like(weights), jnp.zeros_like(bias)
    (loss, of_weights, of_bias), _ = jax.lax.scan(add, zeros, blocks)
    return (
        loss + l2 / 2 * (weights * weights).sum(),
        of_weights + l2 * weights,
        of_bias,
    )


@dataclass(frozen=True)
class _Training:
    """Examples on the device, around their mean, which speeds up L-BFGS.

    Since no bias is penalised the solution is that of the features as they are.
    """

    mean: np.ndarray
    blocks: tuple[jax.Array, jax.Array]

    @classmethod
    def of(cls, data: Labelled) -> "_Training":
        mean = data.features.mean(axis=0, dtype=np.float64)
        centred = np.asarray(data.features - mean.astype(np.float32), np.float32)
        rows = min(_BLOCK, len(data.labels))
        count = -(-len(data.labels) // rows)
        pad = count * rows - len(data.labels)
        features = np.pad(centred, ((0, pad), (0, 0)))
        labels = np.pad(data.labels.astype(np.int32), (0, pad), constant_values=-1)
        blocks = features.reshape(count, rows, -1), labels.reshape(count, rows)
        return cls(mean.astype(np.float32).astype(np.float64), jax.device_put(blocks))


def fit(
    data: Labelled,
    *,
    num_classes: int,
    l2: float,
    start: Solution | None = None,
    max_iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Solution:
    """Returns the best weights at a penalty; a warning says where they are not yet.

    Args:
        data: The training examples.
        num_classes: How many classes there are.
        l2: The penalty, above 0.
        start: Where to begin; None: zeros.
        max_iterations: Of L-BFGS, at most.
        tolerance: Of the largest entry of the gradient.
    """
    return _fit(_Training.of(data), num_classes, l2, start, max_iterations, tolerance)


def _fit(
    training: _Training,
    num_classes: int,
    l2: float,
    start: Solution | None,
    max_iterations: int,
    tolerance: float,
) -> Solution:
    from scipy import optimize  # which nothing else here wants

    mean, blocks = training.mean, training.blocks
    shape = (len(mean) + 1, num_classes)

    def function(flat: np.ndarray) -> tuple[float, np.ndarray]:
        both = flat.reshape(shape).astype(np.float32)
        found = _loss_and_gradient(both[:-1], both[-1], blocks, np.float32(l2))
        loss, of_weights, of_bias = jax.device_get(found)
        gradient = np.concatenate([of_weights, of_bias[None]]).astype(np.float64)
        return float(loss), gradient.ravel()

    first = np.zeros(shape)
    if start is not None:
        bias = start.bias + mean @ start.weights
        first = np.concatenate([start.weights, bias[None]])
    options = {"maxiter": max_iterations, "maxcor": _MEMORY, "gtol": tolerance}
    options |= {"ftol": 64 * np.finfo(float).eps, "maxls": 50}
    found = optimize.minimize(
        function, first.ravel(), jac=True, method="L-BFGS-B", options=options
    )
    if found.nit >= max_iterations:
        logging.warning(
            "the probe with l2=%g has not converged in %d iterations: the largest "
            "entry of its gradient is %.2g, %.2g is wanted",
            *(l2, found.nit, np.abs(found.jac).max(), tolerance),
        )
    both = found.x.reshape(shape)
    bias = both[-1] - mean @ both[:-1]
    return Solution(both[:-1], bias, float(found.fun), int(found.nit))


def held_out(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns bool [n]: a tenth of the examples, of each class as near as it can be."""
    mixed = np.random.default_rng(seed).permutation(len(labels))
    by_class = mixed[np.argsort(labels[mixed], kind="stable")]
    found = np.zeros(len(labels), bool)
    found[by_class[HELD_OUT // 2 :: HELD_OUT]] = True
    return found


def choose(
    train: Labelled,
    *,
    num_classes: int,
    l2s: Sequence[float],
    max_iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> dict[float, float]:
    """Returns the accuracy on the held-out tenth at each penalty, the largest first.

    Each solution begins where that of the penalty above it ended.

    Args:
        train: All training examples.
        num_classes: How many classes there are.
        l2s: The penalties.
        max_iterations: See `fit`.
        tolerance: See `fit`.
    """
    out = held_out(train.labels)
    training, dev = _Training.of(train.only(~out)), train.only(out)
    solution, found = None, {}
    for l2 in sorted(l2s, reverse=True):
        solution = _fit(training, num_classes, l2, solution, max_iterations, tolerance)
        found[l2] = solution.accuracy(dev)
        logging.info(
            "l2=%g: %.4f held out, %d iterations", l2, found[l2], solution.iterations
        )
    return found


def figures(
    train: Labelled,
    test: Labelled,
    *,
    l2: Sequence[float] = L2S,
    max_iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> dict[str, float]:
    """Returns "top1" on the test examples, and the "l2" of the probe.

    "dev" is the accuracy on the held-out tenth, where there is a choice; of equally
    good penalties the largest is taken.

    Args:
        train: The training examples.
        test: Those that are classified.
        l2: Penalties to choose from; one alone is taken as it is.
        max_iterations: See `fit`.
        tolerance: See `fit`.

    Raises:
        UserError: no penalty above 0, features of two widths.
    """
    _check(l2, max_iterations, tolerance)
    num_classes = features_lib.check_both(train, test)
    options: dict[str, Any] = {"max_iterations": max_iterations, "tolerance": tolerance}
    best, found = float(l2[0]), {}
    if len(l2) > 1:
        dev = choose(train, num_classes=num_classes, l2s=l2, **options)
        best = max(dev, key=dev.__getitem__)
        found["dev"] = dev[best]
    solution = fit(train, num_classes=num_classes, l2=best, **options)
    return {"top1": solution.accuracy(test), "l2": best} | found


def _check(l2: Sequence[Any], max_iterations: int, tolerance: float) -> None:
    good = [one for one in l2 if isinstance(one, int | float) and 0 < one < np.inf]
    if not good or len(good) < len(l2) or max_iterations < 1 or not tolerance > 0:
        raise errors.UserError(
            f"probe: l2={list(l2)}, max_iterations={max_iterations}, tolerance="
            f"{tolerance}; want all of them above 0, and finite"
        )


def evaluator(
    context: Context,
    *,
    dataset: str,
    split: str,
    train_split: str,
    l2: Sequence[float],
    max_iterations: int,
) -> Evaluator:
    """Returns `params -> {"top1", "l2", "dev", "examples"}`; see `figures`.

    Args:
        context: What is evaluated, whatever its head.
        dataset: As `data.catalog` takes it; "" for the run's.
        split: The test; "" for the usual one.
        train_split: What the probe is trained on.
        l2: Penalties to choose from.
        max_iterations: Of L-BFGS.

    Raises:
        UserError: options that cannot be, a dataset of several labels an image; when it
            runs: features that are not finite.
    """
    _check(l2, max_iterations, 1.0)
    sources = features_lib.open_both(context, dataset, train_split, split)

    def evaluate(params: Params) -> dict[str, float]:
        train, test = features_lib.collect_both(context, params, sources)
        found = figures(train, test, l2=l2, max_iterations=max_iterations)
        named = {context.prefix + name: value for name, value in found.items()}
        return named | {"examples": len(test.labels)}

    return evaluate
