import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from cases import CASES, expected
from flax import nnx
from PIL import Image

from vit_jax import convert, errors, models, predict
from vit_jax.checkpoints import checkpoint, manager
from vit_jax.data import catalog, preprocessing
from vit_jax.learning import step
from vit_jax.weights import files, pretrained

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three digits as image files of different kinds, and one that is no image."""
    folder = tmp_path_factory.mktemp("photos")
    source = catalog.open_source("digits", "test")
    paths = [folder / name for name in ("a.png", "b.jpg", "c.bmp")]
    for index, path in enumerate(paths):
        pixels = np.broadcast_to(source[index]["image"], (8, 8, 3))
        Image.fromarray(pixels).resize((20, 32)).save(path)
    (folder / "notes.txt").write_text("no image")
    return [str(path) for path in [*paths, folder / "notes.txt"]]


def write_checkpoint(workdir, *, loss="sigmoid", num_classes=7):
    """A checkpoint as a run leaves it, with a random model."""
    options = dict(width=16, depth=1, mlp_width=32, heads=2, num_classes=num_classes)
    architecture = models.architecture("Ti/8", image_size=16, **options)
    model = models.create(architecture, rngs=nnx.Rngs(0))
    params = models.split(model)[1]
    if num_classes:
        params["head"]["kernel"] = jax.random.normal(
            jax.random.key(1), params["head"]["kernel"].shape
        )
    state = step.init_state(params, optax.identity(), ema=False)
    description = checkpoint.Description(
        architecture=architecture,
        preprocessing=preprocessing.Preprocessing((16, 16)),
        label_names=NAMES if num_classes else None,
        config={"loss": loss},
        step=0,
    )
    checkpoints = manager.Checkpoints(workdir)
    checkpoints.save(state, description)
    checkpoints.close()
    return str(workdir)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_probabilities_are_those_the_checkpoint_was_trained_for(tmp_path, photos, loss):
    path = write_checkpoint(tmp_path, loss=loss)
    entries = predict.run(path, photos[:3], top_k=99)
    loaded = pretrained.load(path)
    logits = np.asarray(loaded.model(loaded.images(photos[:3])))
    activation = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid}[loss]
    for photo, entry, row in zip(photos, entries, np.asarray(activation(logits))):
        assert entry["image"] == photo
        order = np.argsort(-row)
        assert [c["label"] for c in entry["top"]] == order.tolist()
        assert [c["name"] for c in entry["top"]] == [NAMES[i] for i in order]
        np.testing.assert_allclose(
            [c["probability"] for c in entry["top"]], row[order], rtol=1e-5
        )


def test_more_files_than_a_batch_keep_their_order(tmp_path, photos, monkeypatch):
    path = write_checkpoint(tmp_path)
    files = [photos[i % 4] for i in range(10)]
    whole = predict.run(path, files)
    monkeypatch.setattr(predict, "BATCH", 3)
    parts = predict.run(path, files)
    assert [e["image"] for e in parts] == files
    for one, other in zip(whole, parts):
        assert ("error" in one) == ("error" in other)
        assert [c["label"] for c in one.get("top", [])] == [
            c["label"] for c in other.get("top", [])
        ]


def test_a_published_checkpoint_at_once(golden, photos):
    (entry,) = predict.run(str(golden / "vit_token.npz"), photos[:1], top_k=3)
    probabilities = [c["probability"] for c in entry["top"]]
    assert len(probabilities) == 3 and probabilities == sorted(probabilities)[::-1]
    assert {c["name"] for c in entry["top"]} == {None}


def test_the_command_predicts_the_others_and_exits_with_2(tmp_path, photos):
    path = write_checkpoint(tmp_path)
    files = [photos[3], photos[0], str(tmp_path / "none.png")]
    command = [sys.executable, "-m", "vit_jax.predict", f"--checkpoint={path}"]
    done = subprocess.run(
        [*command, "--top_k=1", *files], capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert [e["image"] for e in last["predictions"]] == files
    assert "notes.txt" in last["predictions"][0]["error"]
    assert list(last["predictions"][1]["top"][0]) == ["label", "name", "probability"]
    assert "none.png" in last["predictions"][2]["error"]
    assert "Traceback" not in done.stderr and "notes.txt" in done.stderr
    assert "\nerror: 2 of 3 images could not be read" in done.stderr


def test_what_cannot_be_predicted_is_a_clear_error(tmp_path, photos):
    with pytest.raises(errors.UserError, match="does not exist"):
        predict.run(str(tmp_path / "none.npz"), photos)
    with pytest.raises(errors.UserError, match="want image files"):
        predict.run("any", [])
    with pytest.raises(errors.UserError, match="top_k=0"):
        predict.run("any", photos, top_k=0)
    with pytest.raises(errors.UserError, match="has no head"):
        predict.run(write_checkpoint(tmp_path, num_classes=0), photos)


def scores(checkpoint_path):
    """{output: entry} of one image."""
    image = str(CASES / "predict_hf_folder" / "image.png")
    (entry,) = predict.run(str(checkpoint_path), [image])
    return {c["label"]: c for c in entry["top"]}


def changed(tmp_path, name, **changes):
    """A copy of a case's folder with some of its config.json replaced."""
    folder = tmp_path / "hf"
    shutil.copytree(CASES / name / "hf", folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_of_transformers_is_what_its_file_is():
    case = CASES / "predict_hf_folder"
    found = scores(case / "hf")
    assert found == scores(case / "hf" / "model.safetensors")
    probabilities = [found[i]["probability"] for i in range(5)]
    right = expected("predict_hf_folder")["probabilities"]
    np.testing.assert_allclose(probabilities, right, atol=1e-5)


def test_a_multi_label_checkpoint_has_one_sigmoid_a_class():
    case = CASES / "multi_label_sigmoid"
    (entry,) = predict.run(str(case / "hf"), [str(case / "image.png")])
    right = expected("multi_label_sigmoid")["pipeline"]
    assert [c["name"] for c in entry["top"]] == sorted(right, key=right.get)[::-1]
    for found in entry["top"]:
        assert found["probability"] == pytest.approx(right[found["name"]], abs=1e-5)


@pytest.mark.parametrize(
    "names",
    [
        {"0": "a", "1": "b", "2": "c"},
        {str(i): "a" for i in range(6)},
        {str(i): "a" for i in range(1, 6)},
        {"0": "a", "1": "b", "2": "c", "3": "d", "x": "e"},
        {str(i): None for i in range(5)},
        {str(i): {"name": "a"} for i in range(5)},
        ["a", "b", "c"],
        "abcde",
        7,
        {},
    ],
)
def test_names_that_do_not_fit_the_outputs_are_left_out(tmp_path, names, caplog):
    folder = changed(tmp_path, "id2label_short", id2label=names)
    found = scores(folder)
    assert len(found) == 5 and {c["name"] for c in found.values()} == {None}
    warned = [r for r in caplog.records if r.levelname == "WARNING"]
    assert len(warned) == (1 if names else 0)


def test_short_names_are_left_out_with_one_warning(caplog):
    found = scores(CASES / "id2label_short" / "hf")
    assert {c["name"] for c in found.values()} == {None}
    assert "names 3 classes, its head has 5 outputs" in caplog.text


def test_a_regression_is_numbers(tmp_path):
    folder = changed(tmp_path, "predict_hf_folder", problem_type="regression")
    image = str(CASES / "predict_hf_folder" / "image.png")
    loaded = pretrained.load(folder)
    logits = np.asarray(loaded.model(loaded.images([image])))[0]
    (entry,) = predict.run(str(folder), [image], top_k=1)
    assert [v["value"] for v in entry["values"]] == pytest.approx(logits.tolist())
    assert [v["name"] for v in entry["values"]] == list(loaded.label_names)
    assert "top" not in entry
    assert predict._line(entry).startswith(f"c0 {logits[0]:.4f}, c1 ")


def test_an_unknown_problem_is_an_error(tmp_path):
    folder = changed(tmp_path, "predict_hf_folder", problem_type="ranking")
    with pytest.raises(errors.UserError, match="problem_type='ranking'; ours: single"):
        pretrained.load(folder)


def weights(num_classes, problem, names=None):
    options = dict(width=16, depth=1, mlp_width=32, heads=2, num_classes=num_classes)
    arch = models.architecture(
        "Ti/8", image_size=16, pre_logits=False, gelu="erf", **options
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32),
        models.abstract(arch)[1],
    )
    prepared = preprocessing.Preprocessing((16, 16), filter="bilinear")
    return files.Weights(arch, params, prepared, "", names, problem=problem)


