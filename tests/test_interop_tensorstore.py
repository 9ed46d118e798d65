"""big_vision's folders: as JAX's own serialiser writes them, and damaged ones."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest
from jax.experimental.array_serialization import serialization

from vit_jax import errors, models, tree
from vit_jax.weights import containers, files, rules
from vit_jax.weights.dialects import google
from vit_jax.weights.formats import tensorstore
from vit_jax.weights.source import Tensors


def as_big_vision_writes(folder, tensors):
    manager = serialization.GlobalAsyncCheckpointManager()
    paths = [str(folder / name.replace("/", "~")) for name in tensors]
    arrays = [jax.numpy.asarray(array) for array in tensors.values()]
    manager.serialize_with_paths(arrays, paths, on_commit_callback=lambda: None)
    manager.wait_until_finished()
    return folder


@pytest.fixture
def tensors():
    """A training state: weights, a moment of them in bfloat16, counters."""
    arch = models.architecture("mu/8", num_classes=5, image_size=32, pool="mean")
    _, like = models.abstract(arch)
    rng = np.random.default_rng(0)
    leaves = {
        name: rng.standard_normal(leaf.shape).astype(np.float32)
        for name, leaf in tree.named_leaves(like)
    }
    leaves["head/kernel"][:] = 0
    named = rules.save(google.DIALECTS["big_vision"].rules, leaves)
    moments = {f"opt/0/mu/{n}": a.astype(jax.numpy.bfloat16) for n, a in named.items()}
    params = {f"params/{name}": array for name, array in named.items()}
    return params | moments | {"chrono/accum": np.float32(3)}


def test_what_jax_writes_is_read(tmp_path, tensors, caplog):
    folder = as_big_vision_writes(tmp_path / "checkpoint.bv-000000012", tensors)
    with tensorstore.open(folder) as opened:
        assert opened.shapes == {n: a.shape for n, a in sorted(tensors.items())}
        for name, array in tensors.items():
            assert opened.read(name).dtype == array.dtype
            assert np.array_equal(opened.read(name), array)
    with caplog.at_level(logging.INFO):
        weights = files.read(folder)
    assert "not these weights and are not read: chrono/accum, opt/" in caplog.text
    assert weights.dialect == "big_vision" and weights.architecture.pool == "mean"
    kernel = tensors["params/embedding/kernel"]
    assert np.array_equal(weights.leaves["patch_embed/kernel"], kernel)


def test_the_last_checkpoint_is_found(tmp_path, tensors):
    for step, value in (("000000012", 1), ("000000034-tmp", 2)):
        tensors["params/head/bias"] = np.full(5, value, np.float32)
        as_big_vision_writes(tmp_path / f"checkpoint.bv-{step}", tensors)
    last = tmp_path / "checkpoint.bv-LAST"
    last.write_text("000000034-tmp")
    for path in (tmp_path, tmp_path / "checkpoint.bv"):
        assert containers.is_weights(path)
        assert files.read(path).leaves["head/bias"][0] == 2
    assert files.read(tmp_path / "checkpoint.bv-000000012").leaves["head/bias"][0] == 1
    last.write_text("../../etc")
    with pytest.raises(errors.UserError, match="'../../etc', which is no step"):
        files.read(tmp_path)
    last.write_text("000000099")
    with pytest.raises(errors.UserError, match="000000099.*holds no weights"):
        files.read(tmp_path)


def test_writing_is_the_inverse_of_reading(tmp_path, tensors):
    with files.read(as_big_vision_writes(tmp_path / "a", tensors)) as weights:
        files.write(weights, tmp_path / "b.bv")
        with pytest.raises(errors.UserError, match="exists"):
            files.write(weights, tmp_path / "b.bv")
    with tensorstore.open(tmp_path / "b.bv") as opened:
        assert set(opened.names) == {n for n in tensors if n.startswith("params/")}
        assert all(np.array_equal(opened.read(n), tensors[n]) for n in opened.names)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b.bv"}


def lie(folder, **changes):
    header = folder / "w" / tensorstore.HEADER
    header.write_text(json.dumps(json.loads(header.read_text()) | changes))


def damages():
    def with_link(folder):
        (folder / "v").symlink_to(folder / "w")

    def truncated(folder):
        chunk = folder / "w" / "0.0"
        chunk.write_bytes(chunk.read_bytes()[:-9])

    return {
        "missing chunk": (lambda f: (f / "w" / "0.0").unlink(), "lacks its chunk 0.0"),
        "truncated": (truncated, "damaged or was not copied to its end"),
        "no header": (lambda f: (f / "w" / ".zarray").unlink(), "which is no array's"),
        "no JSON": (lambda f: (f / "w" / ".zarray").write_text("{"), "cannot be read"),
        "no object": (
            lambda f: (f / "w" / ".zarray").write_text("7"),
            "is no object",
        ),
        "shape": (lambda f: lie(f, shape=[40, 50], chunks=[40, 50]), "cannot be read"),
        "negative": (lambda f: lie(f, shape=[-1, 5]), "describes no array"),
        "axes": (lambda f: lie(f, shape=[4]), "describes no array"),
        "no chunk": (lambda f: lie(f, chunks=[0, 5]), "describes no array"),
        "many chunks": (
            lambda f: lie(f, chunks=[1, 1], shape=[999, 999]),
            "998,001 ch",
        ),
        "objects": (lambda f: lie(f, dtype="|O"), "describes no array"),
        "filters": (lambda f: lie(f, filters=[{"id": "pickle"}]), "describes no array"),
        "codec": (lambda f: lie(f, compressor={"id": "pickle"}), "describes no array"),
        "huge": (lambda f: lie(f, shape=[10**6] * 2, chunks=[10**6] * 2), "refused"),
        "long header": (lambda f: lie(f, x="x" * 10**5), "is no header"),
        "link": (with_link, "which is no array's folder"),
        "dots": (lambda f: shutil.copytree(f / "w", f / "..~w"), "no array's name"),
        "root": (lambda f: shutil.copytree(f / "w", f / "~etc"), "no array's name"),
        "file": (lambda f: (f / "x").write_text(""), "which is no array's folder"),
    }


@pytest.mark.parametrize("damage", damages())
def test_damage_is_one_clear_error(tmp_path, damage):
    folder = tmp_path / "x.bv"
    array = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    tensorstore.write(Tensors.of({"w": array, "b": array}), folder)
    change, message = damages()[damage]
    change(folder)
    with pytest.raises(errors.UserError, match=message) as caught:
        with tensorstore.open(folder) as opened:
            for name in opened.names:
                opened.read(name)
    assert len(str(caught.value).splitlines()) <= 10
    assert str(folder) in str(caught.value)


def test_other_folders_hold_no_weights(tmp_path):
    (tmp_path / "empty").mkdir()
    assert not containers.is_weights(tmp_path / "empty")
    with pytest.raises(errors.UserError, match="is a folder without weights"):
        files.read(tmp_path / "empty")
    with pytest.raises(errors.UserError, match="is no file"):
        files.read(tmp_path / "nothing.npz")
