"""The Mixer: published counts, its equations, and what must not matter."""

import functools

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vit_jax import errors, models, tree
from vit_jax.models import mixer

TINY = dict(
    num_classes=5, image_size=16, width=12, depth=3, tokens_mlp_width=6, patch=(4, 4)
)


def architecture(**options):
    options = {**TINY, "channels_mlp_width": 20, **options}
    return models.architecture("Mixer-S/16", **options)


def make(**options):
    """A model of which no parameter is zero."""
    graphdef, params = models.abstract(architecture(**options))
    rng = np.random.default_rng(0)
    return models.merge(
        graphdef,
        tree.map_named(
            lambda name, leaf: jnp.asarray(
                name.endswith("scale") + 0.3 * rng.normal(size=leaf.shape), jnp.float32
            ),
            params,
        ),
    )


def images(batch=2, size=(16, 16), seed=1):
    pixels = np.random.default_rng(seed).normal(size=(batch, *size, 3))
    return jnp.asarray(pixels, jnp.float32)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Mixer-B/16", 59_880_472),
        ("Mixer-B/32", 60_293_428),
        ("Mixer-L/16", 208_196_168),
    ],
)
def test_parameter_counts_are_the_published_ones(name, parameters):
    arch = models.architecture(name, num_classes=1000)
    assert models.count_parameters(arch) == parameters


@pytest.mark.parametrize(
    ("name", "millions"),
    [("Mixer-S/32", 19), ("Mixer-S/16", 18), ("Mixer-L/32", 206)],
)
def test_backbones_of_the_other_sizes_round_to_the_papers_millions(name, millions):
    arch = models.architecture(name, num_classes=1000)
    assert models.count_parameters(arch) / 1e6 == pytest.approx(millions, abs=1)


def test_leaf_names_are_forever():
    _, params = models.abstract(architecture())
    parts = ("norm1", "tokens/up", "tokens/down", "norm2", "channels/up")
    linear = ("patch_embed", "head", *(f"blocks/{p}" for p in parts if "/" in p))
    linear += ("blocks/channels/down",)
    norms = ("norm", "blocks/norm1", "blocks/norm2")
    assert {name for name, _ in tree.named_leaves(params)} == {
        *(f"{name}/{leaf}" for name in linear for leaf in ("kernel", "bias")),
        *(f"{name}/{leaf}" for name in norms for leaf in ("scale", "bias")),
    }


def norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def mlp(x, p):
    x = x @ p["up"]["kernel"] + p["up"]["bias"]
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x @ p["down"]["kernel"] + p["down"]["bias"]


def by_hand(params, x):
    """The paper's equation 1, in numpy, on patches cut by loops."""
    params = jax.tree.map(np.asarray, params)
    rows = [
        np.asarray(x[:, i : i + 4, j : j + 4]).reshape(len(x), -1)
        for i in range(0, x.shape[1], 4)
        for j in range(0, x.shape[2], 4)
    ]
    embed = params["patch_embed"]
    tokens = np.stack(rows, 1) @ embed["kernel"].reshape(48, -1) + embed["bias"]
    for i in range(3):
        p = jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"])
        columns = norm(tokens, p["norm1"]).transpose(0, 2, 1)
        tokens = tokens + mlp(columns, p["tokens"]).transpose(0, 2, 1)
        tokens = tokens + mlp(norm(tokens, p["norm2"]), p["channels"])
    features = norm(tokens, params["norm"]).mean(1)
    return features @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("size", [(16, 16), (8, 12)])
def test_logits_are_the_papers_equation(size):
    with jax.default_matmul_precision("highest"):
        model, x = make(image_size=size), images(size=size)
        expected = by_hand(models.split(model)[1], np.asarray(x))
        np.testing.assert_allclose(model(x), expected, atol=2e-5, rtol=1e-5)


@functools.cache
def gradients(arch):
    graphdef, _ = models.abstract(arch)

    def loss(params):
        model = models.merge(graphdef, params)
        rngs = nnx.Rngs(dropout=3)
        return jnp.sum(model(images(), deterministic=False, rngs=rngs) ** 2)

    return jax.jit(jax.grad(loss))(models.split(make(drop_path=0.5))[1])


@pytest.mark.parametrize(("unroll", "remat"), [(1, "none"), (2, "dots"), (0, "full")])
def test_unroll_and_remat_do_not_matter(unroll, remat):
    plain = architecture(drop_path=0.5)
    got = gradients(plain.replace(unroll=unroll, remat=remat))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4),
        *(got, gradients(plain)),
    )


