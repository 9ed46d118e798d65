"""Every line of Python in the README, run as it stands on tiny models, no network."""

import re
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest
import test_augreg
import torch_files
from PIL import Image

import vit_jax
from vit_jax import convert, models, predict, tree
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.weights import augreg, files, remote
from vit_jax.weights.formats import safetensors

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PYTHON = [text for language, text in BLOCKS if language == "python"]
LOOP = next(text for text in PYTHON if "vit_jax.save" in text)
COMMANDS = BLOCKS[[text for _, text in BLOCKS].index(LOOP) + 1][1]


def write(path, dialect, **options):
    """Weights of a ViT with 12 heads in the files that the README names."""
    options = {"width": 24, "heads": 12, "depth": 1, "image_size": 32} | options
    architecture = models.architecture("mu/16", num_classes=5, **options)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32),
        models.abstract(architecture)[1],
    )
    half = Preprocessing(architecture.image_size)
    weights = files.Weights(architecture, params, half, dialect)
    files.write(weights, path, dialect)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the files that the README names."""
    root = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    for name in ("cat.jpg", "dog.png"):
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(root / name)
    write(root / "ViT-B_16.npz", "google")
    write(root / "model.safetensors", "timm", gelu="erf")
    with safetensors.open(root / "model.safetensors") as tensors:
        teacher = {name: tensors.read(name) for name in tensors}
    torch_files.save(root / "dino_checkpoint.pth", {"teacher": teacher})
    test_augreg.write(root / "index.csv")
    write(root / "hub", "hf_vit", gelu="erf", norm_epsilon=1e-12)
    return root


@pytest.fixture
def offline(place, monkeypatch):
    """What a URL of the README brings, and a small model for a large one's name."""
    kinds = {"gs": "ViT-B_16.npz", "hf": "hub", "https": "model.safetensors"}
    asked = []

    def fetch(address, *args, **options):
        if address == augreg.INDEX:
            return place / "index.csv"
        asked.append(address)
        return place / kinds[address.split("://")[0]]

    monkeypatch.setattr(remote, "fetch", fetch)
    name_of = vit_jax.create_model

    def create_model(name, **options):
        return name_of(name.replace("B/16", "mu/16"), **options | {"image_size": 32})

    monkeypatch.setattr(vit_jax, "create_model", create_model)
    monkeypatch.chdir(place)
    return asked


def execute(*blocks):
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102
    return names


def test_the_readme_has_these_blocks_of_python():
    first, addresses, loop, exported = PYTHON
    assert "export.deserialize" in exported  # tests/test_exporting.py runs it
    assert "create_model" in first and "hf://" in addresses and "nnx.jit" in loop


def test_models_are_made_and_loaded_as_the_readme_says(offline):
    names = execute(PYTHON[0].replace("image_size=384", "image_size=48"))
    assert names["model"].architecture.num_classes == 10
    assert names["loaded"].architecture.image_size == (48, 48)
    assert names["logits"].shape == (2, 5) and names["features"].shape == (2, 24)


def test_every_address_of_the_readme_is_understood(offline):
    execute("import vit_jax\n" + PYTHON[1].replace("sha256=...", "sha256=" + 64 * "0"))
    first, augreg_file, *rest = offline
    assert first == "gs://vit_models/imagenet21k/ViT-B_16.npz"
    assert augreg_file == augreg.resolve("augreg:B/16,imagenet2012,384")
    assert rest == [
        "hf://google/vit-base-patch16-224",
        "hf://timm/vit_base_patch16_224.augreg_in21k",
        "https://example.org/model.safetensors#sha256=" + 64 * "0",
        augreg.resolve("augreg:B/16"),
        augreg.resolve("augreg:B/16"),
    ]


def test_the_readmes_loop_trains_saves_loads_predicts_and_converts(offline, place):
    before = vit_jax.load(place / "ViT-B_16.npz", num_classes=3).params
    names = execute("import vit_jax\n" + LOOP)
    model, images = names["model"], names["images"]
    after = vit_jax.load("pets")
    changed = {
        name
        for (name, old), (_, new) in zip(
            tree.named_leaves(before), tree.named_leaves(after.params), strict=True
        )
        if not np.array_equal(old, new)
    }
    assert changed == {"head/kernel", "head/bias"}
    assert float(names["value"]) < np.log(3)
    np.testing.assert_array_equal(names["logits"], model(images))
    assert names["patches"].shape == (2, 4, 24)
    np.testing.assert_array_equal(names["patches"], names["tokens"][:, 1:])

    lines = [shlex.split(line) for line in COMMANDS.splitlines()]
    assert [line[:3] for line in lines] == [
        ["python", "-m", "vit_jax.predict"],
        ["python", "-m", "vit_jax.convert"],
    ]
    [checkpoint], paths = [lines[0][3].removeprefix("--checkpoint=")], lines[0][4:]
    entries = predict.run(checkpoint, paths)
    wanted = [names["names"][k] for k in np.argmax(model(images), axis=1)]
    assert [entry["top"][0]["name"] for entry in entries] == wanted
    source, target, dialect = lines[1][3:]
    convert.run(source, target, dialect.removeprefix("--dialect="))
    again = vit_jax.load(target, heads=12)
    np.testing.assert_allclose(again.model(images), model(images), atol=1e-5)
