"""Files of the reference implementations: their outputs and round trips."""

import logging

import jax
import numpy as np
import pytest

from vit_jax import errors, models, tree
from vit_jax.weights import files, infer


def model_of(weights):
    graphdef, _ = models.abstract(weights.architecture)
    params = jax.tree.map(jax.numpy.asarray, weights.params)
    return models.merge(graphdef, params)


GOLDEN = ["vit_token", "bv_tok", "hybrid_r_stem_only", "mixer"]


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_are_those_of_the_reference(golden, name):
    weights = files.read(golden / f"{name}.npz")
    expected = np.load(golden / f"{name}_io.npz")
    model = model_of(weights)
    np.testing.assert_allclose(
        model(expected["images"]), expected["logits"], atol=1e-4, rtol=0
    )
    if "pre_logits" in expected:
        np.testing.assert_allclose(
            model.features(expected["images"]), expected["pre_logits"], atol=1e-4
        )


def test_another_image_size_resamples_as_the_reference_does(golden):
    weights = files.read(golden / "vit_token.npz", image_size=48)
    expected = np.load(golden / "vit_token_at48_io.npz")
    posemb = weights.params["posemb"]
    np.testing.assert_allclose(posemb, expected["pos_embedding"], atol=1e-6)
    logits = model_of(weights)(expected["images"])
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4, rtol=0)
    assert weights.architecture.image_size == weights.preprocessing.image_size
    with pytest.raises(errors.UserError, match="48x48, 56x56"):
        files.read(golden / "vit_token.npz", image_size=50)


@pytest.mark.parametrize("name", GOLDEN)
def test_reading_and_writing_back_is_exact(golden, tmp_path, name):
    path = golden / f"{name}.npz"
    files.write(files.read(path), tmp_path / "back.npz")
    back, original = np.load(tmp_path / "back.npz"), np.load(path)
    assert set(back.files) == set(original.files)
    for key in original.files:
        assert back[key].dtype == original[key].dtype
        assert np.array_equal(back[key], original[key])


def fresh(name="mu/8", **options):
    options = {"num_classes": 5, "image_size": 64} | options
    arch = models.architecture(name, **options)
    _, like = models.abstract(arch)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), like
    )
    return files.Weights(arch, params, None, "google_old")


@pytest.mark.parametrize(
    "options",
    [
        {"pre_logits": True},
        {"pre_logits": 256},
        {"pre_logits": 256, "num_classes": 0},
        {"pre_logits": 64, "pool": "token_mean"},
        {"pool": "mean"},
        {"num_classes": 0},
        {"patch": (8, 4), "image_size": (64, 32)},
        {"resnet": (1, 2), "resnet_width": 32, "patch": (2, 2)},
    ],
    ids=str,
)
def test_the_architecture_is_read_from_the_tensors(tmp_path, options):
    weights = fresh(depth=2, **options)
    files.write(weights, tmp_path / "x.npz")
    again = files.read(tmp_path / "x.npz")
    name = again.architecture.name
    assert again.architecture == weights.architecture.replace(name=name)
    for (key, a), (_, b) in zip(
        tree.named_leaves(again.params), tree.named_leaves(weights.params)
    ):
        assert np.array_equal(a, b), key


@pytest.mark.parametrize("name", ["B/32", "R26+S/32"])
def test_published_sizes_get_their_names(name):
    arch = models.architecture(name, num_classes=10)
    _, params = models.abstract(arch)
    shapes = {key: leaf.shape for key, leaf in tree.named_leaves(params)}
    assert infer.architecture(shapes) == arch


def test_a_grid_that_is_no_square_needs_its_image_size(tmp_path):
    weights = fresh(image_size=(64, 24))
    files.write(weights, tmp_path / "x.npz")
    with pytest.raises(errors.UserError, match="24 entries.*pass the image_size"):
        files.read(tmp_path / "x.npz")
    again = files.read(tmp_path / "x.npz", image_size=(64, 24))
    assert np.array_equal(again.params["posemb"], weights.params["posemb"])


def save(path, tensors):
    with path.open("wb") as stream:
        np.savez(stream, **tensors)
    return path


def test_training_states_give_their_weights_only(golden, tmp_path, caplog):
    tensors = dict(np.load(golden / "bv_tok.npz"))
    bare = {n.removeprefix("params/"): t for n, t in tensors.items()}
    state = {f"opt/target/{n}": t for n, t in bare.items()}
    state["opt/state/step"] = np.array(7)
    for name, content in {"bare": bare, "state": state}.items():
        with caplog.at_level(logging.INFO):
            weights = files.read(save(tmp_path / f"{name}.npz", content))
        assert weights.dialect == "big_vision"
        assert np.array_equal(weights.params["cls"], bare["cls"])
    assert "opt/state/step" in caplog.text


def test_bfloat16_saved_as_void_is_read(golden, tmp_path):
    tensors = dict(np.load(golden / "vit_token.npz"))
    half = {n: t.astype(jax.numpy.bfloat16).view("V2") for n, t in tensors.items()}
    weights = files.read(save(tmp_path / "x.npz", half))
    rounded = tensors["cls"].astype(jax.numpy.bfloat16).astype(np.float32)
    assert np.array_equal(weights.params["cls"], rounded)


def test_a_zeroed_head_is_said(golden, tmp_path, caplog):
    tensors = dict(np.load(golden / "vit_token.npz"))
    tensors["head/kernel"] = np.zeros_like(tensors["head/kernel"])
    weights = files.read(save(tmp_path / "x.npz", tensors))
    assert "all zeros" not in caplog.text
    assert not weights.leaves["head/kernel"].any()
    assert "all zeros" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"extra/kernel": np.zeros(3)},
            r"(?s)1 of its \d+ tensors.*extra/kernel \(3,\)",
        ),
        ({"cls": None}, "17 entries"),
        ({"Transformer/encoderblock_1/LayerNorm_0/bias": None}, "layer .1. is missing"),
        ({"Transformer/encoder_norm/bias": None}, "norm/bias: missing, want"),
        ({"Transformer/encoder_norm/bias": np.zeros(31)}, r"norm/bias: \(31,\), want"),
        ({"embedding/kernel": np.zeros((8, 8, 3, 31))}, "patch_embed/kernel"),
        ({"embedding/kernel": np.zeros(0)}, "want 4 axes"),
        ({"embedding/kernel": np.zeros((8, 8, 3, 0))}, "none empty"),
    ],
)
def test_tensors_that_do_not_fit_are_named(golden, tmp_path, change, message):
    tensors = dict(np.load(golden / "vit_token.npz")) | change
    path = save(tmp_path / "x.npz", {n: t for n, t in tensors.items() if t is not None})
    with pytest.raises(errors.UserError, match=message) as caught:
        files.read(path)
    assert "x.npz" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 10
