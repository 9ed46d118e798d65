"""Predictions of many images in one file: rows, going on, and what is refused."""

import csv
import fcntl
import json
import logging
import os
import resource

import numpy as np
import pytest
from commands import own_flags, parse
from PIL import Image
from test_predict import NAMES, write_checkpoint

from vit_jax import errors, predict
from vit_jax.data import preprocessing, walking
from vit_jax.runs.bulk import (
    inputs,
    journal,
    parquet,
    predictions,
    progress,
    reading,
    tables,
)
from vit_jax.weights import pretrained

SUFFIXES = sorted(tables.FORMATS)
BATCH = 8  # one image a device


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("workdir"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """19 pictures, some of them below, and two files that are none."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "sub" / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(19):
        below = ("", "sub/", "sub/deep/")[number % 3]
        pixels = rng.integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{below}{number:02}.png")
    (root / "sub" / "bad.png").write_text("no image")
    (root / "notes.txt").write_text("no image")
    return root


def images(folder):
    return inputs.find([str(folder)])


def run(checkpoint, folder, out, **options):
    options = {"top_k": 2, "batch_size": BATCH} | options
    return predictions.run(checkpoint, images(folder), out, **options)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_have_one_writer_until_they_have_their_name(
    checkpoint, folder, tmp_path, monkeypatch, suffix
):
    """Another one that comes at the last rename is refused, also with --overwrite."""
    out, finish, seen = tmp_path / f"rows{suffix}", os.replace, []

    def renamed(old, new):
        if str(new) == str(out):
            with open(tmp_path / f"rows{suffix}.partial", "rb") as other:
                with pytest.raises(BlockingIOError):
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            seen.append(new)
        return finish(old, new)

    monkeypatch.setattr(os, "replace", renamed)
    run(checkpoint, folder, out)
    assert len(seen) == 1 and out.exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        out.name,
        f"{out.name}.job.json",
    }


def entries(path):
    """The rows of a file as `predict.run` gives them."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        rows = list(csv.DictReader(path.open(newline="")))
    else:
        rows = parquet.arrow().parquet.read_table(path).to_pylist()
    return [_entry(row) for row in rows]


def _entry(row):
    if row["error"]:
        return {"image": row["image"], "error": row["error"]}
    top = [
        {
            "label": int(row[f"label{end}"]),
            "name": row[f"name{end}"],
            "probability": float(row[f"probability{end}"]),
        }
        for end in ("", "_2")
    ]
    return {"image": row["image"], "top": top}


def without_numbers(found):
    """Rows with what is equal exactly, and their probabilities."""
    rows, numbers = [], []
    for row in found:
        numbers += [c["probability"] for c in row.get("top", ())]
        top = [(c["label"], c["name"]) for c in row.get("top", ())]
        rows.append((row["image"], row.get("error"), top))
    return rows, numbers


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_are_those_of_predict(checkpoint, folder, tmp_path, suffix):
    out = tmp_path / f"rows{suffix}"
    figures = run(checkpoint, folder, out)
    assert (figures["rows"], figures["errors"]) == (20, 1)
    found = images(folder)
    paths = [found.name(index) for index in range(len(found))]
    right, right_numbers = without_numbers(predict.run(checkpoint, paths, top_k=2))
    rows, numbers = without_numbers(entries(out))
    assert rows == right and "bad.png" in "".join(row[1] or "" for row in rows)
    np.testing.assert_allclose(numbers, right_numbers, atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        out.name,
        f"{out.name}.job.json",
    ]


def test_the_same_numbers_in_every_format(checkpoint, folder, tmp_path):
    found = []
    for suffix in SUFFIXES:
        run(checkpoint, folder, tmp_path / f"rows{suffix}")
        found.append(entries(tmp_path / f"rows{suffix}"))
    assert found[0] == found[1] == found[2]


def test_a_row_is_the_same_bits_alone_and_among_others(checkpoint, folder, tmp_path):
    run(checkpoint, folder, tmp_path / "all.jsonl")
    right = {row["image"]: row for row in entries(tmp_path / "all.jsonl")}
    for name in ("00.png", "sub/deep/17.png"):
        out = tmp_path / f"{name[-6:]}.jsonl"
        run(checkpoint, folder / name, out)
        assert entries(out) == [right[str(folder / name)]]


class Stopped:
    """Inputs of which a look at one number is Ctrl-C, or which count their reads."""

    def __init__(self, found, stop=-1):
        self._found, self._stop = found, stop
        self.exif, self.labels = found.exif, found.labels
        self.read = []

    def __len__(self):
        return len(self._found)

    def name(self, index):
        return self._found.name(index)

    def example(self, index):
        if index == self._stop:
            raise KeyboardInterrupt
        self.read.append(index)
        return self._found.example(index)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_interrupted_command_goes_on(
    checkpoint, folder, tmp_path, monkeypatch, suffix
):
    monkeypatch.setattr(journal, "EVERY", 0.0)
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"rows{suffix}"
    run(checkpoint, folder, whole)
    options = {"top_k": 2, "batch_size": BATCH}
    with pytest.raises(errors.Preempted, match="goes on behind"):
        predictions.run(checkpoint, Stopped(images(folder), 17), out, **options)
    assert not out.exists() and journal.read_job(out)["rows"] == BATCH
    with open(f"{out}.partial", "ab") as file:
        file.write(b"rows that were not" * 1000)
    again = Stopped(images(folder))
    predictions.run(checkpoint, again, out, **options)
    assert min(again.read) == BATCH
    if suffix == ".parquet":
        assert entries(out) == entries(whole)
    assert out.read_bytes() == whole.read_bytes()
    finished = Stopped(images(folder))
    figures = predictions.run(checkpoint, finished, out, **options)
    assert figures["rows"] == 20 and not finished.read


def test_an_end_between_the_name_and_the_record_is_gone_on_with(
    checkpoint, folder, tmp_path, monkeypatch
):
    out = tmp_path / "rows.csv"
    with monkeypatch.context() as patched:
        patched.setattr(journal.Journal, "end", lambda self: None)
        run(checkpoint, folder, out)
    assert not journal.read_job(out)["finished"]
    right = out.read_bytes()
    run(checkpoint, folder, out)
    assert journal.read_job(out)["finished"] and out.read_bytes() == right


def test_a_full_disk_is_one_error_and_the_same_command_goes_on(
    checkpoint, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(journal, "EVERY", 0.0)
    run(checkpoint, folder, tmp_path / "whole.csv", logits=True)
    out = tmp_path / "rows.csv"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2500, limit[1]))
    try:
        with pytest.raises(errors.UserError, match=r"cannot write .*: File too large"):
            run(checkpoint, folder, out, logits=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not out.exists() and 0 < journal.read_job(out)["rows"] < 20
    run(checkpoint, folder, out, logits=True)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_files_of_others_are_refused_or_overwritten(checkpoint, folder, tmp_path):
    out = tmp_path / "rows.csv"
    out.write_text("mine")
    with pytest.raises(errors.UserError, match="nothing says what made it"):
        run(checkpoint, folder, out)
    run(checkpoint, folder, out, overwrite=True)
    right = out.read_bytes()
    assert right.startswith(b"image,label,name,probability,label_2,")
    for options, word in (
        ({"top_k": 1}, "outputs: 2 there, 1 in"),
        ({"logits": True}, 'columns: "top" there, "logits" in'),
        ({"batch_size": 16}, "batch_size: 8 there, 16 in"),
    ):
        with pytest.raises(errors.UserError, match=f"another command:\n.*{word}"):
            run(checkpoint, folder, out, **options)
    with pytest.raises(errors.UserError, match="images: 20 there, 6 in"):
        run(checkpoint, folder / "sub" / "deep", out)
    other = write_checkpoint(tmp_path / "other", num_classes=3)
    with pytest.raises(errors.UserError, match="weights: .*there, .*in this call"):
        run(other, folder, out)
    assert out.read_bytes() == right
    (tmp_path / "rows.csv.job.json").write_text("{}")
    with pytest.raises(errors.UserError, match=r"job\.json cannot be read"):
        run(checkpoint, folder, out)


def test_two_at_once_is_one_error(checkpoint, folder, tmp_path):
    with open(tmp_path / "rows.csv.partial", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(errors.UserError, match="another process is writing"):
            run(checkpoint, folder, tmp_path / "rows.csv", overwrite=True)


def test_all_logits(checkpoint, folder, tmp_path):
    for suffix in SUFFIXES:
        run(checkpoint, folder / "sub", tmp_path / f"l{suffix}", logits=True)
    rows = entries(tmp_path / "l.jsonl")
    loaded = pretrained.load(checkpoint)
    good = [row for row in rows if "error" not in row]
    logits = np.array([row["logits"] for row in good])
    right = loaded.model(loaded.images([row["image"] for row in good]))
    np.testing.assert_allclose(logits, right, atol=1e-5)
    table = parquet.arrow().parquet.read_table(tmp_path / "l.parquet").to_pylist()
    assert [row["logits"] for row in table] == [row.get("logits") for row in rows]
    lines = list(csv.reader((tmp_path / "l.csv").open(newline="")))
    assert lines[0] == ["image", *(f"logit_{k}" for k in range(len(NAMES))), "error"]
    found = [line[1:-1] for line in lines[1:] if not line[-1]]
    assert np.array_equal(np.array(found, float), logits)


def test_many_row_groups_hold_the_rows_of_one(tmp_path, monkeypatch):
    form = tables.Parquet("top", 1)
    rows = [
        {"image": f"{k}", "top": [{"label": k, "name": None, "probability": 0.5}]}
        for k in range(20)
    ]
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 8)
    for size in (3, 7):
        part = tmp_path / f"part{size}"
        chunks = [form.begin()[""]]
        chunks += [form.encode(rows[k : k + size])[""] for k in range(0, 20, size)]
        part.write_bytes(b"".join(chunks))
        form.finish({"": part}, tmp_path / f"{size}.parquet")
    file = parquet.arrow().parquet.ParquetFile(tmp_path / "3.parquet")
    sizes = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
    assert sizes == [8, 8, 4] and file.read()["label"].to_pylist() == list(range(20))
    assert (tmp_path / "3.parquet").read_bytes() == (
        tmp_path / "7.parquet"
    ).read_bytes()


def test_a_dataset_is_read_in_its_order(checkpoint, tmp_path):
    found = inputs.find([], dataset="digits", split="test[:20]")
    out = tmp_path / "digits.jsonl"
    predictions.run(checkpoint, found, out, batch_size=BATCH, top_k=1)
    rows = entries(out)
    assert [row["image"] for row in rows] == [f"digits:{k}" for k in range(20)]
    loaded = pretrained.load(checkpoint)
    logits = loaded.model(loaded.images([found.example(k)["image"] for k in range(20)]))
    labels = [row["top"][0]["label"] for row in rows]
    assert labels == np.argmax(logits, axis=1).tolist()


def test_parts_are_the_whole(checkpoint, folder, tmp_path):
    run(checkpoint, folder, tmp_path / "all.jsonl")
    found = []
    for part in ("0/3", "1/3", "2/3"):
        out = tmp_path / f"{part[0]}.jsonl"
        share = inputs.find([str(folder)], part=part)
        predictions.run(checkpoint, share, out, batch_size=BATCH, top_k=2)
        found += entries(out)
    assert found == entries(tmp_path / "all.jsonl")


def test_what_is_held_does_not_grow_with_the_images():
    pixels = np.zeros((8, 8, 3), np.uint8)

    class Endless:
        exif = "turn"
        count = 0

        def __len__(self):
            return 10**9

        def name(self, index):
            return str(index)

        def example(self, index):
            self.count += 1
            return {"image": pixels}

    endless = Endless()
    transform = preprocessing.Preprocessing((8, 8)).eval_transform()
    read = reading.batches(endless, transform, batch_size=4, start=8, threads=2)
    assert next(read).names == ["8", "9", "10", "11"]
    assert next(read).names[0] == "12"
    read.close()
    assert endless.count <= 4 * (2 + reading.AHEAD)


def test_words_of_a_command_line(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"b.png\r\n\n\xff.png\n00.png")
    paths = inputs.paths([f"@{listed}", "sub/deep", "0[0-6].png", "**/1[01].png"])
    assert paths[:3] == ["b.png", "\udcff.png", "00.png"]
    deep = [f"sub/deep/{number:02}.png" for number in range(2, 19, 3)]
    assert paths[3:-2] == [*deep, "00.png", "03.png", "06.png"]
    assert paths[-2:] == ["sub/10.png", "sub/deep/11.png"]
    assert inputs.paths(["none.png"], missing=True) == ["none.png"]


def test_what_is_no_image_in_a_list_is_a_row(checkpoint, folder, tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    os.symlink(tmp_path / "loop.png", tmp_path / "loop.png")
    names = ["fifo.png", "loop.png", "none.png", "\udcff.png", "a\0b"]
    paths = [str(tmp_path / name) for name in names] + [str(folder)]
    good = str(folder / "00.png")
    for suffix in SUFFIXES:
        out = tmp_path / f"rows{suffix}"
        found = inputs.Files([*paths, good])
        figures = predictions.run(checkpoint, found, out, batch_size=BATCH, top_k=2)
        assert (figures["rows"], figures["errors"]) == (7, 6)
    reasons = [row.get("error", "") for row in entries(out)]
    words = ("a FIFO", "symbolic links", "No such file", r"\udcff", "null", "a folder")
    for reason, word in zip(reasons, words):
        assert word in reason
    assert entries(out)[-1]["image"] == good


def test_a_link_to_itself_is_left_out_of_a_folder(folder, tmp_path):
    os.symlink(tmp_path, tmp_path / "up")
    os.symlink("self.png", tmp_path / "self.png")
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "a.png").write_bytes((folder / "00.png").read_bytes())
    found, left_out = walking.Walk().list_below(tmp_path)
    assert found == ["a.png"]
    assert sorted(left_out) == ["fifo.png", "self.png", "up/"]


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (["none"], {}, "none: there is no such file or folder"),
        (["{}/rows"], {}, 'no such file or folder. Did you mean ".*row"'),
        (["{}/empty"], {}, "empty holds no image; want files ending in"),
        (["{}/fifo"], {}, "fifo is a FIFO; want"),
        (["@{}/fifo"], {}, "@.*fifo: it is a FIFO; want a file with"),
        (["@{}/none"], {}, "none: there is no such"),
        (["{}/*.png"], {}, "no file matches the pattern"),
        (["{}/loop"], {}, "Too many levels of symbolic links"),
        (["a\0b"], {}, "null"),
        ([], {}, "want images: files, folders"),
        (["{}"], {"dataset": "digits"}, "want one of them"),
        ([], {"dataset": "digits", "part": "2/2"}, "--part=2/2; want K/N"),
        ([], {"dataset": "digits", "part": "0"}, "--part=0; want K/N"),
    ],
)
def test_images_that_are_none_are_one_error(tmp_path, words, options, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "row").mkdir()
    os.mkfifo(tmp_path / "fifo")
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(errors.UserError, match=message) as caught:
        inputs.find([word.format(tmp_path) for word in words], **options)
    assert len(str(caught.value).splitlines()) <= 10


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("rows.xlsx", {}, "'.xlsx' is unknown; known: .csv, .jsonl, .parquet"),
        ("gs://bucket/rows.csv", {}, "want a local or mounted file"),
        ("folder.csv", {}, "is a folder; want a file in it"),
        ("file/rows.csv", {}, "cannot write"),
        ("rows.csv", {"top_k": 0}, "--top_k=0; want at least 1"),
        ("rows.csv", {"batch_size": 0}, "--batch_size=0; want at least 1"),
        ("rows.csv", {"batch_size": 10**12}, "GiB for its images"),
        ("rows.csv", {"threads": -1}, "--threads=-1; want 0"),
    ],
)
def test_options_that_cannot_work_are_one_error(
    checkpoint, folder, tmp_path, monkeypatch, out, options, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match=message):
        predictions.run(checkpoint, images(folder), out, **options)
    assert not list(tmp_path.glob("rows*"))


