"""The notebook's code cells, run as they stand with a tiny model and no network."""

import json
import logging
import runpy
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from flax import nnx

from vit_jax import models
from vit_jax.checkpoints import checkpoint
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.weights import files

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOK = REPOSITORY / "launch" / "colab.ipynb"


def cells(kind):
    content = json.loads(NOTEBOOK.read_text())
    return ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == kind]


@pytest.fixture
def address(tmp_path):
    """The URL of a published checkpoint: a tiny ViT in Google's dialect."""
    architecture = models.architecture("mu/4", num_classes=5, image_size=16, depth=1)
    _, params = models.split(models.create(architecture, rngs=nnx.Rngs(0)))
    half = Preprocessing(architecture.image_size)
    weights = files.Weights(architecture, params, half, "google")
    files.write(weights, tmp_path / "tiny.npz", "google")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/tiny.npz"
        server.shutdown()


@pytest.mark.slow
def test_the_notebook_fine_tunes_evaluates_and_predicts(
    address, tmp_path, monkeypatch, capsys
):
    parameters = {
        "REPOSITORY": "",
        "DATASET": "digits",
        "DOWNLOAD": "",
        "TRAIN_SPLIT": "train",
        "TEST_SPLIT": "test",
        "CHECKPOINT": address,
        "IMAGE_SIZE": "16",
        "STEPS": "8",
        "BATCH_SIZE": "32",
        "WORKDIR": str(tmp_path / "run"),
        "VIT_JAX_CACHE": str(tmp_path / "cache"),
    }
    for name, value in parameters.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    level = logging.getLogger().level
    try:
        (tmp_path / "notebook.py").write_text("\n\n".join(cells("code")))
        runpy.run_path(str(tmp_path / "notebook.py"), run_name="__main__")
    finally:
        logging.getLogger().setLevel(level)
    said = capsys.readouterr().out
    assert "10 classes" in said and "359 images" in said
    description = checkpoint.describe(tmp_path / "run")
    assert description.step == 8 and description.label_names == tuple("0123456789")
    guesses = said.splitlines()[-5:]
    assert all(line.split()[1] in "0123456789" for line in guesses)
    assert sum(float(line.split()[0]) for line in guesses) <= 1.01


def test_the_notebook_is_clean_and_complete():
    content = json.loads(NOTEBOOK.read_text())
    code = [c for c in content["cells"] if c["cell_type"] == "code"]
    assert content["nbformat"] == 4 and content["metadata"]["accelerator"] == "TPU"
    assert all(not c["outputs"] and c["execution_count"] is None for c in code)
    assert len({c["id"] for c in content["cells"]}) == len(content["cells"])
    assert "vit_jax.main --config=configs/finetune.py" in "".join(cells("markdown"))
