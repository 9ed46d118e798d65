"""Exports: the same numbers from a file that needs nothing of vit_jax."""

import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vit_jax
from vit_jax import errors, models
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.weights.exporting import flat, formats, served, writing
from vit_jax.weights.loaded import Loaded

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
LABELS = ("cat", "dog, hound", "Ötzi")
FAMILIES = {
    "vit": ("Ti/16", {"depth": 2}),
    "map, erf": ("Ti/16", {"depth": 2, "pool": "map", "gelu": "erf"}),
    "hybrid": ("R26+Ti/32", {"depth": 1}),
    "bit": ("BiT-R26x1", {}),
    "mixer": ("Mixer-S/16", {"depth": 2}),
    "rotary": (
        "Ti/16",
        {"depth": 2, "posemb": "none", "rope": "mixed", "image_size": (32, 48)},
    ),
    "axial": ("Axial-B/32", {"depth": 1, "width": 96, "heads": 3}),
}


def loaded(name="Ti/16", problem="single_label", **options):
    options = {"num_classes": len(LABELS), "image_size": 32} | options
    model = vit_jax.create_model(name, **options)
    draw = np.random.default_rng(0)
    # a new head is zero, and would make all outputs equal
    moved = jax.tree.map(
        lambda x: x + 0.05 * draw.standard_normal(x.shape).astype(x.dtype),
        nnx.state(model),
    )
    nnx.update(model, moved)
    size = model.architecture.image_size
    prepared = Preprocessing(size, mean=(123.0, 116.0, 103.0), std=(58.0, 57.0, 57.5))
    labels = LABELS if options["num_classes"] else None
    return Loaded(
        model, model.architecture, prepared, labels, "here", "vit_jax", problem
    )


def expected(checkpoint, images):
    """The logits as a user of the model computes them."""
    mean = np.array(checkpoint.preprocessing.mean, np.float32)
    std = np.array(checkpoint.preprocessing.std, np.float32)
    return jax.jit(checkpoint.model)((images - mean) / std)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    checkpoint = loaded(depth=2)
    path = tmp_path_factory.mktemp("exported") / "tiny.stablehlo"
    return checkpoint, path, writing.export(checkpoint, path)


def test_a_file_alone_gives_our_logits_at_any_batch(exported, tmp_path):
    checkpoint, path, _ = exported
    images = np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    program = """
import sys
import numpy as np
from jax import export
exported = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
images = np.load(sys.argv[2])
assert exported.platforms == ("cpu", "cuda", "tpu")
for batch in (1, 7):
    found = exported.call(images[:batch])
    np.savez(f"{sys.argv[2]}.{batch}.npz", **found)
assert not [name for name in sys.modules if name.startswith("vit_jax")]
"""
    subprocess.run(
        [sys.executable, "-c", program, path, tmp_path / "images.npy"],
        check=True,
        cwd=tmp_path,
        env={"JAX_PLATFORMS": "cpu", "PYTHONPATH": ""},
    )
    for batch in (1, 7):
        found = np.load(tmp_path / f"images.npy.{batch}.npz")
        wanted = expected(checkpoint, images[:batch])
        np.testing.assert_allclose(found["logits"], wanted, rtol=0, atol=1e-5)
        np.testing.assert_allclose(
            found["probabilities"], jax.nn.softmax(wanted), rtol=0, atol=1e-6
        )
        assert np.ptp(found["logits"]) > 0.1  # so that a constant could not pass


def test_the_readmes_lines_run_an_export(exported, tmp_path, monkeypatch):
    checkpoint, path, _ = exported
    (lines,) = (
        block
        for block in re.findall(r"^```python\n(.*?)^```$", README, re.S | re.M)
        if "export.deserialize" in block
    )
    (tmp_path / "pets.stablehlo").write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(2).integers(0, 256, (3, 32, 32, 3), np.uint8)
    names = {"images": images}
    exec(compile(lines, "README.md", "exec"), names)  # noqa: S102
    assert names["labels"] == list(LABELS)
    np.testing.assert_array_equal(
        names["best"], expected(checkpoint, images).argmax(-1)
    )


def test_labels_and_preprocessing_are_in_the_file(exported):
    checkpoint, path, figures = exported
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(LABELS)
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["labels"] == list(LABELS)
    told = Preprocessing.from_dict(manifest["preprocessing"])
    assert told == checkpoint.preprocessing
    assert manifest["outputs"] == {
        "logits": "float32 [batch, 3]",
        "probabilities": "float32 [batch, 3]",
    }
    assert figures["difference"] <= 1e-5
    assert figures["bytes"] == path.stat().st_size


@pytest.mark.parametrize(
    "family",
    [
        family
        if family in ("map, erf", "mixer")
        else pytest.param(family, marks=pytest.mark.slow)
        for family in FAMILIES
    ],
)
def test_a_flat_program_computes_the_same(family):
    name, options = FAMILIES[family]
    model = served.served(loaded(name, **options))
    images = model.sample(2)
    (batch,) = jax.export.symbolic_shape("b")
    symbolic = jax.ShapeDtypeStruct((batch, *model.image_size, 3), jnp.uint8)
    call = flat.flat(model.call, symbolic)
    operations = {e.primitive.name for e in jax.make_jaxpr(call)(symbolic).jaxpr.eqns}
    assert not operations & {"scan", "while", "cond", "jit", "pjit", "remat2"}
    wanted = jax.tree.leaves(jax.jit(model.call)(images))
    for found, value in zip(
        jax.jit(flat.flat(model.call, images))(images), wanted, strict=True
    ):
        np.testing.assert_allclose(found, value, rtol=0, atol=1e-5)


