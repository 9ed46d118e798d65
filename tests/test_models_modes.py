"""NNX's `train()` and `eval()`: dropout on and off in every family."""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from vit_jax import errors, models

IMAGES = jnp.linspace(-1, 1, 2 * 32 * 32 * 3).reshape(2, 32, 32, 3)
# Name, options with something to drop, and whether there is anything.
TINY = {"width": 32, "depth": 1, "mlp_width": 32, "heads": 2}
FAMILIES = {
    "vit": ("mu/8", {"dropout": 0.5}, True),
    "vit, attention": ("mu/8", {"attention_dropout": 0.5}, True),
    "vit, paths": ("mu/8", {"drop_path": 0.5, "depth": 2}, True),
    "axial": ("Axial-B/8", TINY | {"dropout": 0.5}, True),
    "hybrid": ("R+Ti/16", TINY | {"dropout": 0.5, "patch": 2}, True),
    "mixer": (
        "Mixer-S/16",
        {"width": 32, "depth": 2, "tokens_mlp_width": 8, "channels_mlp_width": 8}
        | {"drop_path": 0.5},
        True,
    ),
    "bit": ("BiT-R50x1", {"units": (1, 1), "width": 0.5}, False),
    "axial resnet": ("AxialResNet50", {"units": (1, 1)}, False),
}


def make(family):
    name, options, _ = FAMILIES[family]
    arch = models.architecture(name, num_classes=3, image_size=32, **options)
    graphdef, like = models.abstract(arch)
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1), like)
    return models.merge(graphdef, params)


def program(model, *, drawing=False, **options):
    """What a call computes, without computing it."""

    def call(images):
        rngs = nnx.Rngs(dropout=0) if drawing else None
        return model(images, rngs=rngs, **options)

    return re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(call)(IMAGES)))


@pytest.mark.parametrize("family", FAMILIES)
def test_train_drops_and_eval_does_not(family):
    model = make(family)
    dropping, quiet = (
        program(model, drawing=True, deterministic=value) for value in (False, True)
    )
    assert (dropping != quiet) == FAMILIES[family][2]
    assert program(model, drawing=True) == quiet  # as a model is made
    model.train()
    assert program(model, drawing=True) == dropping
    assert (
        program(model, drawing=True, deterministic=True) == quiet
    )  # the argument wins
    model.eval()
    assert program(model, drawing=True) == quiet
    assert program(model, drawing=True, deterministic=False) == dropping
    model.set_attributes(deterministic=False)
    assert program(model, drawing=True) == dropping


@pytest.mark.parametrize("family", FAMILIES)
def test_training_without_random_numbers_is_an_error_where_it_drops(family):
    model = make(family)
    model.train()
    if not FAMILIES[family][2]:
        assert "random" not in program(model)
        return
    with pytest.raises(errors.UserError, match=r"rngs=nnx\.Rngs.*model\.eval\(\)"):
        program(model)


def test_a_model_without_rates_trains_without_random_numbers():
    graphdef, like = models.abstract(
        models.architecture("mu/8", num_classes=3, image_size=32)
    )
    model = models.merge(graphdef, jax.tree.map(lambda x: jnp.ones(x.shape), like))
    quiet = program(model)
    model.train()
    assert program(model) == quiet


@pytest.mark.parametrize("family", FAMILIES)
def test_modes_change_no_parameter_and_no_cached_definition(family):
    model = make(family)
    fresh = models.abstract(model.architecture)[0]
    assert models.split(model)[0] == fresh
    before = jax.tree.structure(models.split(model)[1])
    model.train()
    assert models.split(model)[0] != fresh  # so that `jit` compiles it for itself
    assert jax.tree.structure(models.split(model)[1]) == before
    assert not models.merge(*models.split(model)).deterministic
    model.eval()
    assert models.split(model)[0] == fresh
    assert hash(models.split(model)[0]) == hash(fresh)