def test_a_model_without_a_head_predicts_nothing(folder, tmp_path):
    headless = write_checkpoint(tmp_path / "headless", num_classes=0)
    with pytest.raises(errors.UserError, match="has no head"):
        run(headless, folder, tmp_path / "rows.csv")


def command(name, argv, capsys):
    with own_flags(name) as module:
        assert module._main(parse(name, [name, *argv])) == errors.EXIT_DONE
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", ["predict", "features"])
def test_no_image_at_all_and_no_checkpoint_are_told(checkpoint, tmp_path, capsys, name):
    suffix = {"predict": "csv", "features": "npy"}[name]
    out, bad = tmp_path / "made" / f"rows.{suffix}", tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    argv = [f"--checkpoint={checkpoint}", f"--out={out}", str(bad)]
    with own_flags(name) as module:
        for _ in range(2):  # the second finds the file
            with pytest.raises(errors.UserError, match="none of 1 images could be"):
                module._main(parse(name, [name, *argv]))
            assert json.loads(capsys.readouterr().out.splitlines()[-1])["errors"] == 1
    missing = [f"--checkpoint={tmp_path}/none", f"--out={tmp_path}/new/rows.{suffix}"]
    with own_flags(name) as module:
        # Before images are looked for, and before anything is made.
        with pytest.raises(errors.UserError, match="none does not exist"):
            module._main(parse(name, [name, *missing, "no images either"]))
    assert not (tmp_path / "new").exists()


