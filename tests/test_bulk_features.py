"""Features of many images in one file, and the nearest by their cosine."""

import json

import numpy as np
import pytest
from commands import own_flags, parse
from PIL import Image
from safetensors import numpy as safetensors
from test_bulk import BATCH, Stopped, command
from test_predict import write_checkpoint

from vit_jax import errors
from vit_jax.data import digits
from vit_jax.runs.bulk import (
    arrays,
    features,
    inputs,
    journal,
    labelled,
    neighbours,
    parquet,
    vectors,
)
from vit_jax.weights import pretrained

SUFFIXES = sorted(arrays.FORMATS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("workdir"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """19 image files, the fifth of which is none."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = [str(root / f"{number:02}.png") for number in range(19)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    (root / "05.png").write_text("no image")
    return paths


@pytest.fixture(scope="module")
def made(checkpoint, pictures, tmp_path_factory):
    """Features of the pictures in every format."""
    root = tmp_path_factory.mktemp("features")
    for suffix in SUFFIXES:
        run(checkpoint, pictures, root / f"f{suffix}")
    return root


def run(checkpoint, pictures, out, **options):
    found = inputs.Files(pictures)
    return features.run(checkpoint, found, out, batch_size=BATCH, **options)


def contents(path):
    """Names, errors and numbers of a file, by its format's own reader."""
    if path.suffix == ".parquet":
        table = parquet.arrow().parquet.read_table(path)
        shape = json.loads(table.schema.metadata[b"shape"])
        blank = np.full(shape, np.nan).ravel().tolist()
        rows = [row or blank for row in table["features"].to_pylist()]
        numbers = np.array(rows, np.float32).reshape(-1, *shape)
        return table["image"].to_pylist(), table["error"].to_pylist(), numbers
    if path.suffix == ".npy":
        numbers = np.load(path, mmap_mode="r")
        ids = path.with_name(path.name + ".ids.jsonl").read_bytes()
    else:
        tensors = safetensors.load_file(path)
        numbers, ids = tensors["features"], tensors["ids"].tobytes()
    rows = [json.loads(line) for line in ids.splitlines()]
    return [r["image"] for r in rows], [r.get("error") for r in rows], numbers


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_are_the_features_of_the_model(checkpoint, pictures, made, suffix):
    names, problems, numbers = contents(made / f"f{suffix}")
    assert names == pictures
    assert [problem is None for problem in problems] == [k != 5 for k in range(19)]
    assert "05.png cannot be read" in problems[5] and np.isnan(numbers[5]).all()
    loaded = pretrained.load(checkpoint)
    good = [k for k in range(19) if k != 5]
    right = loaded.model.features(loaded.images([pictures[k] for k in good]))
    np.testing.assert_allclose(numbers[good], right, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"layer": 0}, (19, 16)),
        ({"layer": -1, "tokens": True}, (19, 4, 16)),
        ({"tokens": True, "dtype": "float16"}, (19, 4, 16)),
    ],
)
def test_layers_and_tokens(checkpoint, pictures, tmp_path, options, shape):
    layer, tokens = options.get("layer"), options.get("tokens", False)
    loaded = pretrained.load(checkpoint)
    asked = {"layers": [-1 if layer is None else layer], "norm": layer is None}
    (right,) = loaded.model.features(
        loaded.images(pictures[:3]), reshape=False, **asked
    )
    right = right if tokens else right.mean(axis=1)
    found = []
    for suffix in SUFFIXES:
        out = tmp_path / f"f{suffix}"
        assert run(checkpoint, pictures, out, **options)["shape"] == list(shape)
        found.append(contents(out)[2])
        np.testing.assert_allclose(found[-1][:3], right, atol=1e-5, rtol=1e-3)
        np.testing.assert_array_equal(found[-1], found[0])
    assert found[0].dtype == options.get("dtype", "float32")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_interrupted_command_goes_on(
    checkpoint, pictures, made, tmp_path, monkeypatch, suffix
):
    monkeypatch.setattr(journal, "EVERY", 0.0)
    out = tmp_path / f"f{suffix}"
    found = inputs.Files(pictures)
    with pytest.raises(errors.Preempted):
        features.run(checkpoint, Stopped(found, 17), out, batch_size=BATCH)
    assert journal.read_job(out)["rows"] == BATCH
    with open(f"{out}.partial", "ab") as file:
        file.write(b"numbers that were not" * 1000)
    run(checkpoint, pictures, out)
    assert out.read_bytes() == (made / out.name).read_bytes()
    left = {p.name for p in tmp_path.iterdir()}
    ids = {f"{out.name}.ids.jsonl"} if suffix == ".npy" else set()
    assert left == {out.name, f"{out.name}.job.json"} | ids


