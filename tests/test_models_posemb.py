"""Position embeddings: every kind and place against its definition."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vit_jax import errors, models, tree
from vit_jax.models import attention, posemb

GRID = (3, 4)


def small(**options):
    defaults = {
        "num_classes": 5,
        "image_size": (24, 32),
        "width": 16,
        "depth": 2,
        "heads": 2,
        "mlp_width": 32,
        "unroll": 1,
    }
    return models.architecture("mu/8", **(defaults | options))


def noisy(arch, seed=0):
    """Parameters by name, none of them zero or one."""
    _, params = models.abstract(arch)
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32)
        for name, leaf in tree.named_leaves(params)
    }


def forward(arch, leaves):
    graphdef, _ = models.abstract(arch)
    pixels = np.random.default_rng(9).uniform(-1, 1, (2, 24, 32, 3))
    images = jnp.asarray(pixels, jnp.float32)

    @jax.jit
    def apply(params, images):
        return models.merge(graphdef, params)(images)

    return apply(tree.from_named(leaves), images)


def without(leaves, *names):
    return {n: leaf for n, leaf in leaves.items() if not n.startswith(names)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"posemb": "none"}, {}),
        ({"posemb": "sincos_1d"}, {}),
        ({"posemb": "sincos_2d", "posemb_at": "every"}, {}),
        ({}, {"posemb": (1, 13, 16)}),
        ({"posemb_at": "shared"}, {"posemb": (1, 13, 16)}),
        ({"posemb_at": "every"}, {"blocks/posemb": (2, 1, 13, 16)}),
        ({"prefix_positions": 0}, {"posemb": (1, 12, 16)}),
        ({"registers": 3, "prefix_positions": 2}, {"posemb": (1, 14, 16)}),
        (
            {"posemb": "learned_2d"},
            {"posemb/row": (3, 8), "posemb/column": (4, 8), "posemb/prefix": (1, 16)},
        ),
        (
            {"posemb": "learned_2d", "posemb_at": "every", "pool": "mean"},
            {"blocks/posemb/row": (2, 3, 8), "blocks/posemb/column": (2, 4, 8)},
        ),
        ({"posemb": "relative"}, {"blocks/attn/relative": (2, 23, 2, 8)}),
        ({"posemb": "relative", "posemb_at": "shared"}, {"relative": (23, 2, 8)}),
    ],
    ids=str,
)
def test_leaf_names_are_these_for_ever(options, expected):
    _, params = models.abstract(small(**options))
    shapes = {
        name: leaf.shape
        for name, leaf in tree.named_leaves(params)
        if "posemb" in name or "relative" in name
    }
    assert shapes == expected


def test_tables_start_small():
    table = posemb.parameter((100, 100), nnx.Rngs(0))
    assert table[...].std() == pytest.approx(0.02, rel=0.05)


def formula_1d(width):
    table = np.zeros((12, width))
    for position in range(12):
        for i in range(width // 2):
            angle = position / 10000 ** (2 * i / width)
            table[position, 2 * i] = math.sin(angle)
            table[position, 2 * i + 1] = math.cos(angle)
    return table


def formula_2d(width):
    quarter = width // 4
    table = np.zeros((12, width))
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            for k in range(quarter):
                omega = 10000 ** (-k / (quarter - 1))
                table[row * GRID[1] + column, k::quarter] = [
                    math.sin(column * omega),
                    math.cos(column * omega),
                    math.sin(row * omega),
                    math.cos(row * omega),
                ]
    return table


@pytest.mark.parametrize(
    ("kind", "formula", "at"),
    [
        ("sincos_1d", formula_1d, "stem"),
        ("sincos_2d", formula_2d, "every"),
        ("sincos_2d", formula_2d, "shared"),
    ],
)
def test_fixed_embeddings_are_their_formula(kind, formula, at):
    arch = small(posemb=kind, posemb_at=at, registers=1)
    leaves = noisy(arch)
    table = np.zeros((1, 14, 16), np.float32)
    table[0, 2:] = formula(16)
    learned = small(
        posemb_at="stem" if at == "stem" else "shared", registers=1, prefix_positions=2
    )
    expected = forward(learned, leaves | {"posemb": jnp.asarray(table)})
    np.testing.assert_allclose(forward(arch, leaves), expected, atol=2e-5)


@pytest.mark.parametrize("at", ["stem", "every"])
def test_a_2d_table_is_the_sum_of_its_halves_in_a_1d_table(at):
    arch = small(posemb="learned_2d", posemb_at=at)
    leaves = noisy(arch)
    where = "blocks/posemb" if at == "every" else "posemb"
    row, column, prefix = (
        np.asarray(leaves[f"{where}/{name}"]).reshape(-1, *shape)
        for name, shape in {"row": (3, 8), "column": (4, 8), "prefix": (1, 16)}.items()
    )
    table = np.zeros((len(row), 1, 13, 16), np.float32)
    table[:, 0, :1] = prefix
    for i in range(GRID[0]):
        for j in range(GRID[1]):
            table[:, 0, 1 + i * GRID[1] + j, :8] += column[:, j]
            table[:, 0, 1 + i * GRID[1] + j, 8:] += row[:, i]
    table = table if at == "every" else table[0]
    expected = forward(
        small(posemb_at=at),
        without(leaves, "posemb", "blocks/posemb") | {where: jnp.asarray(table)},
    )
    np.testing.assert_allclose(forward(arch, leaves), expected, atol=1e-6)


def test_no_embedding_is_a_table_of_zeros_wherever_it_is():
    leaves = noisy(small(posemb="none"))
    expected = forward(small(posemb="none"), leaves)
    for at, name, shape in [
        ("stem", "posemb", (1, 13, 16)),
        ("shared", "posemb", (1, 13, 16)),
        ("every", "blocks/posemb", (2, 1, 13, 16)),
    ]:
        found = forward(small(posemb_at=at), leaves | {name: jnp.zeros(shape)})
        np.testing.assert_allclose(found, expected, atol=1e-6)
    zero = {"relative": jnp.zeros((23, 2, 8))}
    found = forward(small(posemb="relative", posemb_at="shared"), leaves | zero)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "shared", "every"),
    [
        ("learned", "posemb", "blocks/posemb"),
        ("relative", "relative", "blocks/attn/relative"),
    ],
)
def test_one_shared_table_is_equal_tables_in_every_block(kind, shared, every):
    arch = small(posemb=kind, posemb_at="shared", pool="mean")
    leaves = noisy(arch)
    expected = forward(arch, leaves)
    leaves[every] = jnp.stack([leaves.pop(shared)] * 2)
    arch = arch.replace(posemb_at="every")
    found = forward(arch, leaves)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    leaves[every] = leaves[every].at[0].multiply(-20)
    assert abs(forward(arch, leaves) - expected).max() > 1e-3


def test_a_shared_table_is_added_at_the_input_of_every_block():
    arch = small(posemb_at="shared", num_classes=0)
    model = models.merge(models.abstract(arch)[0], tree.from_named(noisy(arch)))
    images = jax.random.uniform(jax.random.key(9), (2, 24, 32, 3))
    x = model.embed(images)
    graphdef, stacked = nnx.split(model.blocks)
    stacked = nnx.to_pure_dict(stacked)
    for layer in range(arch.depth):
        params = {n: leaf[layer] for n, leaf in tree.named_leaves(stacked)}
        block = nnx.merge(graphdef, tree.from_named(params))
        x = block(x + model.posemb[...])
    np.testing.assert_allclose(model.norm(x)[:, 0], model(images), atol=1e-5)


def test_tokens_without_an_entry_get_zeros():
    arch = small(registers=2, prefix_positions=1)
    leaves = noisy(arch)
    table = leaves["posemb"]
    longer = jnp.concatenate([table[:, :1], jnp.zeros((1, 2, 16)), table[:, 1:]], 1)
    expected = forward(
        small(registers=2, prefix_positions=3), leaves | {"posemb": longer}
    )
    np.testing.assert_allclose(forward(arch, leaves), expected, atol=1e-6)


@pytest.mark.parametrize("prefix", [0, 2])
def test_relative_logits_are_query_times_embedding_of_the_offset(prefix):
    n, patches = prefix + 6, 6
    queries = jax.random.normal(jax.random.key(0), (2, n, 3, 4))
    table = jax.random.normal(jax.random.key(1), (2 * patches - 1, 3, 4))
    logits = np.asarray(attention.offset_logits(queries, table, dtype=None))
    assert logits.shape == (2, 3, n, n)
    assert not logits[:, :, :prefix].any() and not logits[:, :, :, :prefix].any()
    for q in range(patches):
        for k in range(patches):
            expected = (queries[:, prefix + q] * table[None, q - k + 5]).sum(-1)
            found = logits[:, :, prefix + q, prefix + k]
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_relative_logits_are_translation_invariant():
    queries = jnp.broadcast_to(
        jax.random.normal(jax.random.key(0), (2, 1, 3, 4)), (2, 6, 3, 4)
    )
    table = jax.random.normal(jax.random.key(1), (11, 3, 4))
    logits = attention.offset_logits(queries, table, dtype=None)
    np.testing.assert_allclose(logits[..., 1:, 1:], logits[..., :-1, :-1], atol=1e-6)


def test_narrow_fixed_tables_have_no_division_by_zero():
    assert np.isfinite(posemb.sincos_2d(GRID, 4)).all()


@pytest.mark.parametrize("kind", ["learned", "learned_2d"])
def test_tables_start_with_the_deviation_asked_for(kind):
    """0.02 times the draws by default, bit for bit; 0 is big_vision's 1/sqrt(width)."""

    def tables(**options):
        made = posemb.create(small(posemb=kind, **options), nnx.Rngs(0))
        return [x[...] for x in jax.tree.leaves(made, is_leaf=is_parameter)]

    def is_parameter(node):
        return isinstance(node, nnx.Param)

    default, ones, wide = tables(), tables(posemb_std=1.0), tables(posemb_std=0.0)
    assert len(default) == {"learned": 1, "learned_2d": 3}[kind]
    for a, draws, c in zip(default, ones, wide, strict=True):
        np.testing.assert_array_equal(a, 0.02 * draws)
        np.testing.assert_array_equal(c, 0.25 * draws)
    if kind == "learned":
        draws = jax.random.normal(nnx.Rngs(0).params(), default[0].shape)
        np.testing.assert_array_equal(default[0], 0.02 * draws)
    with pytest.raises(errors.UserError, match="posemb_std=-1.0 must be at least 0"):
        small(posemb_std=-1.0)
