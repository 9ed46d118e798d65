"""Attention's back ends against the softmax they stand for, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import backends, gelus, layers

RATE = 0.1


def plain(queries, keys, values, terms):
    """Softmax attention as it is written down; JAX differentiates it."""
    q, k, v = (y.transpose(0, 2, 1, 3) for y in (queries, keys, values))
    logits = jnp.einsum("bhqe,bhke->bhqk", q, k, preferred_element_type=terms.dtype)
    if terms.bias is not None:
        logits = logits + terms.bias
    if terms.mask is not None:
        logits = jnp.where(terms.mask, logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(v.dtype)
    weights = layers.dropout(weights, terms.rate, terms.key)
    return jnp.einsum("bhqk,bhke->bhqe", weights, v).transpose(0, 2, 1, 3)


def operands(tokens, *, bias=False, seed=0):
    """Queries, keys, values, a bias or None, and a gradient of the heads."""
    random = np.random.default_rng(seed)
    shape = (2, tokens, 3, 16)
    q, k, v, gradient = (jnp.asarray(random.normal(size=shape), "f4") for _ in range(4))
    table = jnp.asarray(random.normal(size=(2, 3, tokens, tokens)), "f4")
    return 0.5 * q, k, v, table if bias else None, gradient


def heads_and_gradients(backend, given, compute, **terms):
    """Of queries, keys, values and bias, in type `compute`; gradients are float32."""
    *arrays, gradient = given
    none = {"bias": None, "mask": None, "dtype": None, "rate": 0.0, "key": None}

    def heads(arrays):
        q, k, v, bias = jax.tree.map(lambda x: x.astype(compute), arrays)
        return backend(q, k, v, backends.Terms(**(none | {"bias": bias} | terms)))

    y, back = jax.vjp(heads, arrays)
    return jax.tree.leaves((y, back(gradient.astype(compute))))


def distance(found, expected):
    """Relative, in the Euclidean norm."""
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("bias", "terms"),
    [
        (False, {}),
        (True, {}),
        (False, {"mask": np.tril(np.ones((37, 37), bool))}),
        (False, {"rate": RATE, "key": jax.random.key(3)}),
        (True, {"rate": RATE, "key": jax.random.key(3)}),
    ],
    ids=["plain", "bias", "mask", "dropout", "bias and dropout"],
)
def test_einsum_is_softmax_attention_and_so_are_its_gradients(bias, terms):
    given = operands(37, bias=bias)
    einsum = backends.ATTENTION["einsum"]
    found = heads_and_gradients(einsum, given, jnp.float32, **terms)
    expected = heads_and_gradients(plain, given, jnp.float32, **terms)
    assert len(found) == (5 if bias else 4)
    for ours, theirs in zip(found, expected):
        assert distance(ours, theirs) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [None, jnp.dtype("float32")], ids=["bf16", "f32"])
def test_in_bfloat16_gradients_are_as_good_as_the_softmax_s_over_1025_tokens(dtype):
    given = operands(1025)
    exact = heads_and_gradients(plain, given, jnp.float32)
    theirs = heads_and_gradients(plain, given, jnp.bfloat16, dtype=dtype)
    einsum = backends.ATTENTION["einsum"]
    ours = heads_and_gradients(einsum, given, jnp.bfloat16, dtype=dtype)
    for found, other, expected in zip(ours, theirs, exact):
        assert distance(found, expected) < 1.15 * distance(other, expected) < 0.03


def test_logits_far_apart_neither_overflow_nor_lose_the_highest():
    q, k, v, _, gradient = operands(5)
    given = (1e4 * q, k, v, None, gradient)
    einsum = backends.ATTENTION["einsum"]
    found = heads_and_gradients(einsum, given, jnp.float32)
    best = jnp.einsum("bqhe,bkhe->bhqk", q, k).argmax(-1)
    expected = jnp.take_along_axis(v.transpose(0, 2, 1, 3), best[..., None], axis=2)
    np.testing.assert_allclose(found[0], expected.transpose(0, 2, 1, 3), rtol=1e-6)
    assert all(np.isfinite(x).all() for x in found)


def test_dot_product_has_forward_derivatives_that_agree_with_einsum_s_backward_ones():
    q, k, v, _, gradient = operands(9)
    terms = backends.Terms(bias=None, mask=None, dtype=None, rate=0.0, key=None)
    tangents = tuple(0.1 * jnp.flip(x) for x in (q, k, v))

    def heads(name):
        return lambda *arrays: backends.ATTENTION[name](*arrays, terms)

    _, forward = jax.jvp(heads("dot_product"), (q, k, v), tangents)
    _, back = jax.vjp(heads("einsum"), q, k, v)
    backward = sum(jnp.vdot(g, t) for g, t in zip(back(gradient), tangents))
    np.testing.assert_allclose(jnp.vdot(forward, gradient), backward, rtol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "compute", "terms", "asked"),
    [
        (127, jnp.bfloat16, {}, []),
        (128, jnp.bfloat16, {}, [128]),
        (129, jnp.bfloat16, {}, [129]),
        (129, jnp.bfloat16, {"tokens": 128}, [128]),
        (128, jnp.float32, {}, []),
        (128, jnp.bfloat16, {"mask": np.tril(np.ones((128, 128), bool))}, []),
    ],
)
def test_cudnn_is_asked_for_many_tokens_in_half_precision_alone(
    monkeypatch, tokens, compute, terms, asked
):
    found = []

    def cudnn(queries, keys, values, *, tokens):
        found.append(tokens)
        return queries

    monkeypatch.setattr(backends, "_cudnn", cudnn)
    monkeypatch.setattr(gelus, "may_be_cuda", lambda: True)
    q, k, v = (x.astype(compute) for x in operands(tokens)[:3])
    none = {"bias": None, "mask": None, "dtype": None, "rate": 0.0, "key": None}
    given = backends.Terms(**(none | terms))
    heads = jax.jit(lambda *arrays: backends.ATTENTION["dot_product"](*arrays, given))
    heads.lower(q, k, v)
    assert found == asked