def test_the_command(checkpoint, folder, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    out = tmp_path / "made" / "rows.csv"
    argv = [f"--checkpoint={checkpoint}", f"--out={out}", "--batch_size=8"]
    lines = command("predict", [*argv, "--top_k=2", str(folder)], capsys)
    assert json.loads(lines[-1])["rows"] == len(entries(out)) == 20
    assert f"made the folder {tmp_path / 'made'}" in caplog.text
    with own_flags("predict") as module:
        rest = parse("predict", ["predict", argv[0], "--dataset=digits"])
        with pytest.raises(errors.UserError, match="--dataset wants --out=FILE"):
            module._main(rest)


def test_no_rate_has_the_time_of_compiling(
    checkpoint, folder, tmp_path, compiled, monkeypatch
):
    at_start = []

    class Watched(progress.Progress):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            at_start.append(len(compiled))

    monkeypatch.setattr(progress, "Progress", Watched)
    run(checkpoint, folder, tmp_path / "rows.csv", batch_size=2 * BATCH)
    assert at_start == [len(compiled)] and compiled


def test_progress_tells_rate_and_rest():
    now = 0.0
    told = progress.Progress(1000, 400, 1, clock=lambda: now)
    now = 50.0
    told.add(100, 1)
    assert told.line() == (
        "500 of 1,000 images, 2 images/s, 0:04:10 to go, 2 could not be read"
    )
    told.add(500, 0)
    assert told.line().endswith("12 images/s, 2 could not be read")
