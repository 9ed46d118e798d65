"""`import vit_jax`: light, and usable without flags or configs."""

import subprocess
import sys

import jax.numpy as jnp
import pytest

import vit_jax
from vit_jax import errors


def test_importing_it_imports_nothing_heavy():
    code = (
        "import sys, vit_jax; vit_jax.__version__; "
        "print([m for m in ('jax', 'flax', 'numpy', 'absl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_loading_needs_no_configuration():
    code = (
        "import sys, vit_jax.weights.pretrained; print('ml_collections' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_create_model_makes_a_working_module():
    model = vit_jax.create_model("mu/16", num_classes=7, image_size=(32, 48), seed=3)
    assert model(jnp.zeros((1, 32, 48, 3))).shape == (1, 7)
    again = vit_jax.create_model("mu/16", num_classes=7, image_size=(32, 48), seed=3)
    assert jnp.array_equal(model.posemb[...], again.posemb[...])
    other = vit_jax.create_model("mu/16", num_classes=7, image_size=(32, 48), seed=4)
    assert not jnp.array_equal(model.posemb[...], other.posemb[...])


def test_the_names_of_the_models_can_be_listed():
    assert "R50+L/32" in vit_jax.list_models("R50*")
    assert set(vit_jax.list_models("B/*")) == {"B/8", "B/16", "B/32"}


def test_load_is_there_and_says_what_is_wrong(golden):
    loaded = vit_jax.load(golden / "vit_token.npz", image_size=48)
    assert loaded.architecture.image_size == (48, 48)
    with pytest.raises(errors.UserError, match="does not exist"):
        vit_jax.load("nowhere")
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        vit_jax.lod  # noqa: B018
