"""safetensors files: both ways, and what strangers may put into them."""

import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from vit_jax import errors
from vit_jax.settings import documents
from vit_jax.weights.formats import safetensors as ours
from vit_jax.weights.source import Tensors

RNG = np.random.default_rng(0)
ARRAYS = {
    "blocks.0.attn.qkv.weight": RNG.standard_normal((6, 4)).astype(np.float32),
    "double": RNG.standard_normal((2, 3)),
    "half": RNG.standard_normal(5).astype(np.float16),
    "brain": RNG.standard_normal((3, 2)).astype(ml_dtypes.bfloat16),
    "steps": np.arange(7),
    "scalar": np.array(3.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
}


def raw(path, header, data=b"", length=None):
    """A file of a header (bytes, or what JSON makes of it) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    path.write_bytes(struct.pack("<Q", length) + text + data)
    return path


def entry(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def refused(path, message, open=ours.open):
    with pytest.raises(errors.UserError, match=f"(?s){message}") as caught:
        open(path)
    assert path.name in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 10
    assert len(str(caught.value)) < 2000


def test_what_the_package_writes_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(ARRAYS, path, metadata={"format": "pt"})
    with ours.open(path) as tensors:
        assert set(tensors.names) == set(ARRAYS)
        for name, array in ARRAYS.items():
            assert tensors.shapes[name] == array.shape
            found = tensors.read(name)
            assert found.dtype == array.dtype and np.array_equal(found, array), name


def test_what_is_written_the_package_reads(tmp_path):
    path = tmp_path / "x.safetensors"
    ours.write(Tensors.of(ARRAYS), path)
    found = safetensors.numpy.load_file(path)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array.astype(np.float32)), name
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt"}
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_texts_of_the_header_come_and_go(tmp_path):
    path = tmp_path / "x.safetensors"
    ours.write(Tensors.of({"a": np.ones(2, np.float32)}, label="x"), path, {"k": "v"})
    with safetensors.safe_open(path, "numpy") as theirs:
        assert theirs.metadata() == {"format": "pt", "k": "v"}
    assert ours.read_metadata(path) == {"format": "pt", "k": "v"}
    raw(path, {"__metadata__": {"k": 1}, "a": entry()}, bytes(8))
    refused(path, "is not texts by name", ours.read_metadata)


def test_a_mapped_array_is_the_one_that_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(ARRAYS, path)
    with ours.open(path) as tensors:
        for name in ("brain", "double", "steps"):
            mapped = ours.mapped(path, name)
            assert isinstance(mapped, np.memmap) and mapped.dtype == ARRAYS[name].dtype
            np.testing.assert_array_equal(mapped, tensors.read(name))
    refused(path, "tensor of .*'stepz' is unknown", lambda p: ours.mapped(p, "stepz"))


def test_one_tensor_at_a_time_is_held_and_a_failure_leaves_nothing(tmp_path):
    asked = []

    def read(name):
        asked.append(name)
        if name == "c":
            raise errors.UserError("c is damaged")
        return np.zeros(3, np.float32)

    with pytest.raises(errors.UserError, match="c is damaged"):
        ours.write(Tensors(dict.fromkeys("abcd", (3,)), read), tmp_path / "m")
    assert asked == ["a", "b", "c"]
    assert os.listdir(tmp_path / "m") == []


def test_opening_reads_no_value(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"x": np.zeros(10**6, np.float32)}, path)
    read, preadv = [], os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda *args: read.append(preadv(*args)) or read[-1]
    )
    tensors = ours.open(path)
    assert sum(read) < 200
    tensors.read("x")
    assert sum(read) > 4 * 10**6


def test_several_files_are_one(tmp_path):
    names = list(ARRAYS)
    files = {"model-1.safetensors": names[:3], "model-2.safetensors": names[3:]}
    for file, part in files.items():
        chosen = {name: ARRAYS[name] for name in part}
        safetensors.numpy.save_file(chosen, tmp_path / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for path in (tmp_path, index):
        assert ours.is_one(path)
        with ours.open(path) as tensors:
            assert set(tensors.names) == set(ARRAYS)
            assert all(np.array_equal(tensors.read(n), a) for n, a in ARRAYS.items())


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"x": "../model-1.safetensors"}, "which is no .safetensors file beside"),
        ({"x": "/etc/passwd.safetensors"}, "which is no .safetensors file beside"),
        ({"x": "sub/model.safetensors"}, "which is no .safetensors file beside"),
        ({"x": 3}, "which is no .safetensors file beside"),
        ({"x": "model-9.safetensors"}, "model-9.safetensors, which is not there"),
        ({"y": "model-1.safetensors"}, "do not agree.*x in model-1.*y in model-1"),
        ({}, 'has no "weight_map"'),
        (["x"], 'has no "weight_map"'),
    ],
)
def test_an_index_names_files_beside_it_that_hold_what_it_says(
    tmp_path, weight_map, message
):
    safetensors.numpy.save_file({"x": np.zeros(2)}, tmp_path / "model-1.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    refused(index, message)


DATA = bytes(16)
TWO = {"a": entry(), "b": entry(offsets=(8, 16))}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (TWO | {"b": entry(offsets=(4, 12))}, "no hole and no overlap"),
        (TWO | {"b": entry(offsets=(12, 20))}, "no hole and no overlap"),
        ({"a": entry()}, "take 8 bytes and it holds 16"),
        (TWO | {"c": entry(offsets=(16, 24))}, "take 24 bytes and it holds 16"),
        (TWO | {"b": entry((3,), (8, 16))}, "needs 12 bytes"),
        (TWO | {"b": entry((2,), (16, 8))}, "needs 8 bytes"),
        (TWO | {"b": entry((-2,), (8, 0))}, "no whole numbers"),
        (TWO | {"b": entry((1 << 62, 1 << 62), (8, 16))}, "no whole numbers"),
        (TWO | {"b": entry((2.0,), (8, 16))}, "no whole numbers"),
        (TWO | {"b": entry((True, 2), (8, 16))}, "no whole numbers"),
        (TWO | {"b": entry((1,) * 40, (8, 16))}, "no whole numbers"),
        (TWO | {"b": entry(offsets=(8, 16, 24))}, "its offsets are"),
        (TWO | {"b": entry(dtype="F8_E4M3")}, "of dtype 'F8_E4M3'; known: F64"),
        (TWO | {"b": entry(dtype=["F32"])}, "of dtype"),
        (TWO | {"b": 7}, "says no dtype"),
        (TWO | {"b": entry() | {"more": 1}}, "says no dtype"),
        ({"a": entry(), "../b": entry(offsets=(8, 16))}, "no tensor's name"),
        ({"a": entry(), "/b": entry(offsets=(8, 16))}, "no tensor's name"),
        ({"a": entry(), "b\n": entry(offsets=(8, 16))}, "no tensor's name"),
        ({"a": entry(), "b" * 400: entry(offsets=(8, 16))}, "no tensor's name"),
        ([1, 2], "JSON is no object"),
        (b'{"a": {}, "a": {}}', "says 'a' twice"),
        (b'{"a": {"shape": [1], "shape": [2]}}', "says 'shape' twice"),
        (b"[" * 100_000, "nested too deep|copy it again"),
        (b'{"a": ' + b"9" * 5000 + b"}", "copy it again"),
        (b"\xff\xfe{}", "copy it again"),
        (b"not JSON at all", "copy it again"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, header, message):
    refused(raw(tmp_path / "x.safetensors", header, DATA), message)


@pytest.mark.parametrize("length", [0, 1, 1 << 20, 1 << 40, (1 << 64) - 1])
def test_a_headers_length_is_bounded_by_the_file(tmp_path, length):
    refused(raw(tmp_path / "x.safetensors", TWO, DATA, length=length), ".")


def test_truncated_files_are_one_clear_error(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(ARRAYS, path)
    data = path.read_bytes()
    for length in (0, 7, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        refused(path, ".")
    path.write_bytes(data + b"x")
    refused(path, "not copied to its end")


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"x": np.zeros(1000)}, path)
    tensors = ours.open(path)
    os.truncate(path, 5000)
    with pytest.raises(errors.UserError, match="it ended while it was read"):
        tensors.read("x")


def test_flipped_bits_of_a_header_never_do_more_than_rename(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(ARRAYS, path)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    refusals = 0
    for position in range(8 + length):
        flipped = bytearray(data)
        flipped[position] ^= 1 << int(RNG.integers(8))
        path.write_bytes(flipped)
        try:
            tensors = ours.open(path)
        except errors.UserError as error:
            refusals += 1
            assert len(str(error).splitlines()) <= 10
        else:
            sizes = sum(tensors.read(name).nbytes for name in tensors.names)
            assert sizes == len(data) - 8 - length
    assert refusals > length / 2


def test_configs_come_and_go_with_the_file(tmp_path):
    config = {"a": [1, 2], "preprocessor_config": {"size": 3}}
    small = Tensors.of({"x": np.zeros(2, np.float32)}, config=config)
    ours.write(small, tmp_path / "model")
    beside = {"model.safetensors", "config.json", "preprocessor_config.json"}
    assert set(os.listdir(tmp_path / "model")) == beside
    written = json.loads((tmp_path / "model/config.json").read_text())
    assert written == {"a": [1, 2]}
    for path in (tmp_path / "model", tmp_path / "model/model.safetensors"):
        with ours.open(path) as tensors:
            assert tensors.config == config
    ours.write(small, tmp_path / "model/again.safetensors")
    other = Tensors.of({"x": np.zeros(2, np.float32)}, config={"a": 3})
    with pytest.raises(errors.UserError, match="a folder of its own"):
        ours.write(other, tmp_path / "model/other.safetensors")
    assert "other.safetensors" not in os.listdir(tmp_path / "model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[]", "JSON is no object"),
        (b'{"a": 1, "a": 2}', "says 'a' twice"),
        (b"{", "cannot be read as JSON"),
        (b'{"a": "' + b"x" * documents.MOST_BYTES + b'"}', "are no description"),
    ],
)
def test_a_damaged_config_is_named(tmp_path, text, message):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"x": np.zeros(2)}, path)
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(errors.UserError, match=f"config.json.*{message}"):
        ours.open(tmp_path)


def test_a_folder_without_them_is_named(tmp_path):
    refused(tmp_path, "neither model.safetensors nor")
    assert not ours.is_one(tmp_path)
    refused(tmp_path / "none.safetensors", "is no file")
