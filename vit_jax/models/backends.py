"""Softmax attention over given queries, keys and values, by name.

Einsum letters: b batch, n tokens (q and k), h heads, e head width.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.models import gelus, layers

# cuDNN's kernel is for this many tokens and more. With 64 on an H200 the gradient of
# one head's queries was not finite in step 859 or 1,390, and again from the same state,
# where queries, keys, values and the gradient of the heads were small and finite:
# benchmarks/gpu.md. It gained 3 % of such a step.
CUDNN_TOKENS = 128


class Terms(NamedTuple):
    """What a back end heeds beside queries, keys and values.

    Attributes:
        bias: [b, h, n, n], added to the logits; None: nothing.
        mask: bool [n, n], what is seen; None: everything.
        dtype: Of the logits; None: of the queries.
        rate: Of dropout of the probabilities.
        key: For dropout; None: no dropout.
        tokens: How many of the tokens there are, the others are filled up; None: all.
            "dot_product" alone heeds it.
    """

    bias: jax.Array | None
    mask: np.ndarray | None
    dtype: jnp.dtype | None
    rate: float
    key: jax.Array | None
    tokens: int | None = None


# From scaled queries, keys and values [b, n, h, e] to heads [b, n, h, e].
BackEnd = Callable[[jax.Array, jax.Array, jax.Array, Terms], jax.Array]


class _Operands(NamedTuple):
    """What `_attend` is given as arrays; queries, keys and values [b, h, n, e]."""

    queries: jax.Array
    keys: jax.Array
    values: jax.Array
    bias: jax.Array | None
    mask: jax.Array | None
    key: jax.Array | None


class _Kept(NamedTuple):
    """What `_attend`'s gradient starts from.

    Attributes:
        given: The operands.
        logits: [b, h, n, n].
        highest: [b, h, n, 1], of the logits.
        total: float32 [b, h, n, 1], of their exponentials below the highest.
        heads: The result.
    """

    given: _Operands
    logits: jax.Array
    highest: jax.Array
    total: jax.Array
    heads: jax.Array


def _exponentials(logits: jax.Array, highest: jax.Array) -> jax.Array:
    return jnp.exp((logits - highest).astype(jnp.float32))


def _logits(
    q: jax.Array,
    k: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
    dtype: jnp.dtype | None,
) -> jax.Array:
    # In bfloat16 the logits are bfloat16 and the softmax float32: 14 % less time
    # than float32 logits for a B/16 block on TPU v5e.
    logits = jnp.einsum("bhqe,bhke->bhqk", q, k, preferred_element_type=dtype)
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        lowest = jnp.finfo(logits.dtype).min
        logits = jnp.where(mask[None, None], logits, lowest)
    return logits


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _attend(given: _Operands, dtype: jnp.dtype | None, rate: float) -> jax.Array:
    """Returns the heads [b, h, n, e].

    The gradient takes the sum over keys of weights times their gradients from the
    heads, where it is a sum over e, as FlashAttention does (arXiv 2205.14135, appendix
    B.2). The derivative of a softmax sums [b, h, n, n] instead: a block then takes 2 to
    3 % more cycles on TPU and a sixth more memory. Reverse mode only: for `jax.jvp`
    there is "dot_product".

    Args:
        given: Queries are scaled.
        dtype: Of the logits; None: of the queries.
        rate: Of dropout of the probabilities.
    """
    return _attend_forward(given, dtype, rate)[0]


def _attend_forward(
    given: _Operands, dtype: jnp.dtype | None, rate: float
) -> tuple[jax.Array, _Kept]:
    q, k, v = given.queries, given.keys, given.values
    logits = _logits(q, k, given.bias, given.mask, dtype)
    highest = jnp.max(logits, axis=-1, keepdims=True)
    weights = _exponentials(logits, highest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = layers.dropout(weights.astype(v.dtype), rate, given.key)
    heads = jnp.einsum(
        "bhqk,bhke->bhqe", weights, v, preferred_element_type=jnp.float32
    )
    # Or the compiler keeps a float32 copy for the gradient: of a block on v5e 4 %.
    heads = jax.lax.optimization_barrier((heads / total).astype(v.dtype))
    return heads, _Kept(given, logits, highest, total, heads)


def _attend_backward(
    dtype: jnp.dtype | None, rate: float, kept: _Kept, gradient: jax.Array
) -> tuple[_Operands]:
    del dtype
    q, k, v, bias, _, key = kept.given
    weights = _exponentials(kept.logits, kept.highest) / kept.total
    mean = gradient.astype(jnp.float32) * kept.heads.astype(jnp.float32)
    mean = jnp.sum(mean, axis=-1, keepdims=True)
    change = jnp.einsum(
        "bhqe,bhke->bhqk", gradient, v, preferred_element_type=jnp.float32
    )
    change = weights * (layers.dropout(change, rate, key) - mean)
    weights = layers.dropout(weights.astype(v.dtype), rate, key)
    d_bias = None if bias is None else change.astype(bias.dtype)
    change = change.astype(q.dtype)
    gradients = _Operands(
        queries=jnp.einsum("bhqk,bhke->bhqe", change, k),
        keys=jnp.einsum("bhqk,bhqe->bhke", change, q),
        values=jnp.einsum("bhqk,bhqe->bhke", weights, gradient),
        bias=d_bias,
        mask=None,
        key=None,
    )
    return (gradients,)


_attend.defvjp(_attend_forward, _attend_backward)


def probabilities(queries: jax.Array, keys: jax.Array, terms: Terms) -> jax.Array:
    """Returns what each query gives each key, float32 [b, h, n, n]; none are dropped.

    Any back end weighs values by these, and only who asks for them computes them.
    """
    q, k = (y.transpose(0, 2, 1, 3) for y in (queries, keys))
    mask = None if terms.mask is None else jnp.asarray(terms.mask)
    logits = _logits(q, k, terms.bias, mask, terms.dtype)
    return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)


def _einsum(
    queries: jax.Array, keys: jax.Array, values: jax.Array, terms: Terms
) -> jax.Array:
    # Heads first: XLA's CPU matrix products take half the time of "bqhe,bkhe" ones
    # (10 % of an S/16 step); on TPU it picks this layout by itself.
    q, k, v = (y.transpose(0, 2, 1, 3) for y in (queries, keys, values))
    mask = None if terms.mask is None else jnp.asarray(terms.mask)
    given = _Operands(q, k, v, terms.bias, mask, terms.key)
    heads = _attend(given, terms.dtype, terms.rate)
    # A partial hides from pyright what a custom_vjp returns.
    return heads.transpose(0, 2, 1, 3)  # pyright: ignore[reportAttributeAccessIssue]


def _cudnn(
    queries: jax.Array, keys: jax.Array, values: jax.Array, *, tokens: int
) -> jax.Array:
    """Attends to the first `tokens` keys with cuDNN's kernel.

    It differentiates even numbers of tokens alone: an odd one gets one more of zeros,
    which nobody sees and which is dropped. Lengths are told where all are seen too:
    that is the kernel whose gradients were compared on a GPU.
    """
    asked = queries.shape[1]
    q, k, v = (
        jnp.pad(y, ((0, 0), (0, y.shape[1] % 2), (0, 0), (0, 0)))
        for y in (queries, keys, values)
    )
    seen, asking = (jnp.full(q.shape[0], count, jnp.int32) for count in (tokens, asked))
    heads = jax.nn.dot_product_attention(
        *(q, k, v),
        scale=1.0,
        query_seq_lengths=asking,
        key_value_seq_lengths=seen,
        implementation="cudnn",
    )
    return heads[:, :asked]


def _dot_product(
    queries: jax.Array, keys: jax.Array, values: jax.Array, terms: Terms
) -> jax.Array:
    """JAX's own, with float32 logits; in half precision on a GPU cuDNN's kernel."""
    assert terms.key is None or terms.rate == 0, "dot_product has no dropout"
    tokens = keys.shape[1] if terms.tokens is None else terms.tokens
    mask = None if terms.mask is None else jnp.asarray(terms.mask)[None, None]
    if tokens < keys.shape[1]:
        mask = (jnp.arange(keys.shape[1]) < tokens)[None, None, None]
    attend = functools.partial(
        jax.nn.dot_product_attention, bias=terms.bias, mask=mask, scale=1.0
    )
    special = terms.bias is not None or terms.mask is not None
    special = special or min(queries.shape[1], keys.shape[1]) < CUDNN_TOKENS
    if special or queries.dtype == jnp.float32 or not gelus.may_be_cuda():
        return attend(queries, keys, values)
    return jax.lax.platform_dependent(
        *(queries, keys, values),
        cuda=functools.partial(_cudnn, tokens=tokens),
        # Keeps what the kernel keeps, or the branches are planned with the sum of both.
        default=jax.checkpoint(attend, prevent_cse=False),
    )


ATTENTION: dict[str, BackEnd] = {"einsum": _einsum, "dot_product": _dot_product}
