"""Files of `torch.save`: read as torch reads them, and nothing of theirs is run."""

import io
import os
import pickle
import time
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch_files

from vit_jax import errors
from vit_jax.weights import files
from vit_jax.weights.formats import torchfile, torchpickle, unpickle

GOLDEN = Path(__file__).parent / "golden" / "torch"
TABLE = np.arange(24, dtype=np.float32).reshape(4, 6)
# Of the "model" in the golden files, which torch 2.14 wrote.
EXPECTED = {
    "plain": TABLE,
    "transposed": TABLE.T,
    "rows": TABLE[1:3],
    "window": TABLE[1:3, 2:4],
    "steps": TABLE[:, ::2],
    "expanded": np.ones((4, 3), np.float32),
    "scalar": np.float32(3.5),
    "empty": np.zeros((0, 3), np.float32),
    "parameter": TABLE[0],
    "double": TABLE.astype(np.float64),
    "half": TABLE.astype(np.float16),
    "brain": TABLE.astype(ml_dtypes.bfloat16).T,
    "long": np.arange(3),
    "int": np.arange(3, dtype=np.int32),
    "short": np.arange(3, dtype=np.int16),
    "char": np.arange(-1, 2, dtype=np.int8),
    "byte": np.arange(3, dtype=np.uint8),
    "bool": np.arange(3) > 1,
}


def check_equal(tensors, expected, prefix=""):
    for name, array in expected.items():
        found = tensors.read(prefix + name)
        assert tensors.shapes[prefix + name] == np.shape(array), name
        assert found.dtype == np.asarray(array).dtype, name
        assert np.array_equal(found, array), name


def read_all(path):
    with torchfile.open(path) as tensors:
        return {name: tensors.read(name) for name in tensors.names}


def refused(path, message="", read=read_all):
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(errors.UserError, match=f"(?s){message}") as caught:
        read(path)
    text = str(caught.value)
    assert str(path) in text and len(text.splitlines()) <= 10 and len(text) < 1500
    assert sorted(path.parent.rglob("*")) == before
    return text


@pytest.mark.parametrize("name", ["training", "training_legacy", "training_protocol5"])
def test_what_torch_wrote_is_read(name):
    with torchfile.open(GOLDEN / f"{name}.pth") as tensors:
        check_equal(tensors, EXPECTED, "model/")
        check_equal(tensors, {"optimizer/state/0/exp_avg": TABLE})
        assert len(tensors) == len(EXPECTED) + 1
        assert tensors.objects["args"] == "argparse.Namespace"


def test_big_endian_files_are_turned_round(tmp_path):
    big = {"f": TABLE.astype(">f4"), "h": np.arange(3).astype(">f2")}
    members = [(f"data/{i}", a.tobytes()) for i, a in enumerate(big.values())]
    tree = {
        "f": torch_files.tensor(torch_files.storage("0", count=24), (4, 6), (6, 1)),
        "h": torch_files.tensor(torch_files.storage("1", "HalfStorage", 3), (3,), (1,)),
    }
    content = torch_files.pickled(tree)
    path = torch_files.archive(
        tmp_path / "x.pth", content, [*members, ("byteorder", b"big")]
    )
    with torchfile.open(path) as tensors:
        assert np.array_equal(tensors.read("f"), TABLE)
        assert np.array_equal(tensors.read("h"), np.arange(3))


def test_opening_reads_no_value(tmp_path, monkeypatch):
    path = torch_files.save(tmp_path / "x.pth", {"x": np.zeros(10**6, np.float32)})
    read, preadv = [], os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda *args: read.append(preadv(*args)) or read[-1]
    )
    tensors = torchfile.open(path)
    assert sum(read) == 0
    tensors.read("x")
    assert sum(read) == 4 * 10**6


def test_what_cannot_be_read_is_named_with_a_way_to_convert_it():
    text = refused(GOLDEN / "module.pth", "Sequential, not a dict of tensors")
    assert 'torch.save(model.state_dict(), "weights.pth")' in text
    assert "torch.jit.load" in refused(GOLDEN / "script.pt", "a TorchScript program")
    read = files.read
    refused(GOLDEN / "other_dtypes.pth", "are of no layout|3 that we cannot", read=read)


