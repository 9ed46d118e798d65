"""Ridge regression of classes in closed form: one factorisation for all penalties.

Features are standardised and get a constant one, targets are -1 and 1. As the mean of
standardised features is zero, the constant one has an eigenvector to itself: it is put
beside the others, whose eigenvalues would drown in its own, 10,000 times the examples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BIAS = 100.0  # the constant feature: so large that the bias is hardly penalised
EPSILON = 1e-5  # added to the standard deviation of a feature
_NEAR = 1e-8  # how near combinations of a few solutions are, less than float32 tells
# Rows scored at a time, and of those combined at a time: 190 penalties of 1,000 classes
# then stay in a CPU's cache.
_ROWS, _TOGETHER = 256, 8


class Factors(NamedTuple):
    """Everything of the solutions that does not depend on the penalty.

    Weights at a penalty are left diag(1 / (eigenvalues + l2)) right.

    Attributes:
        eigenvalues: [r], of X'X or, with fewer examples than features, of XX'.
        left: [d + 1, r].
        right: [r, classes].
        mean: [1, d], of the features.
        std: [1, d], the same.
    """

    eigenvalues: jax.Array
    left: jax.Array
    right: jax.Array
    mean: jax.Array
    std: jax.Array


@jax.jit(static_argnames="num_classes")
def factorise(features: jax.Array, labels: jax.Array, num_classes: int) -> Factors:
    """Returns the factors of the solutions for features [n, d] and labels [n]."""
    mean = features.mean(axis=0, keepdims=True)
    std = features.std(axis=0, keepdims=True) + EPSILON
    x = (features - mean) / std
    y = 2.0 * jax.nn.one_hot(labels, num_classes) - 1.0
    # Chips that round the factors of a matrix product lose the small eigenvalues.
    with jax.default_matmul_precision("highest"):
        if x.shape[0] > x.shape[1]:
            eigenvalues, left = jnp.linalg.eigh(x.T @ x)
            right = left.T @ (x.T @ y)
        else:
            eigenvalues, vectors = jnp.linalg.eigh(x @ x.T)
            left, right = x.T @ vectors, vectors.T @ y
    bias = jnp.full(1, BIAS * BIAS * len(x))
    return Factors(
        jnp.append(jnp.maximum(eigenvalues, 0.0), bias),
        jax.scipy.linalg.block_diag(left, jnp.ones((1, 1))),
        jnp.concatenate([right, BIAS * y.sum(axis=0, keepdims=True)]),
        mean,
        std,
    )


@jax.jit
def standardise(factors: Factors, features: jax.Array) -> jax.Array:
    """Returns features [n, d] as the solutions take them: [n, d + 1]."""
    x = (features - factors.mean) / factors.std
    return jnp.pad(x, ((0, 0), (0, 1)), constant_values=BIAS)


@jax.jit
def _accuracy(
    factors: Factors, x: jax.Array, labels: jax.Array, l2: jax.Array | float
) -> jax.Array:
    scale = (1.0 / (factors.eigenvalues + l2))[None, :]
    with jax.default_matmul_precision("highest"):
        weights = (factors.left * scale) @ factors.right
        scores = x @ weights
    return (jnp.argmax(scores, axis=1) == labels).mean()


def accuracies(
    factors: Factors, features: jax.Array, labels: jax.Array, l2s: Sequence[float]
) -> np.ndarray:
    """Returns the share of features [m, d] whose label scores highest, at each penalty.

    Scores at many penalties are combinations of those of a few solutions, as near as
    float32 tells: that many products with the features are enough.

    Args:
        factors: Of `factorise`.
        features: To be classified.
        labels: Integers [m], of them.
        l2s: The penalties, > 0.
    """
    x = standardise(factors, features)
    scales, shares = _few_solutions(factors, np.asarray(l2s, np.float64))
    if shares.shape[1] < len(l2s):
        hits = _combined_hits(factors, x, labels, scales, shares)
        return np.asarray(hits, np.float64) / len(labels)
    return np.array([_accuracy(factors, x, labels, l2) for l2 in l2s])


def _few_solutions(factors: Factors, l2s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales [r, k] and shares [l2s, k] whose product are those at each penalty."""
    eigenvalues, left, right = (np.asarray(f, np.float64) for f in factors[:3])
    scales = 1.0 / (eigenvalues[:, None] + l2s[None])
    # How much each eigenvector has to say in the scores.
    size = np.sqrt(eigenvalues) * np.linalg.norm(left, axis=0)
    size *= np.linalg.norm(right, axis=1)
    size = np.maximum(size, 1e-9 * size.max())
    lengths = np.linalg.norm(size[:, None] * scales, axis=0)
    u, s, v = np.linalg.svd(size[:, None] * scales / lengths, full_matrices=False)
    kept = s > _NEAR * s[0]
    shares = v[kept].T * s[kept] * lengths[:, None]
    return u[:, kept] / size[:, None], shares


@jax.jit
def _combined_hits(
    factors: Factors,
    x: jax.Array,
    labels: jax.Array,
    scales: jax.Array,
    shares: jax.Array,
) -> jax.Array:
    """Counts [l2s] of the rows whose label alone scores highest."""
    classes = factors.right.shape[1]
    scales, shares = scales.astype(x.dtype), shares.astype(x.dtype)
    rest = -len(x) % _ROWS
    x = jnp.pad(x, ((0, rest), (0, 0)))
    labels = jnp.pad(labels, (0, rest), constant_values=-1)

    def combined(group: tuple[jax.Array, jax.Array]) -> jax.Array:
        scores, wanted = group  # [rows, k, classes]
        own = jnp.arange(classes)[None] == wanted[:, None]
        every = jnp.einsum("lk,bkc->lbc", shares, scores)
        best = jnp.where(own[None], -jnp.inf, every).max(axis=-1)
        mine = jnp.where(own[None], every, -jnp.inf).max(axis=-1)
        return (mine > best).sum(axis=-1)

    def block(rows: tuple[jax.Array, jax.Array]) -> jax.Array:
        features, wanted = rows
        scores = (features @ weights).reshape(_ROWS, -1, classes)
        groups = scores.reshape(-1, _TOGETHER, *scores.shape[1:])
        return jax.lax.map(combined, (groups, wanted.reshape(-1, _TOGETHER))).sum(0)

    with jax.default_matmul_precision("highest"):
        weights = jnp.einsum("dr,rk,rc->dkc", factors.left, scales, factors.right)
        weights = weights.reshape(weights.shape[0], -1)
        blocks = x.reshape(-1, _ROWS, x.shape[1]), labels.reshape(-1, _ROWS)
        return jax.lax.map(block, blocks).sum(axis=0)