def test_a_dropped_branch_is_dropped_whole_and_a_kept_one_rescaled():
    rate, many = 0.25, 2000
    block = mixer.MixerBlock(architecture(), rngs=nnx.Rngs(0))
    x = jnp.broadcast_to(images(1, (16, 4))[0].reshape(1, 16, 12), (many, 16, 12))

    @jax.jit
    def errors_of(x, key):
        """Of each image, taken for one of the four kinds."""
        out, errors = block(x, key, jnp.float32(rate)), []
        for tokens in (0, 1):
            y = x[:1] + tokens / (1 - rate) * block.tokens(
                block.norm1(x[:1]).swapaxes(1, 2)
            ).swapaxes(1, 2)
            for channels in (0, 1):
                z = y + channels / (1 - rate) * block.channels(block.norm2(y))
                difference = jnp.abs(out - jnp.broadcast_to(z, out.shape))
                errors.append(jnp.max(difference, axis=(1, 2)))
        return jnp.stack(errors)

    kinds = np.asarray(errors_of(x, jax.random.key(5))) < 1e-4
    assert np.sum(kinds, axis=0).tolist() == [1] * many
    shares = np.mean(kinds, axis=1)
    expected = [rate**2, rate * (1 - rate), rate * (1 - rate), (1 - rate) ** 2]
    np.testing.assert_allclose(shares, expected, atol=0.04)


def test_rates_rise_linearly_from_zero():
    """Of two blocks the first is never dropped: rate 0.999 leaves only its output."""
    model = make(depth=2, drop_path=0.999)
    one = make(depth=2)
    params = models.split(model)[1]
    first = jax.tree.map(lambda leaf: leaf[:1], params["blocks"])
    graphdef, _ = models.abstract(architecture(depth=1))
    alone = models.merge(graphdef, params | {"blocks": first})
    dropped = model(images(), deterministic=False, rngs=nnx.Rngs(dropout=0))
    np.testing.assert_allclose(dropped, alone(images()), atol=1e-5)
    np.testing.assert_allclose(model(images()), one(images()), atol=1e-6)


def test_without_a_head_the_features_come_out():
    model = make()
    graphdef, _ = models.abstract(architecture(num_classes=0))
    params = models.split(model)[1]
    bare = models.merge(graphdef, {k: v for k, v in params.items() if k != "head"})
    features = bare(images())
    assert features.shape == (2, 12) and features.dtype == jnp.float32
    np.testing.assert_allclose(model.classify(features), model(images()), atol=1e-6)
    fresh = models.create(architecture(head_bias=-10.0), rngs=nnx.Rngs(0))
    assert np.array_equal(fresh(images()), np.full((2, 5), -10.0))


def test_bfloat16_is_near_float32():
    exact = make()
    half = models.merge(
        models.abstract(architecture(compute_dtype="bfloat16"))[0],
        models.split(exact)[1],
    )
    assert half(images()).dtype == jnp.float32
    np.testing.assert_allclose(half(images()), exact(images()), atol=0.1)


def dot_macs(jaxpr, times=1):
    """Multiply-adds of every matrix product in a program, loops included."""
    total = 0
    for equation in jaxpr.eqns:
        inner = times * equation.params.get("length", 1)
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            depth = np.prod([shape[axis] for axis in contracted])
            total += times * int(depth * np.prod(equation.outvars[0].aval.shape))
        for sub in jax.extend.core.jaxprs_in_params(equation.params):
            total += dot_macs(sub, inner)
    return total


@pytest.mark.parametrize("size", [(16, 16), (8, 12)])
def test_multiply_adds_are_those_of_the_program(size):
    arch = architecture(image_size=size)
    graphdef, params = models.abstract(arch)
    batch = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    program = jax.make_jaxpr(lambda p, x: models.merge(graphdef, p)(x))(params, batch)
    assert dot_macs(program.jaxpr) == models.forward_macs(arch)


def test_what_cannot_be_says_what_to_do():
    with pytest.raises(errors.UserError, match="nearest here is 'Mixer-B/16'"):
        models.architecture("Mixer-B16", num_classes=3)
    with pytest.raises(errors.UserError, match="Mixer size='H' is unknown.*B, L, S"):
        models.architecture("Mixer-H/14", num_classes=3)
    with pytest.raises(errors.UserError, match="15x16.*4x4 patches; crop='valid'"):
        architecture(image_size=(15, 16))
    assert architecture(image_size=(15, 16), crop="valid").grid == (3, 4)
    with pytest.raises(errors.UserError, match="no option registers=2"):
        architecture(registers=2)
    with pytest.raises(errors.UserError, match="has no random numbers"):
        make(drop_path=0.1)(images(), deterministic=False)
    with pytest.raises(
        errors.UserError, match="wants \\[batch, 16, 16, 3\\]"
    ) as caught:
        make()(images(size=(16, 12)))
    assert "load" not in str(caught.value)  # its weights are of one size


def test_an_architecture_survives_json():
    arch = architecture(drop_path=0.1)
    assert models.from_dict(arch.to_dict()) == arch
    assert arch.to_dict()["family"] == "mixer"