class Witness:
    """Whoever unpickles this makes a folder that shows it."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("place", ["root", "value", "key", "inside", "state", "bare"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_nothing_is_run(tmp_path, place, protocol):
    witness = tmp_path / "executed"
    evil = Witness(witness)
    trees = {
        "root": evil,
        "value": {"model": {"x": evil}, "y": [evil]},
        "key": {evil: 1},
        "inside": {"model": torch_files.Call("os mkdir", (str(witness),))},
        "state": {"x": torch_files.Call("collections OrderedDict", (), evil)},
        "bare": evil,
    }
    path = tmp_path / "x.pth"
    content = torch_files.pickled(trees[place], protocol)
    if place == "bare":
        path.write_bytes(content)
    else:
        torch_files.archive(path, content)
    refused(path)
    refused(path, read=files.read)
    assert not witness.exists()
    pickle._loads(pickle.dumps(evil))
    assert witness.exists()


NO_MODULE = b"cos\nsystem\n(S'touch executed'\ntR."
INSTANCE = b"(S'touch executed'\nios\nsystem\n."
OBJECT = b"(cos\nsystem\nS'touch executed'\no."
FLOAT = torch_files.storage("0", count=24)


def of(tree):
    return torch_files.pickled(tree)


def view(shape, strides, offset=0, stored=FLOAT):
    return of({"x": torch_files.tensor(stored, shape, strides, offset)})


LIES = {
    "system": (NO_MODULE, "object"),
    "instance": (INSTANCE, "holds an object os.system"),
    "object": (OBJECT, "holds an object os.system"),
    "too long": (view((25,), (1,)), "ends at byte 100 of a storage of 96"),
    "offset": (view((4, 6), (6, 1), offset=1), "ends at byte 100"),
    "strides": (view((4, 6), (7, 1)), "ends at byte"),
    "huge stride": (view((2,), (1 << 47,)), "ends at byte"),
    "expanded": (view((1 << 20, 1 << 20), (0, 0)), "refused, more than 50 times"),
    "overlapping": (view((12, 13) + (1,) * 5 + (9999,), (1,) * 8), "ends at|refused"),
    "overflow": (view((1 << 62, 4), (0, 0)), "no whole numbers"),
    "negative": (view((-4, -6), (6, 1)), "no whole numbers"),
    "negative stride": (view((4,), (-1,)), "no whole numbers"),
    "negative offset": (view((4,), (1,), offset=-1), "no whole numbers"),
    "fraction": (view((4.0,), (1,)), "no whole numbers"),
    "truth": (view((True,), (1,)), "no whole numbers"),
    "text": (view(("4",), (1,)), "no whole numbers"),
    "many axes": (view((1,) * 40, (1,) * 40), "40 axes"),
    "strides of other axes": (view((4, 6), (1,)), "2 axes"),
    "no storage": (of({"x": torch_files.tensor("0", (1,), (1,))}), "no storage"),
    "missing storage": (
        view((4,), (1,), stored=torch_files.storage("7", count=4)),
        "storage '7' is missing",
    ),
    "a larger storage": (
        view((4,), (1,), stored=torch_files.storage("0", count=1 << 40)),
        "has 96 bytes",
    ),
    "endless storage": (
        view((4,), (1,), stored=torch_files.storage("0", count=1 << 60)),
        "no storage",
    ),
    "storage of a path": (
        view((4,), (1,), stored=torch_files.storage("../../x", count=24)),
        "is missing",
    ),
    "unknown storage": (
        view((4,), (1,), stored=torch_files.storage("0", "EvilStorage", 24)),
        "unknown kind",
    ),
    "two sizes of one storage": (
        of({"x": [FLOAT, torch_files.storage("0", count=23)]}),
        "two things of its storage",
    ),
    "an id": (of({"x": torch_files.Id("storage")}), "no storage"),
    "few arguments": (
        of({"x": torch_files.Call("torch._utils _rebuild_tensor_v2", (FLOAT,))}),
        "copy it again",
    ),
    "traversal": (of({"../../x": torch_files.tensor(FLOAT, (1,), (1,))}), "no tensor"),
    "absolute": (of({"/etc/x": torch_files.tensor(FLOAT, (1,), (1,))}), "no tensor"),
    "a line": (of({"x\nmodule": torch_files.tensor(FLOAT, (1,), (1,))}), "no tensor"),
    "twice": (b"\x80\x02}(X\x01\x00\x00\x00xK\x01X\x01\x00\x00\x00xK\x02u.", "'x' tw"),
    "nothing": (of({}), "holds no tensors"),
    "a list": (of([1]), "holds an object list"),
    "numbers": (of({"x": 1}), "holds no tensors"),
    "bytes of 4 GB": (b"\x80\x03B\xff\xff\xff\xff.", "copy it again"),
    "bytes of 2**63": (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "copy it again"),
    "no end": (b"\x80\x02}", "copy it again"),
    "empty": (b"", "copy it again"),
    "nothing on the stack": (b"\x80\x020.", "copy it again"),
    "a memo far away": (b"\x80\x02}p99999999999999999999\n.", "no such place"),
    "extension": (b"\x80\x02\x82\x01.", "opcode EXT1"),
    "buffer": (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
    "lists in lists": (b"\x80\x02" + b"](" * 30_000 + b".", "."),
    "tuples in tuples": (b"\x80\x02)" + b"\x85" * 60_000 + b".", "."),
    "many opcodes": (b"\x80\x02" + b"N0" * 600_000 + b"}.", "1,000,000 opcodes"),
}


@pytest.mark.parametrize("lie", LIES)
def test_structures_that_lie(tmp_path, lie, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, message = LIES[lie]
    members = [("data/0", TABLE.tobytes())]
    refused(torch_files.archive(tmp_path / "x.pth", content, members), message)
    assert not (tmp_path / "executed").exists()


def nested(depth, width):
    """A dict of dicts of which each is all members of the one around it."""
    table = {"x": 1}
    for _ in range(depth):
        table = {str(i): table for i in range(width)}
    return table


def test_a_structure_that_unfolds_without_end_is_refused(tmp_path):
    for tree in (nested(8, 30), nested(40, 1)):
        path = torch_files.archive(tmp_path / "x.pth", of(tree))
        refused(path, "too many, or nested too deep")
    cycle = {"x": torch_files.tensor(FLOAT, (24,), (1,))}
    cycle["again"] = cycle
    members = [("data/0", TABLE.tobytes())]
    path = torch_files.archive(tmp_path / "x.pth", of(cycle), members)
    refused(path, "nested too deep")


def test_members_that_torch_does_not_write(tmp_path):
    content = of({"x": torch_files.tensor(FLOAT, (24,), (1,))})
    data = ("data/0", TABLE.tobytes())
    path = tmp_path / "x.pth"
    for name in ("../../x", "data//1", "a/../../x", "C:\\x", "a\nb"):
        torch_files.archive(path, content, [data, (name, b"x")])
        refused(path, "torch.save does not")
    for folder in ("..", ".", ""):
        torch_files.archive(path, content, [data], folder=folder)
        refused(path, "torch.save does not")
    with pytest.warns(UserWarning, match="Duplicate"):
        torch_files.archive(path, content, [data, data])
    refused(path, "two members named 'data/0'")
    with pytest.warns(UserWarning, match="Duplicate"):
        torch_files.archive(path, content, [data, ("data.pkl", content)])
    refused(path, "two members named 'data.pkl'")
    bomb = [("data/0", bytes(10**7))]
    torch_files.archive(path, content, bomb, compression=zipfile.ZIP_DEFLATED)
    refused(path, "compressed or encrypted")
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("a/b", b"x")
    refused(path, "without a data.pkl")


def test_files_that_are_something_else(tmp_path):
    path = tmp_path / "model" / "pytorch_model.bin"
    path.parent.mkdir()
    contents = {
        b"": "is empty",
        b"<html>": "starts with '<html>'",
        pickle.dumps({"a": 1}): "a pickle, but not one of torch.save's",
        b"\0" * 257 + b"ustar\0": "a tar archive",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n": "git lfs pull",
    }
    for content, message in contents.items():
        path.write_bytes(content)
        refused(path, message, read=files.read)
        refused(path.parent, message, read=files.read)


@pytest.mark.parametrize("name", ["training", "training_legacy"])
def test_truncated_files_are_one_clear_error(tmp_path, name):
    data = (GOLDEN / f"{name}.pth").read_bytes()
    path = tmp_path / "x.pth"
    for length in range(0, len(data), 41):
        path.write_bytes(data[:length])
        refused(path)


def test_every_flipped_bit_is_an_error_or_changes_nothing(tmp_path):
    arrays = {"a": TABLE, "b": {"c": TABLE[:2].astype(np.float16)}}
    whole = torch_files.save(tmp_path / "whole.pth", arrays)
    expected = sorted((a.shape, a.tobytes()) for a in read_all(whole).values())
    data, path, seen = whole.read_bytes(), tmp_path / "x.pth", 0
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            found = read_all(path)
        except errors.UserError as error:
            seen += 1
            assert len(str(error).splitlines()) <= 10
            continue
        # What the two checksums of a member do not cover, may only rename.
        assert sorted((a.shape, a.tobytes()) for a in found.values()) == expected
    assert seen > len(data) / 2


def test_a_part_of_a_damaged_storage_is_an_error(tmp_path):
    part = torch_files.tensor(FLOAT, (2,), (1,), offset=3)
    path = tmp_path / "x.pth"
    members = [("data/0", TABLE.tobytes())]
    torch_files.archive(path, of({"x": part}), members)
    assert np.array_equal(read_all(path)["x"], [3, 4])
    data = path.read_bytes()
    at = data.index(TABLE.tobytes())
    path.write_bytes(data[: at + 90] + b"x" + data[at + 91 :])
    refused(path, "checksum of its storage '0'")


def test_another_pickle_in_the_archive_is_bytes(tmp_path):

    members = [("data/0", TABLE.tobytes()), ("extra.pkl", NO_MODULE)]
    tree = {"x": torch_files.tensor(FLOAT, (4, 6), (6, 1))}
    path = torch_files.archive(tmp_path / "x.pth", of(tree), members)
    assert np.array_equal(read_all(path)["x"], TABLE)


def test_no_call_costs_more_than_the_bytes_that_it_was_given():
    """A list or a name of megabytes, by reference, in any number of calls."""

    def called(name, argument, calls):
        text = b"\x80\x02c" + name + b"\nq\x00" + argument + b"\x85q\x01"
        return torchpickle.load(io.BytesIO(text + b"(" + calls + b"t."), {})

    twice = b"h\x00h\x01R" * 2
    assert called(b"torch\nSize", b"](K\x03K\x04e", twice) == ((3, 4), (3, 4))
    sizes = called(b"torch\nSize", b"](" + b"N" * 1000 + b"e", twice)
    assert all(isinstance(size, unpickle.Unknown) for size in sizes)
    pairs = called(b"collections\nOrderedDict", b"]U\x01aK\x01\x86a", twice)
    assert pairs == ({"a": 1}, {}), "its list is its own"
    long = (
        b"\x80\x02X" + (2_000_000).to_bytes(4, "little") + b"a" * 2_000_000 + b"q\x00"
    )
    start = time.perf_counter()
    torchpickle.load(io.BytesIO(long + b"h\x00h\x00\x930" * 300 + b"."), {})
    assert time.perf_counter() - start < 2


def test_the_machine_knows_what_pickles_of_data_are_made_of():
    """Equal to Python's own reading for all that needs no import."""
    value = {"a": [1, -1, 2**70, 0.5, None, True, "é"], "b": (1, (2, 3), b"x", [], ())}
    value["c"] = {"d": {"e": value["b"]}, "long": list(range(3000))}
    for protocol in range(6):
        text = pickle.dumps(value, protocol)
        found = unpickle.load(io.BytesIO(text), {}, lambda _: None)
        if protocol < 3:  # bytes are a call of _codecs.encode there
            found["b"] = (*found["b"][:2], b"x", *found["b"][3:])
            found["c"]["d"]["e"] = found["b"]
        assert found == value, protocol
    assert set(torchpickle.BUILDERS) & {"os.system", "builtins.eval"} == set()
