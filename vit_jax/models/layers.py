"""Linear maps, LayerNorm, the MLP, and dropout of values and of branches.

Parameters are float32; activations have the dtype of the input. Shapes in einsum
letters: b batch, n tokens, d width, m hidden.
"""

import functools
import math
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import layout
from jax.extend import random

from vit_jax import errors
from vit_jax.models import gelus

Initializer = Callable[..., jax.Array]

xavier_uniform = nnx.initializers.xavier_uniform()
lecun_normal = nnx.initializers.lecun_normal()
zeros = nnx.initializers.zeros

# A quarter of such an axis is a whole number of a TPU's registers, of 128 lanes.
_QUARTERS = 4 * 128


@gelus.recomputed
def _swiglu(gate: jax.Array, x: jax.Array) -> jax.Array:
    return jax.nn.silu(gate) * x


class HasMode(Protocol):
    """A module that `train()` and `eval()` change."""

    deterministic: bool


def is_deterministic(model: HasMode, asked: bool | None) -> bool:
    """Returns whether a call drops nothing: as it asks, else as the model's mode says.

    The mode is the attribute `deterministic`, which NNX's `train()`, `eval()` and
    `set_attributes(deterministic=...)` set.
    """
    return model.deterministic if asked is None else asked


def checked_rngs(rngs: nnx.Rngs | None) -> nnx.Rngs:
    """Returns `rngs`; a `UserError` where there is nothing to draw from."""
    if rngs is None:
        raise errors.UserError(
            "dropout is on and has no random numbers: pass rngs=nnx.Rngs(dropout=key), "
            "or turn it off with model.eval() or deterministic=True."
        )
    return rngs


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes a share `rate` of `x` and scales the rest; without a key, nothing.

    The share is a whole number of 65536ths, and the scale its own.
    """
    if key is None or rate == 0:
        return x
    zeroed = min(round(rate * 2**16), 2**16 - 1)
    keep = _from(zeroed, key, x.shape)
    return jnp.where(keep, x * (2**16 / (2**16 - zeroed)), jnp.zeros_like(x))


def _from(lowest: int, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Whether random numbers in 0..65535 are `lowest` or more.

    A call of Threefry makes four of them where a quarter of the last axis fills the
    lanes of a TPU, else two, of an odd axis one: on TPU the words of dropout's masks
    took 40 % of a step. Compared and kept before they are put together, they add 12 %
    to the cycles of an L/16 block on v3; as words put together 21 to 33 %.
    """
    *lead, last = shape
    count = 4 if last % _QUARTERS == 0 else math.gcd(last, 2)
    words = _words(key, (*lead, last // count))
    numbers = [half for word in words for half in (word >> 16, word & 0xFFFF)]
    parts = [number >= lowest for number in numbers[:count]]
    return jnp.concatenate(jax.lax.optimization_barrier(parts), axis=-1)


def _words(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns two arrays of random words.

    Of Threefry they are the same on any number of devices; `jax.random.bits` computes
    as much and returns one, the two combined.
    """
    if str(jax.random.key_impl(key)) != "threefry2x32":
        one, other = jax.random.split(key)
        return jax.random.bits(one, shape), jax.random.bits(other, shape)
    # Keys that are split or folded from this one are words of rows from 0.
    row = jax.lax.broadcasted_iota(jnp.uint32, shape, 0) + np.uint32(2**31)
    place = jnp.zeros(shape, jnp.uint32)
    for axis in range(1, len(shape)):
        along = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        place = place * np.uint32(shape[axis]) + along
    first, second = jax.random.key_data(key)
    one, other = random.threefry2x32_p.bind(first, second, row, place)
    return one, other


def drop_path(x: jax.Array, rate: jax.Array | None, key: jax.Array | None) -> jax.Array:
    """Zeroes a share `rate` of the images of [b, ...] and scales the rest.

    Without a rate or a key, nothing.
    """
    if rate is None or key is None:
        return x
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    keep = jax.random.bernoulli(key, 1 - rate, shape)
    return x * (keep / (1 - rate)).astype(x.dtype)


@jax.custom_jvp
def row_major(x: jax.Array) -> jax.Array:
    """Returns `x`, whose gradient has its last axis innermost on a GPU.

    The gradient of a position table is a sum over images, for which XLA turns the whole
    residual stream until images are innermost: a tenth of a B/16 step on an H100.
    """
    return x


@row_major.defjvp
def _row_major_derivative(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    [tangent] = tangents
    if not gelus.may_be_cuda():
        return primals[0], tangent
    axes = layout.Layout(tuple(range(tangent.ndim)))
    pinned = functools.partial(layout.with_layout_constraint, layouts=axes)
    tangent = jax.lax.platform_dependent(tangent, cuda=pinned, default=lambda x: x)
    return primals[0], tangent


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _wide_dot(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """[..., i] and [i, o] to [..., o] of a wider type; gradients are of x's.

    So the kernel's gradient is rounded before devices add theirs up, in half the bytes.
    """
    return jnp.einsum("...i,io->...o", x, kernel, preferred_element_type=dtype)


def _wide_dot_forward(
    x: jax.Array, kernel: jax.Array, dtype: jnp.dtype
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _wide_dot(x, kernel, dtype), (x, kernel)


def _wide_dot_backward(
    dtype: jnp.dtype, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    del dtype
    x, kernel = kept
    gradient = gradient.astype(x.dtype)
    dx = jnp.einsum("...o,io->...i", gradient, kernel)
    return dx, jnp.einsum("...i,...o->io", x, gradient)


_wide_dot.defvjp(_wide_dot_forward, _wide_dot_backward)


class Linear(nnx.Module):
    """`x @ kernel + bias` with any number of input and output axes.

    The initialiser sees the 2-D view [inputs, outputs] of the kernel, whose leaf has
    the shape `inputs + outputs`. `bias=False`: no such leaf.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        *,
        kernel_init: Initializer = xavier_uniform,
        bias_init: Initializer = zeros,
        bias: bool = True,
        rngs: nnx.Rngs,
    ):
        flat = math.prod(inputs), math.prod(outputs)
        kernel = kernel_init(rngs.params(), flat, jnp.float32)
        self.kernel = nnx.Param(kernel.reshape(inputs + outputs))
        values = bias_init(rngs.params(), outputs, jnp.float32) if bias else None
        self.bias = nnx.Param(values) if bias else None
        self.inputs = inputs
        self.outputs = outputs

    def __call__(self, x: jax.Array, *, dtype: jnp.dtype | None = None) -> jax.Array:
        """Maps [..., *inputs] to [..., *outputs], of `dtype` or else of x's dtype."""
        y = self.product(x, dtype=dtype)
        return y if self.bias is None else y + self.bias_of(y)

    def product(self, x: jax.Array, *, dtype: jnp.dtype | None = None) -> jax.Array:
        """Returns what a call does, without the bias."""
        dtype = dtype or x.dtype
        lead = x.shape[: x.ndim - len(self.inputs)]
        kernel = self.kernel[...].astype(x.dtype).reshape(math.prod(self.inputs), -1)
        x = x.reshape(*lead, kernel.shape[0])
        if jnp.dtype(dtype) == x.dtype:
            y = jnp.einsum("...i,io->...o", x, kernel)
        else:
            y = _wide_dot(x, kernel, jnp.dtype(dtype))
        # A partial hides from pyright what a custom_vjp returns.
        return y.reshape(*lead, *self.outputs)  # pyright: ignore[reportAttributeAccessIssue]

    def bias_of(self, product: jax.Array) -> jax.Array:
        """Returns the bias as it is added to a product; zeros where there is none."""
        shape = (1,) * (product.ndim - len(self.outputs)) + self.outputs
        if self.bias is None:
            return jnp.zeros(shape, product.dtype)
        return self.bias[...].astype(product.dtype).reshape(shape)

    def gelu(self, x: jax.Array, kind: str) -> jax.Array:
        """Returns the GELU, a key of `gelus.GELU`, of what a call returns."""
        if not gelus.may_be_cuda():
            return gelus.GELU[kind](self(x))
        y = self.product(x)
        return gelus.GELU_OF_SUM[kind](y, self.bias_of(y))


def new_head(
    inputs: int, classes: int, *, bias: float, rngs: nnx.Rngs
) -> Linear | None:
    """Returns a head of zeros with a constant bias; without classes, None."""
    if not classes:
        return None
    return Linear(
        (inputs,),
        (classes,),
        kernel_init=zeros,
        bias_init=nnx.initializers.constant(bias),
        rngs=rngs,
    )


def classify(head: Linear | None, features: jax.Array, dtype: str) -> jax.Array:
    """Maps features to logits, float32; without a head, returns the features.

    Args:
        head: From `new_head`.
        features: [..., inputs].
        dtype: Of the products.
    """
    if head is None:
        return features
    return head(features.astype(dtype), dtype=jnp.dtype(jnp.float32))


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, statistics in float32."""

    def __init__(self, width: int, *, epsilon: float):
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., d] to the same shape and dtype."""
        lead = (1,) * (x.ndim - 1)
        scale, bias = self.scale[...], self.bias[...]
        return _normalize(
            x, scale.reshape(*lead, -1), bias.reshape(*lead, -1), self.epsilon
        )


@functools.partial(gelus.recomputed, static_argnums=3)
def _normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    y = x.astype(jnp.float32)
    mean = jnp.mean(y, axis=-1, keepdims=True)
    square = jnp.mean(jnp.square(y), axis=-1, keepdims=True)
    variance = jnp.maximum(square - jnp.square(mean), 0)
    y = (y - mean) * (jax.lax.rsqrt(variance + epsilon) * scale) + bias
    return y.astype(x.dtype)


class Mlp(nnx.Module):
    """Two dense layers with GELU, or a gate through SiLU (SwiGLU), between them."""

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        gelu: str,
        gated: bool = False,
        dropout: float,
        rngs: nnx.Rngs,
    ):
        bias_init = nnx.initializers.normal(1e-6)
        self.up = Linear((width,), (hidden,), bias_init=bias_init, rngs=rngs)
        self.down = Linear((hidden,), (width,), bias_init=bias_init, rngs=rngs)
        gate = functools.partial(Linear, (width,), (hidden,), bias_init=bias_init)
        self.gate = gate(rngs=rngs) if gated else None
        self.gelu = gelu
        self.dropout = dropout

    def __call__(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        """Maps [b, n, d] to the same; `key` is for dropout of the hidden values."""
        if self.gate is None:
            hidden = self.up.gelu(x, self.gelu)
        else:
            hidden = _swiglu(self.gate(x), self.up(x))
        return self.down(dropout(hidden, self.dropout, key))
