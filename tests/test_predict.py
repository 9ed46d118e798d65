import json
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

from vit_jax import checkpoint, errors, models, predict, pretrained, step
from vit_jax.data import catalog, preprocessing

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
    checkpoints = checkpoint.Checkpoints(workdir)
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


def test_what_cannot_be_predicted_is_a_clear_error(tmp_path, photos):
    with pytest.raises(errors.UserError, match="does not exist"):
        predict.run(str(tmp_path / "none.npz"), photos)
    with pytest.raises(errors.UserError, match="want image files"):
        predict.run("any", [])
    with pytest.raises(errors.UserError, match="top_k=0"):
        predict.run("any", photos, top_k=0)
    with pytest.raises(errors.UserError, match="has no head"):
        predict.run(write_checkpoint(tmp_path, num_classes=0), photos)
