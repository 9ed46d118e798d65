"""A model saved from Python is one that every command takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import vit_jax
from vit_jax import convert, errors, evaluate, models, predict
from vit_jax.checkpoints import checkpoint
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.weights import pretrained

NAMES = tuple("abcdefghij")
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)


def create(name="mu/4", **options):
    options = {"num_classes": 10, "image_size": 16} | options
    model = vit_jax.create_model(name, **options)
    # A head of zeros would make all logits equal whatever the rest is.
    head = getattr(model, "head", None)
    if head is not None:
        rng = np.random.default_rng(1)
        head.kernel[...] = rng.normal(size=head.kernel.shape).astype(np.float32)
    return model


@pytest.fixture(scope="module")
def model():
    return create(depth=1)


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "new" / "model"
    given = Preprocessing((16, 16), "resize_small_crop", resize=20, std=(64.0,) * 3)
    assert vit_jax.save(model, path, preprocessing=given, label_names=NAMES) == path
    return path


def test_what_is_loaded_is_what_was_saved(model, saved):
    loaded = vit_jax.load(saved)
    np.testing.assert_array_equal(loaded.model(IMAGES), model(IMAGES))
    assert loaded.architecture == model.architecture
    assert loaded.label_names == NAMES and loaded.dialect == "vit_jax"
    assert loaded.preprocessing.resize == 20 and loaded.preprocessing.std == (64,) * 3
    assert vit_jax.load(saved, num_classes=3).label_names is None


@pytest.mark.parametrize(
    "name, options", [("Mixer-S/32", {"depth": 1, "width": 16}), ("BiT-R26x1", {})]
)
def test_other_families_are_saved_too(name, options, tmp_path):
    architecture = models.architecture(name, num_classes=2, image_size=32, **options)
    leaves = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 0.5, leaf.dtype),
        models.abstract(architecture)[1],
    )
    model = models.merge(models.abstract(architecture)[0], leaves)
    stored = checkpoint.StoredParams(vit_jax.save(model, tmp_path / "model"))
    assert stored.description.architecture == architecture
    assert (stored.read("head/bias") == 0.5).all()


def test_a_model_is_saved_as_it_is_now(model, tmp_path):
    changed = nnx.clone(model)
    slope = np.arange(32, dtype=np.float32).reshape(1, 1, 32)
    changed.cls[...] = changed.cls[...] + slope
    loaded = vit_jax.load(vit_jax.save(changed, tmp_path / "model"))
    np.testing.assert_array_equal(loaded.model(IMAGES), changed(IMAGES))
    assert np.abs(loaded.model(IMAGES) - model(IMAGES)).max() > 0.1
    assert loaded.preprocessing == Preprocessing((16, 16))


def test_halves_are_stored_as_float32(model, tmp_path):
    model = nnx.clone(model)
    model.head.kernel.set_value(model.head.kernel[...].astype(jnp.bfloat16))
    stored = checkpoint.StoredParams(vit_jax.save(model, tmp_path / "model"))
    kernel = stored.read("head/kernel")
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, model.head.kernel[...].astype(jnp.float32))


def test_predict_names_what_the_model_says(model, saved, tmp_path):
    pixels = np.random.default_rng(2).integers(0, 256, (30, 20, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    [entry] = predict.run(str(saved), [str(tmp_path / "a.png")], top_k=10)
    logits = model(vit_jax.load(saved).images([pixels]))
    wanted = np.asarray(jax.nn.softmax(logits))[0]
    for one in entry["top"]:
        assert one["name"] == NAMES[one["label"]]
        assert one["probability"] == pytest.approx(wanted[one["label"]], rel=1e-4)


def test_several_labels_are_sigmoids(model, tmp_path):
    path = vit_jax.save(model, tmp_path / "model", problem="multi_label")
    Image.new("RGB", (16, 16), (9, 99, 199)).save(tmp_path / "a.png")
    [entry] = predict.run(str(path), [str(tmp_path / "a.png")], top_k=10)
    total = sum(one["probability"] for one in entry["top"])
    logits = model(vit_jax.load(path).images([tmp_path / "a.png"]))
    assert total == pytest.approx(float(jax.nn.sigmoid(logits).sum()), rel=1e-4)
    assert abs(total - 1) > 0.1


def test_numbers_of_a_regression_are_numbers(model, tmp_path):
    path = vit_jax.save(model, tmp_path / "model", problem="regression")
    Image.new("RGB", (16, 16), (9, 99, 199)).save(tmp_path / "a.png")
    [entry] = predict.run(str(path), [str(tmp_path / "a.png")], top_k=10)
    logits = model(vit_jax.load(path).images([tmp_path / "a.png"]))
    values = {one["label"]: one["value"] for one in entry["values"]}
    np.testing.assert_allclose([values[k] for k in sorted(values)], logits[0], 1e-5)


def test_evaluate_measures_it(tmp_path):
    model = create(depth=1, image_size=8)
    path = vit_jax.save(model, tmp_path / "model")
    figures = evaluate.run(str(path), "digits", split="test[:64]", batch_size=64)
    assert 0 <= figures["top1"] <= 1 and figures["split"] == "test[:64]"


@pytest.mark.parametrize("dialect, target", [("google", "m.npz"), ("vit_jax", "m")])
def test_convert_writes_it_for_other_codes(dialect, target, model, saved, tmp_path):
    convert.run(str(saved), tmp_path / target, dialect)
    again = vit_jax.load(tmp_path / target)
    np.testing.assert_allclose(again.model(IMAGES), model(IMAGES), atol=1e-6)


def test_a_checkpoint_of_a_run_can_be_saved_and_loaded_again(saved, tmp_path):
    loaded = vit_jax.load(saved, image_size=24)
    path = vit_jax.save(
        loaded.model,
        tmp_path / "larger",
        preprocessing=loaded.preprocessing,
        label_names=loaded.label_names,
    )
    assert vit_jax.load(path).preprocessing == loaded.preprocessing
    fields = {"transform": "resize_small_crop", "resize": 30, "mean": [120, 110, 100]}
    path = vit_jax.save(loaded.model, tmp_path / "fields", preprocessing=fields)
    assert vit_jax.load(path).preprocessing.mean == (120, 110, 100)
    assert vit_jax.load(path).preprocessing.image_size == (24, 24)


def test_an_empty_folder_is_taken_and_nothing_else(model, tmp_path):
    (tmp_path / "empty").mkdir()
    vit_jax.save(model, tmp_path / "empty")
    assert vit_jax.load(tmp_path / "empty").architecture == model.architecture


class Wrapped(nnx.Module):
    def __init__(self, inner):
        self.inner = inner


def other_head(model):
    model = nnx.clone(model)
    model.head = nnx.Linear(32, 5, rngs=nnx.Rngs(0))
    return model


# What is saved in place of a model, and what the error says.
NO_MODELS = {
    "a path": (lambda model: "model", "got a str"),
    "none": (lambda model: None, "got a NoneType"),
    "parameters": (lambda model: models.split(model)[1], "got a dict"),
    "a state": (lambda model: nnx.state(model), "got a State"),
    "the class": (type, "got the class VisionTransformer"),
    "another module": (
        lambda model: nnx.Linear(2, 2, rngs=nnx.Rngs(0)),
        "got a module Linear without one's architecture",
    ),
    "a wrapper": (Wrapped, "got a module Wrapped"),
    "an architecture": (lambda model: model.architecture, "got a VitArchitecture"),
    "abstract": (
        lambda model: nnx.eval_shape(lambda: create_abstract(model)),
        "no values",
    ),
    "loaded": (
        lambda model: pretrained.Loaded(
            model, model.architecture, Preprocessing((16, 16)), None, "", "vit_jax"
        ),
        "save(loaded.model, path, preprocessing=loaded.preprocessing",
    ),
    "another head": (
        other_head,
        "head/bias: the model has (5,), its architecture (10,)",
    ),
}


def create_abstract(model):
    return type(model)(model.architecture, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("case", NO_MODELS)
def test_what_is_no_model_is_one_error(case, model, tmp_path):
    make, shown = NO_MODELS[case]
    with pytest.raises(errors.UserError) as error:
        vit_jax.save(make(model), tmp_path / "model")
    assert shown in str(error.value) and str(error.value).count("\n") < 10
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, shown",
    [
        ({"label_names": NAMES[:3]}, "holds 3 names, the model has 10 outputs"),
        ({"label_names": "abcdefghij"}, "want one text for each output"),
        ({"label_names": range(10)}, "want one text for each output"),
        ({"preprocessing": Preprocessing((8, 8))}, "images of 8x8 pixels, the model"),
        ({"preprocessing": {"meen": [1, 2, 3]}}, "unknown keys ['meen']"),
        ({"preprocessing": [127.5] * 3}, "preprocessing is a list"),
        ({"problem": "multilabel"}, 'Did you mean "multi_label"?'),
    ],
)
def test_what_does_not_fit_the_model_is_one_error(options, shown, model, tmp_path):
    with pytest.raises(errors.UserError) as error:
        vit_jax.save(model, tmp_path / "model", **options)
    assert shown in str(error.value) and not list(tmp_path.iterdir())


def full(root):
    (root / "run").mkdir()
    (root / "run" / "config.json").write_text("{}")
    return root / "run", "holds files; want a new or an empty folder"


def file(root):
    (root / "model").write_text("")
    return root / "model", "is a file"


def below_a_file(root):
    (root / "file").write_text("")
    return root / "file" / "model", "cannot be written"


def step_of_a_run(root):
    return root / "run" / "checkpoints" / "500", "where a run keeps its step 500"


def file_of_another_code(root):
    return root / "m.safetensors", "vit_jax.convert m m.safetensors --dialect=NAME"


def url(root):
    return "gs://bucket/model", "is a URL"


@pytest.mark.parametrize(
    "make", [full, file, below_a_file, step_of_a_run, file_of_another_code, url]
)
def test_nothing_is_overwritten(make, model, tmp_path):
    path, shown = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(errors.UserError) as error:
        vit_jax.save(model, path)
    assert shown in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_saved_model_is_not_overwritten(model, saved):
    with pytest.raises(errors.UserError, match="holds a checkpoint; want a new"):
        vit_jax.save(model, saved)


def test_a_write_that_fails_leaves_no_model(model, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint.ocp.JsonCheckpointHandler, "save", fail)
    monkeypatch.setattr(checkpoint.ocp.JsonCheckpointHandler, "async_save", fail, False)
    with pytest.raises(errors.UserError, match="no space left"):
        vit_jax.save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    monkeypatch.undo()
    vit_jax.save(model, tmp_path / "model")
    assert vit_jax.load(tmp_path / "model").architecture == model.architecture
