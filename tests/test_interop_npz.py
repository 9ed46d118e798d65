"""Files of the reference implementations: their outputs, round trips, damage."""

import io
import logging
import zipfile

import jax
import numpy as np
import pytest

from vit_jax import errors, interop, models, tree
from vit_jax.interop import npz


def model_of(weights):
    graphdef, _ = models.abstract(weights.architecture)
    params = jax.tree.map(jax.numpy.asarray, weights.params)
    return models.merge(graphdef, params)


@pytest.mark.parametrize("name", ["vit_token", "bv_tok", "hybrid_r_stem_only"])
def test_logits_are_those_of_the_reference(golden, name):
    weights = interop.read(golden / f"{name}.npz")
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
    weights = interop.read(golden / "vit_token.npz", image_size=48)
    expected = np.load(golden / "vit_token_at48_io.npz")
    posemb = weights.params["posemb"]
    np.testing.assert_allclose(posemb, expected["pos_embedding"], atol=1e-6)
    logits = model_of(weights)(expected["images"])
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4, rtol=0)
    assert weights.architecture.image_size == weights.preprocessing.image_size
    with pytest.raises(errors.UserError, match="48x48, 56x56"):
        interop.read(golden / "vit_token.npz", image_size=50)


@pytest.mark.parametrize("name", ["vit_token", "bv_tok", "hybrid_r_stem_only"])
def test_reading_and_writing_back_is_exact(golden, tmp_path, name):
    path = golden / f"{name}.npz"
    interop.write(interop.read(path), tmp_path / "back.npz")
    back, original = np.load(tmp_path / "back.npz"), np.load(path)
    assert set(back.files) == set(original.files)
    for key in original.files:
        assert back[key].dtype == original[key].dtype
        assert np.array_equal(back[key], original[key])


@pytest.mark.parametrize("dialect", list(interop.DIALECTS))
def test_every_dialect_gives_the_same_forward_pass(golden, tmp_path, dialect):
    weights = interop.read(golden / "vit_token.npz")
    interop.write(weights, tmp_path / "x.npz", dialect)
    again = interop.read(tmp_path / "x.npz")
    assert (again.dialect, again.architecture) == (dialect, weights.architecture)
    images = np.load(golden / "vit_token_io.npz")["images"]
    logits = [model_of(w)(images) for w in (weights, again)]
    np.testing.assert_allclose(*logits, atol=1e-5)


def fresh(name="mu/8", **options):
    options = {"num_classes": 5, "image_size": 64} | options
    arch = models.architecture(name, **options)
    _, like = models.abstract(arch)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), like
    )
    return interop.Weights(arch, params, None, "google_old")


@pytest.mark.parametrize(
    "options",
    [
        {"pre_logits": True},
        {"pool": "mean"},
        {"num_classes": 0},
        {"patch": (8, 4), "image_size": (64, 32)},
        {"resnet": (1, 2), "resnet_width": 32, "patch": (2, 2)},
    ],
    ids=str,
)
def test_the_architecture_is_read_from_the_tensors(tmp_path, options):
    weights = fresh(depth=2, **options)
    interop.write(weights, tmp_path / "x.npz")
    again = interop.read(tmp_path / "x.npz")
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
    leaves = {
        key: np.broadcast_to(np.float32(0), leaf.shape)
        for key, leaf in tree.named_leaves(params)
    }
    assert interop.infer(leaves) == arch


def test_a_grid_that_is_no_square_needs_its_image_size(tmp_path):
    weights = fresh(image_size=(64, 24))
    interop.write(weights, tmp_path / "x.npz")
    with pytest.raises(errors.UserError, match="24 entries.*pass the image_size"):
        interop.read(tmp_path / "x.npz")
    again = interop.read(tmp_path / "x.npz", image_size=(64, 24))
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
            weights = interop.read(save(tmp_path / f"{name}.npz", content))
        assert weights.dialect == "big_vision"
        assert np.array_equal(weights.params["cls"], bare["cls"])
    assert "opt/state/step" in caplog.text


def test_bfloat16_saved_as_void_is_read(golden, tmp_path):
    tensors = dict(np.load(golden / "vit_token.npz"))
    half = {n: t.astype(jax.numpy.bfloat16).view("V2") for n, t in tensors.items()}
    weights = interop.read(save(tmp_path / "x.npz", half))
    rounded = tensors["cls"].astype(jax.numpy.bfloat16).astype(np.float32)
    assert np.array_equal(weights.params["cls"], rounded)


def test_a_zeroed_head_is_said(golden, tmp_path, caplog):
    tensors = dict(np.load(golden / "vit_token.npz"))
    tensors["head/kernel"] = np.zeros_like(tensors["head/kernel"])
    interop.read(save(tmp_path / "x.npz", tensors))
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
        ({"embedding/kernel": np.zeros((8, 8, 4, 32))}, "patch_embed/kernel"),
        ({"embedding/kernel": np.zeros(0)}, "want 4 axes"),
        ({"Transformer/posembed_input/pos_embedding": None}, "of no layout we know"),
    ],
)
def test_tensors_that_do_not_fit_are_named(golden, tmp_path, change, message):
    tensors = dict(np.load(golden / "vit_token.npz")) | change
    path = save(tmp_path / "x.npz", {n: t for n, t in tensors.items() if t is not None})
    with pytest.raises(errors.UserError, match=message) as caught:
        interop.read(path)
    assert "x.npz" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 10


def test_other_networks_are_refused_with_some_of_their_names(golden):
    with pytest.raises(errors.UserError, match="(?s)no layout we know.*MixerBlock_0"):
        interop.read(golden / "mixer.npz")


def test_truncated_files_are_one_clear_error(golden, tmp_path):
    data = (golden / "vit_token.npz").read_bytes()
    path = tmp_path / "x.npz"
    for share in (0, 0.1, 0.5, 0.99):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(errors.UserError, match="copy it again"):
            npz.read(path)


def test_a_flipped_bit_is_an_error_or_changes_nothing(golden, tmp_path):
    path = golden / "vit_token.npz"
    original = {n: a.tobytes() for n, a in npz.read(path).items()}
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    broken = tmp_path / "x.npz"
    errors_seen = 0
    for position in rng.integers(len(data), size=200):
        flipped = bytearray(data)
        flipped[position] ^= 1 << int(rng.integers(8))
        broken.write_bytes(flipped)
        try:
            found = {n: a.tobytes() for n, a in npz.read(broken).items()}
        except errors.UserError:
            errors_seen += 1
        else:
            assert found == original
    assert errors_seen > 100


def archive(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return path


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_bombs_lies_pickles_and_paths_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    lie = npy(np.zeros((3, 3))).replace(b"(3, 3)", b"(9, 9)")
    pickled = io.BytesIO()
    np.save(pickled, np.array([print], object), allow_pickle=True)
    for members, message in {
        ("a.npy", npy(np.zeros(10**7))): "claim to unpack to 80,000,128: refused",
        ("a.npy", lie): "claims shape",
        ("a.npy", pickled.getvalue()): "pickled objects are not read",
        ("../a.npy", npy(np.zeros(3))): "no array's name",
        ("/a.npy", npy(np.zeros(3))): "no array's name",
        ("a.txt", b"hello"): "no array's name",
    }.items():
        with pytest.raises(errors.UserError, match=message):
            npz.read(archive(path, dict([members])))
