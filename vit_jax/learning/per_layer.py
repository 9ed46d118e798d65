"""Optimizers that look at a whole weight: one layer of a stacked leaf is one weight."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vit_jax import errors, tree

# Leaves that stack one array a layer on their first axis.
STACKED = r"^(lora/)?blocks/"
# Weights of the blocks that are matrices, and how many of their axes, after that of
# the layer, are inputs: kernel [in..., out...].
MATRICES: tree.Rules[int] = (
    (r"^blocks/.*out/kernel$", 2),  # [layer, heads, head width, width]
    (r"^blocks/.*kernel$", 1),
    (r".*", 0),  # no matrix
)
# Of the polynomial that Muon iterates, by its author: it drives singular values into
# 0.7 to 1.2, fast, rather than to 1.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
DTYPE = jnp.bfloat16  # that it is computed in


def adafactor(
    *,
    beta1: float,
    beta2: float,
    accumulator_dtype: Any,
    factor_from: int,
    update_clip: float,
    **unused: Any,
) -> optax.GradientTransformation:
    """Returns the variant of "Scaling Vision Transformers" (arXiv 2106.04560, app. C).

    As big_vision's `scale_by_adafactor`: no rate relative to the parameters' size, and
    the first moment is a plain average of the scaled gradients. There is one difference
    to it with stacked layers: those are scaled one by one, as if they were not stacked.
    """
    del unused

    def decay(step: jax.Array, exponent: float) -> jax.Array:
        return jnp.minimum(beta2, 1.0 - (step + 1.0) ** -exponent)

    scale = optax.scale_by_factored_rms(
        decay_rate=0.8,
        min_dim_size_to_factor=factor_from,
        epsilon=1e-30,
        # Said to be called with any numbers; it is with these.
        decay_rate_fn=decay,  # pyright: ignore[reportArgumentType]
    )
    if update_clip:
        scale = optax.chain(scale, optax.clip_by_block_rms(update_clip))
    average = optax.ema(beta1, debias=False, accumulator_dtype=accumulator_dtype)
    return optax.chain(_by_layer(scale), average)


def _by_layer(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Treats each layer of a stacked leaf as a leaf of its own."""

    def each(function: Callable[..., Any]) -> Callable[..., Any]:
        def mapped(params: Any, *rest: Any) -> Any:
            if not jax.tree.leaves(params):  # no leaf is stacked
                return function(params, *rest)
            return jax.vmap(function)(params, *rest)

        return mapped

    def labels(params: Any) -> Any:
        return tree.map_named(
            lambda name, _: "layers" if re.search(STACKED, name) else "leaf", params
        )

    layers = optax.GradientTransformation(each(tx.init), each(tx.update))
    return optax.partition({"layers": layers, "leaf": tx}, labels)


def trust(decays: Callable[[str], bool]) -> optax.GradientTransformation:
    """Returns LAMB's last factor: the norm of a weight over that of its update.

    "Large Batch Optimization for Deep Learning" (arXiv 1904.00962), as NVIDIA's and
    timm's: 1 for weights that do not decay, and where either norm is 0.

    Args:
        decays: Says of a leaf whether it decays.
    """

    def scale(name: str, update: jax.Array, param: jax.Array) -> jax.Array:
        if not decays(name):
            return update
        start = 1 if re.search(STACKED, name) else 0
        axes = tuple(range(start, update.ndim))

        def norm(x: jax.Array) -> jax.Array:
            return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True))

        weight, step = norm(param), norm(update)
        known = (weight > 0) & (step > 0)
        ratio = jnp.where(known, weight / jnp.where(known, step, 1.0), 1.0)
        return update * ratio

    return optax.stateless(lambda updates, p: tree.map_named(scale, updates, p))


class Momentum(NamedTuple):
    """What Muon remembers.

    Attributes:
        mu: The mean of the gradients, each leaf like its parameter.
    """

    mu: Any


def muon(
    *,
    momentum: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    accumulator_dtype: Any,
    **unused: Any,
) -> optax.GradientTransformation:
    """Returns Muon for the matrices of the blocks, and Adam for all else.

    The momentum of a matrix, Nesterov's, is made orthogonal by a Newton-Schulz
    iteration in bfloat16 (https://kellerjordan.github.io/posts/muon) and scaled by 0.2
    sqrt(longer side), so that rate and decay of Adam serve it too (arXiv 2502.16982).
    The kernels of queries, keys and values are a matrix each, their heads side by side.
    """
    del unused

    def labels(params: Any) -> Any:
        found = tree.map_named(
            lambda name, _: (
                "muon" if tree.first_match(MATRICES, name, "matrices") else "adam"
            ),
            params,
        )
        if "muon" not in jax.tree.leaves(found):
            raise errors.UserError(
                'optimizer.name="muon" is for the kernels of blocks, and no such leaf '
                'is trained; want "adam"'
            )
        return found

    adam = optax.scale_by_adam(
        b1=beta1, b2=beta2, eps=epsilon, mu_dtype=accumulator_dtype
    )
    return optax.partition(
        {"muon": _orthogonal(momentum, accumulator_dtype), "adam": adam}, labels
    )


def _orthogonal(momentum: float, dtype: Any) -> optax.GradientTransformation:
    def init(params: Any) -> Momentum:
        return Momentum(jax.tree.map(lambda p: jnp.zeros(p.shape, dtype), params))

    def mean(old: jax.Array, new: jax.Array) -> jax.Array:
        return momentum * old.astype(new.dtype) + (1.0 - momentum) * new

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Momentum]:
        del params
        mu = jax.tree.map(mean, state.mu, updates)
        ahead = jax.tree.map(mean, mu, updates)
        stored = jax.tree.map(lambda leaf: leaf.astype(dtype), mu)
        return tree.map_named(_scaled, ahead), Momentum(stored)

    return optax.GradientTransformation(init, update)


def _scaled(name: str, leaf: jax.Array) -> jax.Array:
    """A leaf [layer, in..., out...] made orthogonal, each layer on its own."""
    inputs = tree.first_match(MATRICES, name, "matrices")
    rows = math.prod(leaf.shape[1 : 1 + inputs])
    flat = leaf.reshape(leaf.shape[0], rows, -1)
    scale = 0.2 * max(flat.shape[1:]) ** 0.5
    return scale * orthogonal(flat).astype(leaf.dtype).reshape(leaf.shape)


def orthogonal(matrices: jax.Array) -> jax.Array:
    """Returns matrices [layer, m, n] with singular values near 1, as `DTYPE`."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    norm = jnp.sqrt(jnp.sum(jnp.square(x), axis=(1, 2), keepdims=True))
    x = (x / jnp.maximum(norm, 1e-7)).astype(DTYPE)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    return x if wide else x.mT
