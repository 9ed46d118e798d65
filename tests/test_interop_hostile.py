"""`.npz` files of strangers: no code runs, nothing is written, one clear error each."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from vit_jax import errors
from vit_jax.weights import files
from vit_jax.weights.formats import npz

ARRAY = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


class Witness:
    """Whoever unpickles this makes a folder that shows it."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def npy(array, **options):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def archive(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as target:
        for name, content in members:
            target.writestr(name, content)
    return path


def read_all(path):
    with npz.open(path) as tensors:
        return {name: tensors.read(name) for name in tensors.names}


def refused(path, message="", read=read_all):
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(errors.UserError, match=f"(?s){message}") as caught:
        read(path)
    text = str(caught.value)
    assert str(path) in text and len(text.splitlines()) <= 10 and len(text) < 1500
    assert sorted(path.parent.rglob("*")) == before
    return text


@pytest.mark.parametrize("form", ["array of objects", "bare", "structured"])
def test_no_pickle_is_opened(tmp_path, form):
    witness = tmp_path / "executed"
    evil = Witness(witness)
    if form == "array of objects":
        content = npy(np.array([evil], object), allow_pickle=True)
    elif form == "bare":
        content = pickle.dumps(evil)
    else:
        content = npy(np.array([(evil,)], [("x", "O")]), allow_pickle=True)
    path = archive(tmp_path / "x.npz", [("cls.npy", content)])
    refused(path)
    refused(path, read=files.read)
    (tmp_path / "y.npz").write_bytes(pickle.dumps(evil))
    refused(tmp_path / "y.npz", "copy it again")
    assert not witness.exists()
    evil.__reduce__()[0](*evil.__reduce__()[1])
    assert witness.exists()


HEADER = "{{'descr': {!r}, 'fortran_order': False, 'shape': {}, }}"


def headed(descr, shape, data=b"\0" * 48, text=None):
    """An .npy of any header."""
    header = (text or HEADER.format(descr, shape)).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + data