def test_other_features_are_another_command(checkpoint, pictures, made):
    with pytest.raises(errors.UserError, match="layer: null there, 0 in this call"):
        run(checkpoint, pictures, made / "f.npy", layer=0)
    with pytest.raises(errors.UserError, match='dtype: "float32" there'):
        run(checkpoint, pictures, made / "f.npy", dtype="float16")


def test_options_that_cannot_work_are_one_error(checkpoint, pictures, tmp_path):
    for out, options, message in (
        ("f.csv", {}, "'.csv' is unknown; known: .npy, .parquet, .safetensors"),
        ("f.npy", {"dtype": "int8"}, "--dtype=int8; want one of float32"),
        ("f.npy", {"layer": 7}, "has 1 blocks; want numbers from 0 to 0"),
    ):
        with pytest.raises(errors.UserError, match=message):
            run(checkpoint, pictures, tmp_path / out, **options)
    assert not list(tmp_path.iterdir())


def brute(numbers, query, k):
    """Indices and cosines, in float64 and all at once."""
    numbers = np.asarray(numbers, np.float64)
    cosine = numbers @ query / np.linalg.norm(numbers, axis=1) / np.linalg.norm(query)
    cosine[np.isnan(cosine)] = -np.inf
    order = np.argsort(-cosine, kind="stable")[:k]
    return order, cosine[order]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_neighbours_are_those_of_brute_force(
    pictures, made, tmp_path, monkeypatch, suffix
):
    monkeypatch.setattr(vectors, "CHUNK", 4)
    monkeypatch.setattr(neighbours, "_QUERIES", 2)
    numbers = np.array(contents(made / f"f{suffix}")[2])
    queries = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)
    np.save(tmp_path / "queries.npy", queries)
    found = neighbours.run(str(tmp_path / "queries.npy"), made / f"f{suffix}", k=7)
    assert len(found) == 35
    for number, query in enumerate(queries):
        rows = [row for row in found if row["query"] == number]
        order, cosine = brute(numbers, query, 7)
        assert [row["rank"] for row in rows] == list(range(1, 8))
        assert [row["image"] for row in rows] == [pictures[k] for k in order]
        np.testing.assert_allclose([row["score"] for row in rows], cosine, atol=1e-6)


def test_all_neighbours_are_all_that_can_be_read(pictures, made, tmp_path):
    np.save(tmp_path / "query.npy", np.ones(16, np.float32))
    found = neighbours.run(str(tmp_path / "query.npy"), made / "f.npy", k=100)
    names = {row["image"] for row in found}
    assert len(found) == 18 and names == set(pictures) - {pictures[5]}


def test_of_equals_the_first_comes_first(tmp_path):
    rows = np.zeros((6, 2), np.float32)
    rows[:, 0] = [1, 2, 0, 3, -1, 4]  # the third has no direction
    np.save(tmp_path / "f.npy", rows)
    lines = [json.dumps({"image": name}) + "\n" for name in "abcdef"]
    (tmp_path / "f.npy.ids.jsonl").write_text("".join(lines))
    found = neighbours.run("b", tmp_path / "f.npy", k=9)
    assert [row["image"] for row in found] == ["a", "d", "f", "e"]
    assert [row["score"] for row in found] == [1, 1, 1, -1]


