"""Attention's back ends and masks, and the options of the encoder's blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vit_jax import errors, models, tree
from vit_jax.models import attention, backends, blocks, layers

GRID = (3, 4)


def small(**options):
    defaults = {
        "num_classes": 5,
        "image_size": (24, 32),
        "width": 16,
        "depth": 1,
        "heads": 2,
        "mlp_width": 32,
        "pool": "mean",
    }
    return models.architecture("mu/8", **(defaults | options))


def block(**options):
    """A block with no leaf zero or one, whose values NumPy draws."""
    arch = small(**options)
    graphdef, state = nnx.split(
        nnx.eval_shape(lambda: blocks.BLOCKS[arch.block](arch, rngs=nnx.Rngs(0)))
    )
    rng = np.random.default_rng(0)
    leaves = {
        name: jnp.asarray(
            name.endswith("scale") + 0.3 * rng.standard_normal(leaf.shape), jnp.float32
        )
        for name, leaf in tree.named_leaves(nnx.to_pure_dict(state))
    }
    return nnx.merge(graphdef, tree.from_named(leaves))


def tokens(n=12, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((2, n, 16)), jnp.float32)


def apply(module, x, *args, **keywords):
    graphdef, state = nnx.split(module)
    return jax.jit(lambda s, x: nnx.merge(graphdef, s)(x, *args, **keywords))(state, x)


def names(module):
    return {n for n, _ in tree.named_leaves(nnx.to_pure_dict(nnx.state(module)))}


LEAVES = ("scale", "bias")
BLOCK = {f"norm{i}/{leaf}" for i in (1, 2) for leaf in LEAVES}
BLOCK |= {
    f"{part}/{leaf}"
    for part in ("attn/query", "attn/key", "attn/value", "attn/out", "mlp/up")
    for leaf in ("kernel", "bias")
}
BLOCK |= {"mlp/down/kernel", "mlp/down/bias"}

NORMS = {
    f"attn/{i}_norm/{leaf}" for i in ("query", "key") for leaf in ("scale", "bias")
}


@pytest.mark.parametrize(
    ("options", "more", "fewer"),
    [
        ({}, set(), set()),
        ({"layer_scale": 0.1}, {"scale1", "scale2"}, set()),
        ({"mlp": "swiglu"}, {"mlp/gate/kernel", "mlp/gate/bias"}, set()),
        (
            {"qkv_bias": False},
            set(),
            {"attn/query/bias", "attn/key/bias", "attn/value/bias"},
        ),
        ({"qk_norm": True}, NORMS, set()),
    ],
    ids=["plain", "layer_scale", "swiglu", "no qkv_bias", "qk_norm"],
)
def test_leaf_names_of_a_block_are_these_for_ever(options, more, fewer):
    assert names(block(**options)) == (BLOCK | more) - fewer
    if "qk_norm" in options:
        assert block(**options).attn.key_norm.scale.shape == (8,)
    if "layer_scale" in options:
        new = blocks.Block(small(**options), rngs=nnx.Rngs(0))
        assert (new.scale1[...] == jnp.float32(0.1)).all() and new.scale2.shape == (16,)


def test_an_axial_block_is_two_blocks_by_name():
    expected = {f"{axis}/{name}" for axis in ("row", "column") for name in BLOCK}
    assert names(block(block="axial")) == expected


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention_mask": "local", "attention_window": 1},
        {"posemb": "relative", "class_token": "yes"},
    ],
    ids=str,
)
def test_dot_product_is_einsum(options):
    einsum = block(**options, qk_norm=True)
    dot_product = block(**options, qk_norm=True, attention="dot_product")
    x = tokens(13 if "class_token" in options else 12)
    np.testing.assert_allclose(apply(dot_product, x), apply(einsum, x), atol=1e-5)


def test_dot_product_has_no_attention_dropout():
    with pytest.raises(errors.UserError, match="attention='einsum'"):
        small(attention="dot_product", attention_dropout=0.1)


def test_float32_logits_are_nearer_to_the_exact_ones():
    exact = block()
    x = 3 * tokens()
    expected = exact.attn(x)

    def distance(dtype):
        attn = block(logits_dtype=dtype).attn
        return jnp.abs(attn(x.astype(jnp.bfloat16)) - expected).mean()

    assert distance("float32") < distance("compute") < 0.2
    assert jnp.array_equal(block(logits_dtype="float32").attn(x), expected)


def sees(kind, window, prefix):
    """The definition of the masks, patch by patch."""
    rows, columns = GRID
    cells = [(r, c) for r in range(rows) for c in range(columns)]
    seen = np.ones((prefix + 12, prefix + 12), bool)
    for q, (r, c) in enumerate(cells):
        for k, (s, d) in enumerate(cells):
            near = abs(r - s) <= window and abs(c - d) <= window
            same = (r // window, c // window) == (s // window, d // window)
            seen[prefix + q, prefix + k] = near if kind == "local" else same
    return seen


@pytest.mark.parametrize(
    ("kind", "window", "prefix"), [("local", 1, 2), ("local", 2, 0), ("block", 2, 1)]
)
def test_masks_are_their_definition(kind, window, prefix):
    mask = attention.Mask(kind, window, GRID, prefix)
    np.testing.assert_array_equal(attention.visible(mask), sees(kind, window, prefix))


def influence(module, n):
    """bool [n, n]: whether output token q depends on input token k."""

    def total(x):
        return apply(module, x)[0].sum(axis=-1)

    jacobian = jax.jacrev(total)(tokens(n))[:, 0]
    return np.abs(jacobian).max(axis=-1) > 0


def test_what_is_masked_has_no_influence():
    masked = block(
        attention_mask="block", attention_window=2, class_token="yes", registers=1
    )
    np.testing.assert_array_equal(influence(masked, 14), sees("block", 2, 2))


def test_a_window_over_the_whole_grid_is_no_mask():
    masked = block(attention_mask="local", attention_window=4)
    np.testing.assert_allclose(apply(masked, tokens()), apply(block(), tokens()))


def test_row_attention_is_attention_with_a_mask_of_rows(monkeypatch):
    axial = block(block="axial")
    full = nnx.merge(nnx.graphdef(block()), nnx.state(axial.row))
    found = axial.row(tokens())
    row = np.arange(12) // GRID[1]
    einsum = backends.ATTENTION["einsum"]

    def masked(queries, keys, values, terms):
        return einsum(queries, keys, values, terms._replace(mask=row[:, None] == row))

    monkeypatch.setitem(backends.ATTENTION, "einsum", masked)
    np.testing.assert_allclose(found, full(tokens()), atol=1e-5)


def test_column_attention_is_row_attention_of_the_transposed_grid():
    axial = block(block="axial")
    x = tokens()
    turned = x.reshape(2, *GRID, 16).swapaxes(1, 2).reshape(2, 12, 16)
    other = small(block="axial", image_size=(32, 24))
    row = blocks.Block(other, axis="row", rngs=nnx.Rngs(0))
    row = nnx.merge(nnx.graphdef(row), nnx.state(axial.column))
    expected = row(turned).reshape(2, 4, 3, 16).swapaxes(1, 2).reshape(2, 12, 16)
    np.testing.assert_allclose(axial.column(x), expected, atol=1e-5)


def test_rows_see_no_other_rows_and_rows_then_columns_see_all():
    axial = block(block="axial")
    row, column = np.divmod(np.arange(12), GRID[1])
    np.testing.assert_array_equal(influence(axial.row, 12), row[:, None] == row)
    seen = influence(axial.column, 12)
    np.testing.assert_array_equal(seen, column[:, None] == column)
    assert influence(axial, 12).all()


def standardised(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)


def test_qk_norm_normalises_every_head_of_queries_and_keys():
    attn, x = block(qk_norm=True, qkv_bias=False).attn, tokens()
    q, k, v = (
        jnp.einsum("bnd,dhe->bhne", x, part.kernel[...])
        for part in (attn.query, attn.key, attn.value)
    )
    shape = (1, 1, 1, -1)
    q, k = (
        standardised(y) * norm.scale[...].reshape(shape) + norm.bias[...].reshape(shape)
        for y, norm in ((q, attn.query_norm), (k, attn.key_norm))
    )
    weights = jax.nn.softmax(jnp.einsum("bhqe,bhke->bhqk", q, k) / 8**0.5)
    heads = jnp.einsum("bhqk,bhke->bhqe", weights, v)
    out, bias = attn.out.kernel[...], attn.out.bias[...].reshape(1, 1, -1)
    expected = jnp.einsum("bhqe,hed->bqd", heads, out) + bias
    np.testing.assert_allclose(attn(x), expected, atol=1e-5)


def test_swiglu_is_its_formula():
    mlp, x = block(mlp="swiglu").mlp, tokens()

    def linear(part, x):
        return x @ part.kernel[...][None] + part.bias[...].reshape(1, 1, -1)

    gate = linear(mlp.gate, x)
    hidden = gate / (1 + jnp.exp(-gate)) * linear(mlp.up, x)
    np.testing.assert_allclose(mlp(x, None), linear(mlp.down, hidden), atol=1e-5)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_layer_scale_and_the_place_of_the_norm(norm):
    layer, x = block(norm=norm, layer_scale=0.5), tokens()
    expected = x
    for i, function in ((1, layer.attn), (2, lambda x: layer.mlp(x, None))):
        normed = getattr(layer, f"norm{i}")
        scale = getattr(layer, f"scale{i}")[...].reshape(1, 1, -1)
        branch = (
            function(normed(expected)) if norm == "pre" else normed(function(expected))
        )
        expected = expected + scale * branch
    np.testing.assert_allclose(layer(x), expected, atol=1e-6)


def test_dropped_branches_are_whole_images_and_the_mean_stays():
    x = jnp.ones((4000, 3, 2))
    y = layers.drop_path(x, jnp.float32(0.3), jax.random.key(0))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / (1 - np.float32(0.3)))}
    assert (y == y[:, :1, :1]).all()
    assert float((y[:, 0, 0] == 0).mean()) == pytest.approx(0.3, abs=0.03)
    assert layers.drop_path(x, None, None) is x
    half = layers.drop_path(x.astype(jnp.bfloat16), jnp.float32(0.3), jax.random.key(0))
    assert half.dtype == jnp.bfloat16


def test_drop_path_grows_linearly_with_depth(monkeypatch):
    rates = []
    plain = layers.drop_path

    def spy(x, rate, key):
        jax.debug.callback(lambda r: rates.append(float(r)), rate, ordered=True)
        return plain(x, rate, key)

    monkeypatch.setattr(layers, "drop_path", spy)
    model = models.create(small(depth=3, drop_path=0.4), rngs=nnx.Rngs(0))
    images = jnp.zeros((2, 24, 32, 3))
    model(images, deterministic=False, rngs=nnx.Rngs(dropout=0))
    jax.effects_barrier()
    np.testing.assert_allclose(rates, [0, 0, 0.2, 0.2, 0.4, 0.4], atol=1e-6)


@pytest.mark.parametrize("kind", ["standard", "axial"])
def test_an_image_whose_branches_are_dropped_is_unchanged(kind):
    layer, x = block(block=kind, drop_path=0.5), jnp.tile(tokens(), (20, 1, 1))
    key, rate = jax.random.key(3), jnp.float32(0.9)
    y = apply(layer, x, key, path=rate)
    same = (y == x).all(axis=(1, 2))
    assert 10 < same.sum() < 40
    assert jnp.array_equal(apply(layer, x, key), apply(layer, x))


def features_gradients(attention, compute_dtype="bfloat16"):
    """Of the features of a block over 13 tokens."""
    arch = small(pool="token", num_classes=0, attention=attention).replace_known(
        compute_dtype=compute_dtype
    )
    graphdef, params = models.split(models.create(arch, rngs=nnx.Rngs(0)))
    images = jax.random.normal(jax.random.key(1), (2, *arch.image_size, 3))

    def loss(params):
        features = models.merge(graphdef, params)(images)
        return jnp.sum(jnp.sin(features))

    leaves = jax.tree.leaves(jax.grad(loss)(params))
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in leaves])


def test_a_token_that_is_filled_up_changes_no_gradient(monkeypatch):
    monkeypatch.setattr(backends, "CUDNN_TOKENS", 13)
    exact = features_gradients("einsum", "float32")
    filled = features_gradients("dot_product")
    monkeypatch.setattr(blocks, "is_filled", lambda arch, tokens: False)
    bare = features_gradients("dot_product")
    size = np.linalg.norm(exact)
    assert np.linalg.norm(filled - bare) <= 0.005 * size
    assert np.linalg.norm(filled - exact) <= 0.03 * size


@pytest.mark.parametrize(
    ("filled", "options", "tokens"),
    [
        (True, {}, 129),
        (False, {}, 127),
        (False, {}, 128),
        (False, {"compute_dtype": "float32"}, 129),
        (False, {"attention": "einsum"}, 129),
        (False, {"posemb": "learned", "posemb_at": "every"}, 129),
        (False, {"attention_mask": "local", "attention_window": 2}, 129),
    ],
)
def test_what_is_filled_up(filled, options, tokens):
    given = {"attention": "dot_product", "compute_dtype": "bfloat16"} | options
    arch = small(**given)
    x = jnp.zeros((1, tokens, arch.width), arch.compute_dtype)
    assert blocks.is_filled(arch, x) == filled