LIES = {
    "too large": headed("<f4", "(3, 5)"),
    "too small": headed("<f4", "(3, 3)"),
    "4 TB": headed("<f4", "(1000000, 1000000)"),
    "overflow": headed("<f4", "(4611686018427387904, 4)"),
    "negative": headed("<f4", "(-3, -4)"),
    "many axes": headed("<f4", str((1,) * 31 + (12,))),
    "no shape": headed("<f4", "'abc'"),
    "strings": headed("<U4", "(3,)"),
    "complex": headed("<c8", "(6,)"),
    "voids": headed("|V4", "(12,)"),
    "dates": headed("<M8[s]", "(6,)"),
    "code": headed("", "", text="__import__('os').mkdir('executed')"),
    "expression": headed("", "", text=HEADER.format("<f4", "(1 if True else 2,)")),
    "long": headed("", "", text=HEADER.format("<f4", "(" + "1," * 20000 + ")")),
    "nested": headed("", "", text="(" * 5000),
    "no magic": b"NUMPY" + bytes(99),
    "version": b"\x93NUMPY\x09\0" + npy(ARRAY)[8:],
    "empty": b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie(tmp_path, lie, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(archive(tmp_path / "x.npz", [("a.npy", LIES[lie])]))


@pytest.mark.parametrize(
    "name",
    [
        *("../a.npy", "/a.npy", "a/../../b.npy", "a//b.npy", "~/a.npy/", "C:\\a.npy"),
        *("a.txt", "a", "a\nb.npy", " .npy", "a/" * 30 + "b.npy", "x" * 4000 + ".npy"),
        *("..npy.npy", "%2e%2e/a b.npy", "\N{GREEK SMALL LETTER ALPHA}.npy"),
    ],
)
def test_names_that_are_no_arrays(tmp_path, name):
    path = archive(tmp_path / "x.npz", [(name, npy(ARRAY))])
    refused(path, "no array's name")


def test_bombs(tmp_path):
    zeros = npy(np.zeros(10**7))
    text = refused(
        archive(tmp_path / "x.npz", [("a.npy", zeros)]), "refused, more than"
    )
    assert "claim to unpack to 80,000,128" in text
    names = [(f"a{i}.npy", b"") for i in range(npz.MAX_MEMBERS + 1)]
    refused(archive(tmp_path / "y.npz", names, 0), "20,001 members; no checkpoint has")


def test_a_size_that_the_directory_lies_about(tmp_path):
    """A member that unpacks to more than is said of it ends where it was said to."""
    path = archive(tmp_path / "x.npz", [("a.npy", npy(np.zeros(10**5)))])
    data = path.read_bytes()
    size = (8 * 10**5 + 128).to_bytes(4, "little")
    assert data.count(size) == 2
    path.write_bytes(data.replace(size, (1000).to_bytes(4, "little")))
    refused(path)


def test_duplicates(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = archive(tmp_path / "x.npz", [("a.npy", npy(ARRAY))] * 2)
    refused(path, "two arrays named 'a'")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_truncated_at_every_length(tmp_path, method):
    members = [("a.npy", npy(ARRAY)), ("b/c.npy", npy(ARRAY))]
    data = archive(tmp_path / "whole.npz", members, method).read_bytes()
    path = tmp_path / "x.npz"
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        refused(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_flipped_bit_is_an_error_or_changes_nothing(tmp_path, method):
    members = [("a.npy", npy(ARRAY)), ("b/c.npy", npy(ARRAY.astype("V2")))]
    whole = archive(tmp_path / "whole.npz", members, method)
    expected = {n: (a.shape, a.tobytes()) for n, a in read_all(whole).items()}
    data, path, seen = whole.read_bytes(), tmp_path / "x.npz", 0
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            found = {n: (a.shape, a.tobytes()) for n, a in read_all(path).items()}
        except errors.UserError as error:
            seen += 1
            assert len(str(error).splitlines()) <= 10
            continue
        # A name in the directory has no checksum: only the names may differ, and what
        # such a file lacks is missed later.
        assert list(found.values()) == list(expected.values()), position
    assert seen > len(data) / 2


def test_names_with_a_flipped_bit_are_missed_later(golden, tmp_path):
    data = (golden / "vit_token.npz").read_bytes()
    at = data.rindex(b"encoder_norm/scale")
    for position in range(at, at + 18):
        flipped = bytearray(data)
        flipped[position] ^= 1
        (tmp_path / "x.npz").write_bytes(flipped)
        refused(tmp_path / "x.npz", read=files.read)


def test_what_is_read_is_what_was_written(tmp_path):
    arrays = {
        "fortran": np.asfortranarray(ARRAY),
        "scalar": np.float32(3),
        "none": np.zeros((0, 3), np.float16),
        "integers": np.arange(5),
        "b/old": ARRAY,
    }
    members = [(f"{n}.npy", npy(np.asanyarray(a))) for n, a in arrays.items()]
    with npz.open(archive(tmp_path / "x.npz", members)) as tensors:
        assert tensors.shapes == {n: np.shape(a) for n, a in arrays.items()}
        for name, array in arrays.items():
            assert tensors.read(name).dtype == np.asarray(array).dtype
            assert np.array_equal(tensors.read(name), array)
        npz.write(tensors, tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz") as again:
        assert all(np.array_equal(again[name], arrays[name]) for name in arrays)


def vit_with(golden, tmp_path, change):
    with np.load(golden / "vit_token.npz") as file:
        tensors = dict(file) | change
    path = tmp_path / "x.npz"
    with path.open("wb") as stream:
        np.savez(stream, **{n: t for n, t in tensors.items() if t is not None})
    return path


BLOCK = "Transformer/encoderblock_{}/LayerNorm_0/scale"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({BLOCK.format(9999): np.ones(32)}, "layer .* is missing of 10000"),
        ({BLOCK.format("9" * 50): np.ones(32)}, "have no place"),
        ({BLOCK.format("00"): np.ones(32)}, "two tensors claim"),
        ({f"x/{i}": np.ones(1) for i in range(999)}, "999 of its 1055.* 994 more"),
        ({"head/kernel": np.ones((32, 10, 1))}, "head/kernel has shape"),
        ({"cls": np.ones((1, 1, 33))}, "cls: .1, 1, 33., want"),
        ({"embedding/kernel": np.ones((0, 8, 3, 32))}, "none empty"),
        (
            {"Transformer/posembed_input/pos_embedding": np.ones((1, 17))},
            "posemb has shape",
        ),
        (
            {
                f"Transformer/encoderblock_{i}/MultiHeadDotProductAttention_0/{p}/"
                "kernel": np.ones((32, 5, 8))
                for i in range(3)
                for p in ("query", "key", "value")
            },
            "heads=5 must divide width=32",
        ),
    ],
)
def test_tensors_that_make_no_model(golden, tmp_path, change, message):
    refused(vit_with(golden, tmp_path, change), message, read=files.read)


def test_nothing_is_left_when_writing_fails(tmp_path, golden):
    weights = files.read(golden / "vit_token.npz")
    target = tmp_path / "there.npz"
    target.write_bytes(b"before")

    def broken(name):
        raise errors.UserError("broken")

    weights.leaves.read = broken
    with pytest.raises(errors.UserError, match="broken"):
        files.write(weights, target)
    assert target.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["there.npz"]
