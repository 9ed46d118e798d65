"""Rotary positions: turns of queries and keys against their definition."""

import cmath
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_models_posemb import forward, noisy, small

from vit_jax import errors, models, tree
from vit_jax.models import rotary

GRID = (3, 4)  # of `small`
KINDS = tuple(rotary.KINDS)
PREFIX = 2


def rotation(kind, grid=GRID, trained=0, prefix=PREFIX):
    return rotary.Rotation(kind, 50.0, trained, grid, prefix)


def drawn(heads=2, width=8, tokens=PREFIX + 12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, 1, tokens, heads, width)).astype(np.float32)


def frequencies(kind, heads=2, width=8):
    found = rotary.frequencies(rotation(kind), (heads, width), nnx.Rngs(0))
    return None if found is None else found[...]


def place(kind, index, count, trained):
    if kind == "dinov3":  # turns of the centres from -1 to 1
        return 2 * math.pi * (2 * (index + 0.5) / count - 1)
    return index * trained / count if trained else index


def products(kind, queries, keys, grid, trained, learned):
    """Logits of one head as sums of products of complex numbers, one by one."""
    width = queries.shape[-1]
    half, quarter = width // 2, width // 4

    def numbers(x, token):
        row, column = divmod(token, grid[1])
        places = [place(kind, row, grid[0], trained)]
        places.append(place(kind, column, grid[1], trained))
        if kind in ("axial", "mixed"):
            places.reverse()
        found = []
        for i in range(half):
            pair = (x[2 * i], x[2 * i + 1])
            if kind == "dinov3":
                pair = (x[i], x[half + i])
            angle = places[i // quarter] * 50.0 ** (-(i % quarter) / quarter)
            if learned is not None:
                angle = places[0] * learned[0][i] + places[1] * learned[1][i]
            found.append(complex(*pair) * cmath.exp(1j * angle))
        return np.array(found)

    turned = [[numbers(x[t], t) for t in range(len(x))] for x in (queries, keys)]
    return np.real(np.array(turned[0]) @ np.conj(np.array(turned[1])).T)


@pytest.mark.parametrize(
    ("kind", "trained"), [*((kind, 0) for kind in KINDS), ("eva02", 5)]
)
def test_logits_are_those_of_turned_pairs(kind, trained):
    queries, keys = drawn()
    learned = frequencies(kind)
    q, k = rotary.turned(rotation(kind, trained=trained), queries, keys, learned)
    for head in range(2):
        own = None if learned is None else np.asarray(learned)[:, head]
        wanted = products(
            *(kind, queries[0, PREFIX:, head], keys[0, PREFIX:, head]),
            *(GRID, trained, own),
        )
        found = q[0, PREFIX:, head] @ k[0, PREFIX:, head].T
        np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_before_the_patches_keep_their_products(kind):
    queries, keys = drawn()
    q, k = rotary.turned(rotation(kind), queries, keys, frequencies(kind))
    first = np.einsum("bqhe,bkhe->bhqk", queries, keys)[:, :, :PREFIX, :PREFIX]
    found = np.einsum("bqhe,bkhe->bhqk", q, k)[:, :, :PREFIX, :PREFIX]
    np.testing.assert_allclose(found, first, atol=1e-6)
    assert (q.shape, q.dtype) == (queries.shape, queries.dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_depends_on_rows_and_columns_apart_alone(kind):
    same = np.broadcast_to(drawn(tokens=1), (2, 1, 12, 2, 8))
    learned = frequencies(kind)
    q, k = rotary.turned(rotation(kind, prefix=0), *same, learned)
    logits = np.einsum("qhe,khe->hqk", q[0], k[0]).reshape(2, *GRID, *GRID)
    moved = logits[:, 1:, 1:, 1:, 1:], logits[:, :-1, :-1, :-1, :-1]
    np.testing.assert_allclose(*moved, atol=1e-5)
    assert np.ptp(logits) > 0.5


def test_centres_lie_between_the_edges_of_any_grid():
    for grid in ((1, 1), (2, 5), (7, 3)):
        rows, columns = rotary.places(rotation("dinov3", grid)) / (2 * np.pi)
        assert rows[0] == pytest.approx(-1 + 1 / grid[0]) == -rows[-1]
        assert columns[0] == pytest.approx(-1 + 1 / grid[1])
    assert np.array_equal(
        rotary.places(rotation("eva02", (4, 2), trained=8))[0],
        np.repeat([0, 2, 4, 6], 2),
    )


def test_learned_frequencies_start_at_right_angles():
    first, second = frequencies("mixed", heads=3, width=16)
    size = np.hypot(first, second)
    bands = 50.0 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(size, np.tile(bands, (3, 2)), rtol=1e-5)
    dot = first[:, :4] * first[:, 4:] + second[:, :4] * second[:, 4:]
    np.testing.assert_allclose(dot, 0, atol=1e-6)
    assert np.ptp(first[:, 0]) > 0.01  # another direction in each head


ROTARY = {"posemb": "none", "registers": 2}


def test_leaf_names_are_these_for_ever():
    def found(**options):
        _, params = models.abstract(small(**ROTARY, **options))
        return {name: leaf.shape for name, leaf in tree.named_leaves(params)}

    plain = found()
    for kind in ("dinov3", "eva02", "axial"):
        assert found(rope=kind) == plain
    mixed = found(rope="mixed")
    assert mixed == plain | {"blocks/attn/frequencies": (2, 2, 2, 4)}
    free = found(key_bias=False)
    assert plain.keys() - free.keys() == {"blocks/attn/key/bias"}
    assert found(qkv_bias=False) == found(qkv_bias=False, key_bias=False)


@pytest.mark.parametrize("kind", ["dinov3", "mixed"])
def test_a_models_back_end_loop_and_remat_do_not_matter(kind):
    arch = small(**ROTARY, rope=kind, num_classes=3)
    leaves = noisy(arch)
    expected = forward(arch, leaves)
    assert not np.allclose(
        forward(
            small(**ROTARY, num_classes=3),
            {name: leaf for name, leaf in leaves.items() if "frequencies" not in name},
        ),
        expected,
        atol=1e-3,
    )
    for other in (
        {"attention": "dot_product"},
        {"unroll": 0},
        {"remat": "full"},
    ):
        np.testing.assert_allclose(
            forward(arch.replace(**other), leaves), expected, atol=1e-5
        )


def test_learned_frequencies_have_gradients_and_bfloat16_is_near():
    arch = small(**ROTARY, rope="mixed")
    graphdef, params = models.abstract(arch)
    params = tree.from_named(noisy(arch))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 24, 32, 3)))

    def loss(params):
        return models.merge(graphdef, params)(images).sum()

    gradient = jax.grad(loss)(params)["blocks"]["attn"]["frequencies"]
    assert float(jnp.abs(gradient).min()) > 0
    q, k = drawn()
    half = rotary.turned(rotation("dinov3"), *(jnp.bfloat16(x) for x in (q, k)))
    whole = rotary.turned(rotation("dinov3"), q, k)
    for low, high in zip(half, whole):
        assert low.dtype == jnp.bfloat16
        np.testing.assert_allclose(low.astype(np.float32), high, rtol=0.02, atol=0.05)


def test_turns_cost_no_matrix_product():
    plain, turned = (
        models.forward_macs(small(**ROTARY, rope=kind)) for kind in ("none", "dinov3")
    )
    assert plain == turned


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rope": "xpos"}, "rope='xpos'"),
        ({"rope": "dinov3", "width": 12, "heads": 2}, "that 4 divides, not 12 / 2 = 6"),
        ({"rope": "dinov3", "rope_base": 1.0}, "must be above 1"),
        ({"rope_base": 10.0}, "changes nothing with rope='none'"),
        ({"rope": "dinov3", "rope_grid": 16}, "changes nothing with rope='dinov3'"),
        ({"rope": "axial", "block": "axial", "pool": "mean"}, "block='axial'"),
        ({"rope_grid": -1}, "must be at least 0"),
    ],
)
def test_what_does_not_fit_is_one_error(options, says):
    with pytest.raises(errors.UserError) as caught:
        small(**options)
    assert says in str(caught.value)