def test_a_scan_may_run_backwards():
    def function(x):
        return jax.lax.scan(lambda c, row: (c * 0.5 + row, c), x[0], x, reverse=True)

    x = jnp.arange(6.0).reshape(3, 2)
    for found, wanted in zip(flat.flat(function, x)(x), function(x), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "problem, outputs",
    [
        ("multi_label", {"logits", "probabilities"}),
        ("regression", {"logits"}),
    ],
)
def test_probabilities_are_those_of_the_problem(problem, outputs):
    checkpoint = loaded(problem=problem, depth=1)
    model = served.served(checkpoint)
    images = model.sample(2)
    found = model.call(images)
    assert set(found) == outputs == set(model.manifest["outputs"])
    if "probabilities" in found:
        wanted = jax.nn.sigmoid(expected(checkpoint, images))
        np.testing.assert_allclose(found["probabilities"], wanted, rtol=0, atol=1e-6)


def test_without_a_head_features_are_exported():
    model = served.served(loaded(depth=1, num_classes=0))
    assert model.manifest["outputs"] == {"features": "float32 [batch, 192]"}
    assert (
        "labels.txt"
        not in zipfile.ZipFile(
            io.BytesIO(formats.with_files_behind(b"", model))
        ).namelist()
    )


def test_a_bfloat16_run_is_exported_in_float32():
    checkpoint = loaded(depth=1, compute_dtype="bfloat16", remat="full")
    plain = models.merge(
        models.abstract(loaded(depth=1).architecture)[0],
        models.split(checkpoint.model)[1],
    )
    model = served.served(checkpoint)
    images = model.sample(2)
    wanted = expected(
        Loaded(plain, plain.architecture, checkpoint.preprocessing, None, "", ""),
        images,
    )
    np.testing.assert_allclose(model.call(images)["logits"], wanted, atol=1e-5)


def refused(match, *args, **options):
    with pytest.raises(errors.UserError, match=match) as caught:
        writing.export(*args, **options)
    assert len(str(caught.value).splitlines()) <= 10


def test_what_cannot_be_exported_is_one_error(tmp_path, monkeypatch):
    checkpoint = loaded(depth=1)
    there = tmp_path / "there"
    there.write_text("mine")
    refused("is there", checkpoint, there)
    assert there.read_text() == "mine"
    new = tmp_path / "new"
    refused('Did you mean "stablehlo"', checkpoint, new, format="stablehl0")
    refused("every token", loaded(depth=1, pool="none"), new)
    refused("channels", loaded(depth=1, channels=1), new)
    refused("cannot be written", checkpoint, there / "below")
    monkeypatch.setattr(writing, "MOST_BYTES", 1000)
    refused("hold less than 2", checkpoint, new)
    absent = formats.Format("", None, None, ("no_such_tool",), "pip install it")
    monkeypatch.setitem(formats.FORMATS, "absent", absent)
    refused(
        "no_such_tool, not installed here; run pip", checkpoint, new, format="absent"
    )
    assert list(tmp_path.iterdir()) == [there]


def test_a_file_that_computes_otherwise_is_not_kept(tmp_path, monkeypatch):
    right = formats.FORMATS["stablehlo"]

    def off_by(amount):
        def run(path):
            call = right.run(path)
            return lambda images: {k: v + amount for k, v in call(images).items()}

        return formats.Format(right.suffix, right.write, run)

    checkpoint = loaded(depth=1)
    for amount in (1e-3, np.nan):
        monkeypatch.setitem(formats.FORMATS, "stablehlo", off_by(amount))
        refused("Nothing was written", checkpoint, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_the_other_tool_says_is_one_error(tmp_path, monkeypatch):
    def write(model, path):
        path.mkdir()
        raise NotImplementedError("op 'sort' at a.py:1\n" + "more\n" * 50)

    kind = formats.Format("", write, formats.FORMATS["stablehlo"].run)
    monkeypatch.setitem(formats.FORMATS, "broken", kind)
    refused("op 'sort'", loaded(depth=1), tmp_path / "out", format="broken")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["savedmodel", "tflite", "onnx"])
def test_other_tools_give_our_logits(kind, family, tmp_path):
    for package in formats.FORMATS[kind].packages:
        pytest.importorskip(package, reason=f"--format={kind} needs {package}")
    name, options = FAMILIES[family]
    out = tmp_path / "out"
    if (kind, family) == ("onnx", "bit"):  # 26 layers of rounding: 1.2e-5 to 1.6e-5
        refused("outputs differ from ours", loaded(name, **options), out, format=kind)
        return
    figures = writing.export(loaded(name, **options), out, format=kind)
    assert figures["difference"] <= 1e-5