def test_one_output_is_a_sigmoid(tmp_path, photos):
    files.write(weights(1, "multi_label"), tmp_path, "hf_vit")
    (entry,) = predict.run(str(tmp_path), photos[:1])
    loaded = pretrained.load(tmp_path)
    logit = float(loaded.model(loaded.images(photos[:1]))[0, 0])
    (found,) = entry["top"]
    assert found["probability"] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-4)


@pytest.mark.parametrize(
    ("dialect", "classes", "kept"),
    [
        ("hf_vit", 7, ["single_label", "multi_label", "regression"]),
        ("hf_vit", 1, ["multi_label", "regression"]),
        ("timm", 7, ["single_label"]),
        ("timm", 1, ["multi_label"]),
    ],
)
def test_a_dialect_keeps_what_outputs_are_or_says_that_it_cannot(
    tmp_path, dialect, classes, kept, caplog
):
    for problem in ("single_label", "multi_label", "regression"):
        caplog.clear()
        path = tmp_path / problem
        files.write(weights(classes, problem), path, dialect)
        assert (files.read(path, heads=2).problem == problem) == (problem in kept)
        said = f"does not say that outputs are of the kind {problem}" in caplog.text
        assert said == (problem not in kept)


def test_converting_to_ours_keeps_what_outputs_are(tmp_path):
    names = tuple("abcdefg")
    files.write(weights(7, "regression", names), tmp_path / "hf", "hf_vit")
    convert.run(str(tmp_path / "hf"), tmp_path / "ours", "vit_jax")
    loaded = pretrained.load(tmp_path / "ours")
    assert (loaded.problem, loaded.label_names) == ("regression", names)
    other = pretrained.load(tmp_path / "ours", num_classes=4)
    assert (other.problem, other.label_names) == ("single_label", None)