def test_an_image_finds_itself_and_a_name_does_not(pictures, made, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(open(pictures[3], "rb").read())
    by_image = neighbours.run(str(copy), made / "f.npy", k=4)
    assert by_image[0]["image"] == pictures[3]
    assert by_image[0]["score"] == pytest.approx(1, abs=1e-6)
    by_name = neighbours.run(pictures[3], made / "f.npy", k=3)
    assert [r["image"] for r in by_name] == [r["image"] for r in by_image[1:]]


def test_an_image_is_seen_as_those_of_the_file(checkpoint, pictures, tmp_path):
    run(checkpoint, pictures, tmp_path / "f.npy", layer=0)
    copy = tmp_path / "copy.png"
    copy.write_bytes(open(pictures[3], "rb").read())
    (first,) = neighbours.run(str(copy), tmp_path / "f.npy", k=1)
    assert first["image"] == pictures[3]
    assert first["score"] == pytest.approx(1, abs=1e-6)
    other = write_checkpoint(tmp_path / "other", num_classes=3)
    with pytest.raises(errors.UserError, match="made with other weights"):
        neighbours.run(str(copy), tmp_path / "f.npy", checkpoint=other)
    (tmp_path / "f.npy.job.json").unlink()
    with pytest.raises(errors.UserError, match="nothing beside .* says what made it"):
        neighbours.run(str(copy), tmp_path / "f.npy")


def test_what_cannot_be_compared_is_one_error(pictures, made, checkpoint, tmp_path):
    np.save(tmp_path / "narrow.npy", np.ones(3, np.float32))
    np.save(tmp_path / "zero.npy", np.zeros(16, np.float32))
    np.save(tmp_path / "whole.npy", np.ones(16, int))
    run(checkpoint, pictures, tmp_path / "tokens.npy", tokens=True)
    run(checkpoint, pictures, tmp_path / "tokens.parquet", tokens=True)
    (tmp_path / "damaged.safetensors").write_bytes(b"\0" * 7)
    (tmp_path / "damaged.parquet").write_bytes(b"\0" * 7)
    names = ("narrow.npy", "zero.npy", "whole.npy")
    narrow, zero, whole = (str(tmp_path / name) for name in names)
    for query, path, message in (
        (narrow, made / "f.npy", r"vectors of \(3,\), .* of 16"),
        (zero, made / "f.npy", "zero or not finite"),
        (whole, made / "f.npy", "want floats"),
        (pictures[5], made / "f.npy", "zero or not finite"),
        (str(tmp_path / "none.npy"), made / "f.npy", "cannot be read"),
        ("none.png", made / "f.npy", "no such file"),
        (pictures[0], tmp_path / "none.npy", "cannot be read as features"),
        (pictures[0], tmp_path / "tokens.npy", "want one vector an image"),
        (pictures[0], tmp_path / "tokens.parquet", "want one vector an image"),
        (pictures[0], tmp_path / "damaged.safetensors", "cannot be read as features"),
        (pictures[0], tmp_path / "damaged.parquet", "cannot be read as features"),
        (pictures[0], tmp_path / "f.txt", "'.txt' is unknown"),
    ):
        with pytest.raises(errors.UserError, match=message):
            neighbours.run(query, path)
    with pytest.raises(errors.UserError, match="--k=0; want at least 1"):
        neighbours.run(pictures[0], made / "f.npy", k=0)


def test_the_commands(checkpoint, pictures, tmp_path, capsys):
    out = tmp_path / "f.safetensors"
    argv = [f"--checkpoint={checkpoint}", f"--out={out}", "--batch_size=8"]
    lines = command("features", [*argv, *pictures], capsys)
    assert json.loads(lines[-1])["shape"] == [19, 16]
    argv = [pictures[2], str(out), "--k=3"]
    found = [json.loads(line) for line in command("neighbours", argv, capsys)]
    assert [row["rank"] for row in found] == [1, 2, 3]
    kept = tmp_path / "nearest.jsonl"
    assert command("neighbours", [*argv, f"--out={kept}"], capsys) == []
    assert [json.loads(line) for line in kept.read_text().splitlines()] == found
    table = command("neighbours", [*argv, "--table"], capsys)
    assert table[0].split() == [
        *(pictures[2], "1", f"{found[0]['score']:.4f}", found[0]["image"])
    ]
    with own_flags("neighbours") as module:
        with pytest.raises(errors.UserError, match="want vit_jax neighbours QUERY"):
            module._main(parse("neighbours", ["neighbours", pictures[0]]))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_dataset_has_its_labels_beside(checkpoint, tmp_path, monkeypatch, suffix):
    """In parts, after an end in the middle, with one image that cannot be read."""
    monkeypatch.setattr(journal, "EVERY", 0.0)
    source = digits.opened("test[:20]")
    source.images[5, 0, 0, 0] = 0
    found = inputs.Examples(source, "class")
    shares = [inputs.Part(found, 0, 11), inputs.Part(found, 11, 20)]
    paths = [tmp_path / f"{k}{suffix}" for k in range(2)]
    for share, path in zip(shares, paths, strict=True):
        with pytest.raises(errors.Preempted):
            stopped = Stopped(share, BATCH)
            features.run(checkpoint, stopped, path, batch_size=BATCH)
        features.run(checkpoint, share, path, batch_size=BATCH)
    read = labelled.read(paths)
    assert read.labels.tolist() == source.labels.tolist()
    loaded = pretrained.load(checkpoint)
    images = loaded.images(list(source.images))
    right = loaded.model.features(images)
    np.testing.assert_allclose(read.features, right, atol=1e-5)
