"""What is inside a forward pass, by name, and what the plain pass pays for it."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend import core as extend

from vit_jax import errors, models, tree

# The lowered forward pass before intermediates could be asked for, on jax 0.10.2.
CASES = {
    "vit": ("mu/8", {}, "9f35553742b1"),
    "loop": ("mu/8", {"unroll": 1, "depth": 3, "remat": "full"}, "95ca8c447900"),
    "relative": ("mu/8", {"posemb": "relative", "depth": 2}, "766501c21fb0"),
    "axial": (
        "Axial-B/16",
        {"width": 32, "depth": 2, "heads": 2, "mlp_width": 32},
        "a35d36a3182f",
    ),
    "mixer": ("Mixer-S/16", {"depth": 2}, "4992beaf47ad"),
    "bit": ("BiT-R50x1", {"units": (1, 1), "remat": "full"}, "710c632464e8"),
    "axial_resnet": ("AxialResNet50", {"units": (1, 1)}, "aa3b6d144430"),
    "hybrid": (
        "R26+S/32",
        {"depth": 2, "width": 32, "mlp_width": 64, "heads": 2, "patch": 2}
        | {"resnet": (1, 1), "resnet_width": 32},
        "1a1bf36d5551",
    ),
}
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)), "float32")


def architecture(case, **options):
    name, given, _ = CASES[case]
    return models.architecture(name, num_classes=3, image_size=32, **given | options)


def filled(arch):
    """A model whose parameters are all random: no head of zeros, no scale of zeros."""
    graphdef, params = models.abstract(arch)
    random = np.random.default_rng(1)
    leaves = {
        name: jnp.asarray(random.normal(0, 0.2, leaf.shape), jnp.float32)
        for name, leaf in tree.named_leaves(params)
    }
    return models.merge(graphdef, tree.from_named(leaves))


@pytest.mark.parametrize("case", CASES)
def test_the_plain_forward_pass_is_the_program_it_was(case):
    graphdef, params = models.abstract(architecture(case))

    def forward(params, images):
        return models.merge(graphdef, params)(images)

    shape = jax.ShapeDtypeStruct(IMAGES.shape, IMAGES.dtype)
    jaxpr = jax.make_jaxpr(forward)(params, shape)
    for eqn in equations(jaxpr.jaxpr):
        if eqn.primitive.name == "scan":  # nothing is stacked up beside the tokens
            assert len(eqn.outvars) == eqn.params["num_carry"]
    if jax.__version__ == "0.10.2":
        text = jax.jit(forward).lower(params, shape).as_text()
        assert hashlib.sha256(text.encode()).hexdigest()[:12] == CASES[case][2]


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in extend.jaxprs_in_params(eqn.params):
            yield from equations(inner)


@pytest.mark.parametrize("case", CASES)
def test_the_last_layer_and_the_head_are_the_call(case):
    model = filled(architecture(case))
    graphdef, params = models.split(model)
    found = jax.jit(lambda p, x: models.merge(graphdef, p).intermediates(x))(
        params, IMAGES
    )
    features = found["features"]
    layers = [name for name in found if name.startswith(f"{model.maps}/")]
    last = found[layers[-1]]

    @jax.jit
    def outside(params, features, last):
        model = models.merge(graphdef, params)
        plain = model.features(IMAGES), model(IMAGES)
        return *plain, model.classify(features), end(model, last)

    plain, logits, classified, ended = outside(params, features, last)
    assert jnp.allclose(features, plain, rtol=1e-4, atol=1e-5)
    assert jnp.allclose(classified, logits, rtol=1e-4, atol=1e-5)
    assert jnp.allclose(ended, features, rtol=1e-4, atol=1e-5)
    for name, leaf in found.items():
        if name.startswith("attention/"):
            assert leaf.dtype == jnp.float32
            assert jnp.allclose(leaf.sum(-1), 1, atol=1e-5)


def end(model, last):
    """From what the last layer put out to the features."""
    arch = model.architecture
    if arch.family == "vit":
        return model.pool(model.norm(last))
    if arch.family == "mixer":
        return model.norm(last).mean(axis=1)
    if model.norm is not None:
        last = jax.nn.relu(model.norm(last))
    return last.mean(axis=(1, 2))


def test_names_and_shapes_of_each_family():
    def shapes(case):
        graphdef, params = models.abstract(architecture(case))
        found = jax.eval_shape(
            lambda p, x: models.merge(graphdef, p).intermediates(x), params, IMAGES
        )
        return {name: leaf.shape for name, leaf in found.items()}

    assert shapes("loop") == {
        **{f"blocks/{i}": (2, 17, 32) for i in range(3)},
        **{f"attention/{i}": (2, 2, 17, 17) for i in range(3)},
        "features": (2, 32),
    }
    assert shapes("axial")["attention/1/row"] == (2, 2, 2, 2, 2)
    assert set(shapes("mixer")) == {"blocks/0", "blocks/1", "features"}
    assert shapes("bit") == {
        "stages/0": (2, 8, 8, 256),
        "stages/1": (2, 4, 4, 512),
        "features": (2, 512),
    }
    assert shapes("axial_resnet")["attention/1/0/column"] == (2, 8, 8, 8, 8)
    assert {"stages/0", "stages/1", "blocks/1", "attention/1"} <= set(shapes("hybrid"))


LOCAL = {"attention_mask": "local", "attention_window": 1}
BLOCK = {"attention_mask": "block", "attention_window": 2}


@pytest.mark.parametrize("options", [{}, {"posemb": "relative"}, LOCAL, BLOCK], ids=str)
def test_probabilities_give_the_blocks_output(options):
    model = filled(architecture("vit", depth=2, **options))
    found = model.intermediates(IMAGES)
    graphdef, stacked = nnx.split(model.blocks)
    block = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[1], stacked))
    x = found["blocks/0"]
    values = block.attn.value(block.norm1(x))
    heads = jnp.einsum("bhqk,bkhe->bqhe", found["attention/1"], values)
    x = x + block.attn.out(heads)
    x = x + block.mlp(block.norm2(x), None)
    assert jnp.allclose(x, found["blocks/1"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [LOCAL, BLOCK], ids=str)
@pytest.mark.parametrize("back_end", ["einsum", "dot_product"])
def test_what_a_mask_hides_has_no_probability(options, back_end):
    arch = architecture("vit", attention=back_end, **options)
    found = filled(arch).intermediates(IMAGES)["attention/0"]
    window = options["attention_window"]
    rows, columns = np.indices(arch.grid).reshape(2, -1)
    near = {
        "local": lambda x: abs(x[:, None] - x) <= window,
        "block": lambda x: x[:, None] // window == x // window,
    }[options["attention_mask"]]
    seen = np.ones((1 + len(rows),) * 2, bool)  # the class token sees all, and is seen
    seen[1:, 1:] = near(rows) & near(columns)
    assert not seen.all()
    assert (np.asarray(found)[..., ~seen] == 0).all()
    assert (np.asarray(found)[..., seen] > 0).all()


DROPPED = {"dropout": 0.5, "attention_dropout": 0.5, "drop_path": 0.5, "depth": 2}


def test_nothing_is_dropped_of_what_is_inside():
    model = filled(architecture("vit", **DROPPED))
    expected = filled(architecture("vit", depth=2)).intermediates(IMAGES)
    model.train()
    found = jax.jit(lambda: model.intermediates(IMAGES))()
    assert set(found) == set(expected)
    for name, leaf in found.items():
        assert jnp.allclose(leaf, expected[name], rtol=1e-4, atol=1e-5), name
    with pytest.raises(TypeError, match="deterministic"):
        model.intermediates(IMAGES, deterministic=False)


def test_layers_under_dropout_are_those_of_the_same_key():
    model = filled(architecture("vit", pool="mean", **DROPPED))

    @jax.jit
    def drawn(key):
        layers = {"layers": [0, -1], "norm": True, "reshape": False}
        return [
            model.features(
                IMAGES, deterministic=False, rngs=nnx.Rngs(dropout=key), **asked
            )
            for asked in ({}, layers)
        ]

    features, (first, last) = drawn(jax.random.key(0))
    assert jnp.allclose(last.mean(axis=1), features, rtol=1e-4, atol=1e-5)
    _, others = drawn(jax.random.key(1))
    assert not any(map(jnp.allclose, (first, last), others))
    with pytest.raises(errors.UserError, match="rngs"):
        model.features(IMAGES, layers=[0], deterministic=False)


@pytest.mark.parametrize(
    "options",
    [{"unroll": 1}, {"unroll": 2}, {"remat": "full"}, {"attention": "dot_product"}],
    ids=str,
)
def test_loop_remat_and_back_end_do_not_matter(options):
    plain = architecture("vit", depth=2)
    expected = filled(plain).intermediates(IMAGES)
    found = filled(plain.replace(**options)).intermediates(IMAGES)
    assert list(found) == list(expected)
    for name, leaf in found.items():
        assert jnp.allclose(leaf, expected[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("case", ["vit", "mixer", "bit", "hybrid"])
def test_maps_of_layers_are_the_patches_on_their_grid(case):
    model = filled(architecture(case))
    graphdef, params = models.split(model)

    @jax.jit
    def forward(params):
        model = models.merge(graphdef, params)
        found = model.intermediates(IMAGES)
        layers = [leaf for name, leaf in found.items() if name.startswith(model.maps)]
        last = model.features(IMAGES, layers=[-1])
        return (
            layers,
            last,
            model.features(IMAGES, layers=[len(layers) - 1], reshape=False),
        )

    layers, (last,), (flat,) = forward(params)
    assert last.shape[1:3] == model.architecture.grid
    assert jnp.array_equal(flat, last.reshape(flat.shape))
    patches = layers[-1].reshape(2, -1, last.shape[-1])[:, -flat.shape[1] :]
    assert jnp.allclose(flat, patches, rtol=1e-5, atol=1e-5)
    with pytest.raises(errors.UserError, match="want numbers from 0"):
        model.features(IMAGES, layers=[len(layers)])


def test_normed_maps_are_the_encoded_tokens():
    model = filled(architecture("vit"))
    (found,) = model.features(IMAGES, layers=[-1], reshape=False, norm=True)
    encoded = model.encode(model.embed(IMAGES))
    assert jnp.allclose(found, encoded[:, 1:], rtol=1e-4, atol=1e-5)
