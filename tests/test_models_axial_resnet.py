"""The axial ResNet: its attention against direct readings, its published size."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vit_jax import errors, models, tree
from vit_jax.models import axial_resnet

WIDTH, HEADS = 32, 2


def small(**options):
    options = {"units": (1, 1), "width": 0.5, "heads": HEADS} | options
    return models.architecture(
        "AxialResNet50", **{"num_classes": 3, "image_size": (36, 28)} | options
    )


@functools.cache
def unit():
    """A unit on 4x3 cells, every leaf drawn, and its leaves in float64."""
    made = nnx.eval_shape(
        lambda: axial_resnet.AxialUnit(
            16, WIDTH, stride=1, size=(4, 3), heads=HEADS, rngs=nnx.Rngs(0)
        )
    )
    graphdef, params = models.split(made)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.2, 1, leaf.shape), jnp.float32), params
    )
    leaves = {n: np.asarray(a, np.float64) for n, a in tree.named_leaves(params)}
    return models.merge(graphdef, params), leaves


def cells():
    return np.random.default_rng(2).normal(size=(2, 4, 3, WIDTH))


# --- In float64, from the equations --------------------------------------------------


def norm(x, leaves, name):
    """Groups of channels of one sequence [n, c]."""
    y = x.reshape(len(x), 32, -1)
    y = y - y.mean((0, 2), keepdims=True)
    y = y / np.sqrt((y**2).mean((0, 2), keepdims=True) + 1e-4)
    return y.reshape(x.shape) * leaves[f"{name}/scale"] + leaves[f"{name}/bias"]


def projected(x, leaves, name):
    """(queries, keys, values) of a sequence [n, c], each [n, heads, ...]."""
    qkv = norm(x @ leaves[f"{name}/qkv/kernel"], leaves, f"{name}/norm_qkv")
    e = WIDTH // HEADS
    return np.split(qkv.reshape(len(x), HEADS, 2 * e), [e // 2, e], axis=2)


def attended(q, k, v, places, table, seen):
    """Attention of places in a line, pair by pair; `seen[i, j]`: i may look at j."""
    n, e, zero = len(q), WIDTH // HEADS, table.shape[1] // 2
    out = np.zeros_like(v)
    for h in range(HEADS):
        for i in range(n):
            logits, values = np.full(n, -np.inf), np.zeros((n, e))
            for j in range(n):
                if not seen[i, j]:
                    continue
                offset = table[:, zero + places[j] - places[i]]
                rq, rk, rv = np.split(offset, [e // 2, e])
                logits[j] = q[i, h] @ k[j, h] + q[i, h] @ rk + rq @ k[j, h]
                values[j] = v[j, h] + rv
            weights = np.exp(logits - logits.max())
            out[i, h] = weights / weights.sum() @ values
    return out


def attention(x, leaves, name):
    n = len(x)
    y = attended(
        *projected(x, leaves, name),
        np.arange(n),
        leaves[f"{name}/relative"],
        np.ones((n, n), bool),
    )
    return norm(y.reshape(n, WIDTH), leaves, f"{name}/norm_out")


@pytest.mark.parametrize("name", ["vertical", "horizontal"])
def test_attention_is_that_of_the_equations(name):
    module, leaves = unit()
    x = cells()[:, :, 0] if name == "vertical" else cells()[:, 0]
    expected = np.stack([attention(line, leaves, name) for line in x])
    found = jax.jit(getattr(module, name))(jnp.float32(x))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_unit_attends_along_columns_then_along_rows():
    module, leaves = unit()
    expected = cells()
    for image in expected:
        for column in range(image.shape[1]):
            image[:, column] = attention(image[:, column], leaves, "vertical")
        for row in range(image.shape[0]):
            image[row] = attention(image[row], leaves, "horizontal")
    found = jax.jit(module.attend)(jnp.float32(cells()))
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("name", ["vertical", "horizontal"])
def test_axial_attention_is_full_attention_with_a_mask(name):
    """Over all cells at once, where each sees its own column (or row) alone."""
    module, leaves = unit()
    h, w = 4, 3
    x = cells()[0]
    places, lines = np.indices((h, w)).reshape(2, -1)
    if name == "horizontal":
        places, lines = lines, places
    flat = x.reshape(h * w, WIDTH)
    parts = [np.zeros((h * w, HEADS, c)) for c in (8, 8, 16)]
    for line in range(max(lines) + 1):
        for part, values in zip(parts, projected(flat[lines == line], leaves, name)):
            part[lines == line] = values
    seen = lines[:, None] == lines[None, :]
    full = attended(*parts, places, leaves[f"{name}/relative"], seen)
    full = full.reshape(h * w, WIDTH)
    for line in range(max(lines) + 1):
        full[lines == line] = norm(full[lines == line], leaves, f"{name}/norm_out")
    along = x.transpose(1, 0, 2) if name == "vertical" else x
    found = jax.jit(getattr(module, name))(jnp.float32(along))
    found = found.transpose(1, 0, 2) if name == "vertical" else found
    np.testing.assert_allclose(found.reshape(h * w, WIDTH), full, atol=1e-4)


@pytest.mark.parametrize("rows", [slice(0, 8), slice(8, 16), slice(16, 32)])
def test_queries_keys_and_values_have_positions_of_their_own(rows):
    module, _ = unit()
    graphdef, params = models.split(module.vertical)
    x = jnp.float32(cells()[:, :, 0])
    changed = dict(params, relative=params["relative"].at[rows].set(0))
    apply = jax.jit(lambda params: models.merge(graphdef, params)(x))
    difference = apply(changed) - apply(params)
    assert np.abs(difference).max() > 1e-2


def test_a_new_unit_is_its_shortcut_and_halves_with_rounding_up():
    unit = axial_resnet.AxialUnit(
        32, 32, stride=2, size=(5, 6), heads=HEADS, rngs=nnx.Rngs(0)
    )
    x = jax.random.normal(jax.random.key(1), (2, 5, 6, 32))
    expected = jax.jit(lambda x: jax.nn.relu(unit.norm_proj(unit.conv_proj(x))))(x)
    assert expected.shape == (2, 3, 3, 128)
    np.testing.assert_allclose(jax.jit(unit)(x), expected, rtol=1e-5, atol=1e-6)


# --- The whole model -----------------------------------------------------------------


def test_parameters_are_the_published():
    arch = models.architecture("AxialResNet50", num_classes=1000)
    assert models.count_parameters(arch) == 19_373_640


def test_tables_are_as_long_as_the_feature_maps():
    arch = small(units=(1, 2))
    shapes = {
        name: leaf.shape
        for name, leaf in tree.named_leaves(models.abstract(arch)[1])
        if name.endswith("relative")
    }
    # 36x28 pixels: 9x7 cells after the root, 5x4 after the first unit of stage 2.
    assert shapes == {
        "stage1/unit1/vertical/relative": (32, 17),
        "stage1/unit1/horizontal/relative": (32, 13),
        "stage2/unit1/vertical/relative": (64, 17),
        "stage2/unit1/horizontal/relative": (64, 13),
        "stage2/unit2/vertical/relative": (64, 9),
        "stage2/unit2/horizontal/relative": (64, 7),
    }


def test_multiply_adds_are_those_of_the_traced_products():
    arch = small(units=(1, 2), num_classes=0)
    graphdef, params = models.abstract(arch)
    x = jax.ShapeDtypeStruct((1, *arch.image_size, 3), jnp.float32)
    traced = jax.make_jaxpr(lambda p, x: models.merge(graphdef, p)(x))(params, x)
    total = 0
    for equation in equations(traced.jaxpr):
        out = int(np.prod(equation.outvars[0].aval.shape))
        if equation.primitive.name == "conv_general_dilated":
            total += out * int(np.prod(equation.invars[1].aval.shape[:3]))
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += out * int(np.prod([shape[axis] for axis in contracted]))
    assert total == models.forward_macs(arch)


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for sub in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(sub)


def test_gradients_are_finite_and_bfloat16_is_close():
    arch = small(units=(1,))
    graphdef, params = models.abstract(arch)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.5, 0.5, leaf.shape), jnp.float32), params
    )
    shape = (2, *arch.image_size, 3)
    x = jax.random.uniform(jax.random.key(2), shape, minval=-1)

    def loss(params):
        logits = models.merge(graphdef, params)(x)
        return jnp.square(logits).mean(), logits

    grads, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    for name, grad in tree.named_leaves(grads):
        assert np.isfinite(grad).all() and np.any(grad), name
    half, _ = models.abstract(arch.replace(compute_dtype="bfloat16"))
    found = jax.jit(lambda params: models.merge(half, params)(x))(params)
    assert found.dtype == logits.dtype == jnp.float32
    error = np.abs(found - logits).mean() / np.abs(logits).mean()
    assert 0 < error < 0.05


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("AxialResNet-50", {}, "AxialResNet50"),
        ("AxialResNet18", {}, "18"),
        ("AxialResNet50", {"heads": 5}, "heads=5"),
        ("AxialResNet50", {"posemb": "relative"}, "posemb"),
    ],
)
def test_wrong_names_and_options_are_explained(name, options, message):
    with pytest.raises(errors.UserError, match=message):
        models.architecture(name, num_classes=3, **options)


def test_an_architecture_survives_json():
    arch = small(remat="full")
    assert models.from_dict(arch.to_dict()) == arch
