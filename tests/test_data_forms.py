"""Parquet, tar shards, Hugging Face's datasets, tables and code: the same examples."""

import json
import os
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest
import shards

from vit_jax import errors
from vit_jax.data import catalog, forms, loader, transforms
from vit_jax.data.forms import arrow, files, labelling, pages, snappy, tar, wds
from vit_jax.settings import naming

CROP = transforms.make("train", "inception_crop", image_size=16)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path / "cache"))
    forms._opened.clear()
    return tmp_path / "cache"


def refused(dataset, *shown, split="train"):
    with pytest.raises(errors.UserError) as caught:
        catalog.open_source(dataset, split)
    text = str(caught.value)
    assert all(word in text for word in shown), text
    assert text.count("\n") < 10
    return text


@pytest.mark.parametrize("form", shards.FORMS)
def test_every_form_gives_the_same_examples(form, tmp_path):
    name = shards.FORMS[form](tmp_path / "data")
    info = catalog.describe(name)
    assert info.splits == shards.COUNTS
    assert info.label_names == shards.NAMES and info.num_classes == 3
    assert not info.multi_label and info.prepared
    for split in shards.COUNTS:
        source = catalog.open_source(name, split)
        wanted = shards.images(split)
        assert [
            (e["image"], e["label"])
            for e in map(source.__getitem__, range(len(source)))
        ] == wanted
        assert len({source.name(k) for k in range(len(source))}) == len(wanted)
    tail = catalog.open_source(name, "train[75%:]+test")
    assert [tail[k]["image"] for k in (0, 5, 6)] == [
        shards.images("train")[18][0],
        shards.images("train")[23][0],
        shards.images("test")[0][0],
    ]


def batches(name, start, count):
    source = catalog.open_source(name, "train")
    made = loader.train_loader(source, CROP, batch_size=8, seed=3, cache="none")
    found = made.iterate(start)
    taken = [next(found) for _ in range(count)]
    made.close()
    return taken


@pytest.mark.parametrize("form", shards.FORMS)
def test_batches_are_those_of_a_folder_and_go_on_from_any_step(form, tmp_path):
    """Order and crops are of (seed, position), whatever holds the images."""
    images = shards.images("train")
    name = shards.FORMS[form](tmp_path / "data")
    wanted = loader.train_loader(
        [{"image": image, "label": label} for image, label in images],
        CROP,
        batch_size=8,
        seed=3,
        cache="none",
    )
    for step, batch in enumerate(batches(name, 4, 3), start=4):
        expected = wanted.batch(step)
        np.testing.assert_array_equal(batch["image"], expected["image"])
        np.testing.assert_array_equal(batch["label"], expected["label"])
    wanted.close()


# Parquet


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", ["none", "snappy", "zstd", "gzip", "lz4"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_every_kind_of_page_is_read(version, codec, dictionary, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    values = [rng.bytes(int(n)) for n in rng.integers(0, 90_000, 23)]
    values[4] = b"\0" * 300_000  # packed to copies that go over borders of blocks
    values[7:9] = [b"the same", b"the same"]
    rows = [None if k == 5 else {"bytes": v, "path": ""} for k, v in enumerate(values)]
    table = pyarrow.table({"image": rows, "label": list(range(23)), "other": values})
    parquet.write_table(
        *(table, tmp_path / "a.parquet"),
        compression=codec,
        use_dictionary=dictionary,
        data_page_version=version,
        row_group_size=9,
        data_page_size=100_000,
        write_batch_size=4,
    )
    name = f"parquet:{tmp_path}/a.parquet"
    source = catalog.open_source(name, "all")
    for k in (*range(22, 5, -1), *range(5)):
        assert source[k]["image"] == values[k], k
    with pytest.raises(ValueError, match="without bytes"):
        source[5]
    plain = catalog.open_source(f"{name}#image=other", "all")
    assert [plain[k]["image"] for k in range(23)] == values
    assert plain.name(10) == "a.parquet:10"


def test_pages_that_are_not_ours_are_left_to_pyarrow(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(
        *(shards.arrow_table("train"), tmp_path / "a.parquet"),
        use_dictionary=False,
        column_encoding={"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"},
    )
    source = catalog.open_source(f"parquet:{tmp_path}", "all")
    assert [source[k]["image"] for k in range(24)] == [
        image for image, _ in shards.images("train")
    ]


def test_a_part_of_a_snappy_stream_is_one_of_its_own():
    pyarrow = pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    data = b"".join(rng.bytes(999) + b"between" * 40 for _ in range(300))
    packed = pyarrow.compress(data, codec="snappy", asbytes=True)
    found = snappy.borders(packed)
    assert len(found) == -(-len(data) // snappy.BLOCK) + 1
    for first, last in ((0, 1), (2, 4), (4, len(found) - 1)):
        wanted = data[first * snappy.BLOCK : last * snappy.BLOCK]
        part = snappy.header(len(wanted)) + packed[found[first] : found[last]]
        assert pyarrow.decompress(part, len(wanted), "snappy", asbytes=True) == wanted


def test_runs_and_packed_bits():
    packed = bytes([0b11, 0b10001000, 0b11000110, 0b11111010, 0b10, 0b101])
    expected = [0, 1, 2, 3, 4, 5, 6, 7, 5]  # the example of the format's document
    assert pages.hybrid(packed, 3, 9).tolist() == expected


def test_bad_parquet_files_are_one_error_each(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    good = shards.arrow_table("train")

    def write(name, table):
        parquet.write_table(table, tmp_path / name)
        return f"parquet:{tmp_path}/{name}"

    refused(f"parquet:{tmp_path}/none.parquet", "no file")
    refused(f"parquet:{tmp_path}/*.parquet", "no file of that name")
    refused("parquet:", "no file of that name")
    refused("parquet:gs://bucket/a.parquet", "is a URL")
    name = write("a.parquet", good)
    refused(name, "split 'train' is not a split", "all (24 examples)")
    refused(f"{name}#image=img", "no column 'img'", "image_column", '"image"')
    refused(f"{name}#label=lable", "no column 'lable'", "label (string)")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-100])
    refused(f"parquet:{tmp_path}/cut.parquet", "truncated or damaged")
    (tmp_path / "text.parquet").write_text("no parquet")
    refused(f"parquet:{tmp_path}/text.parquet", "truncated or damaged")
    refused(write("empty.parquet", good[:0]), "holds no example")
    numbers = pyarrow.array([*range(23), -1])
    bad = write("bad.parquet", good.set_column(1, "label", numbers))
    refused(bad, "bad.parquet:23: label -1 is out of range")
    missing = pyarrow.array([None, *range(23)])
    bad = write("null.parquet", good.set_column(1, "label", missing))
    refused(bad, "row 0 has no label")
    floats = pyarrow.array(np.linspace(0, 1, 24))
    bad = write("floats.parquet", good.set_column(1, "label", floats))
    refused(bad, "which column holds the labels", "label (double)")
    refused(f"{bad}#label=label", "holds double")
    none = good.drop_columns(["image"])
    refused(write("none.parquet", none), "which column holds the images")
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\n")
    refused(f"{name}#names={names}", "label 'cat' is none of the 2 classes")
    write("b.parquet", good.rename_columns(["image", "other"]))
    refused(f"parquet:{tmp_path}/{{a,b}}.parquet", "has no column 'label'")


# Tar shards


def test_an_index_is_kept_until_the_file_changes(tmp_path, cache, monkeypatch):
    name = shards.tars(tmp_path)
    calls, made = [], wds.index
    monkeypatch.setattr(wds, "index", lambda *a: calls.append(a) or made(*a))
    catalog.describe(name)
    assert len(calls) == 4 and len(list(cache.rglob("*.npz"))) == 4
    forms._opened.clear()
    catalog.describe(name)
    assert len(calls) == 4
    shard = tmp_path / "train-000.tar"
    shards.write_tar(shard, [("a.png", b"1"), ("a.cls", b"bee")])
    assert catalog.describe(name).splits == {"train": 13, "test": 6}
    assert len(calls) == 5
    for kept in cache.rglob("*.npz"):
        kept.write_bytes(b"damaged")
    forms._opened.clear()
    assert catalog.describe(name).splits["train"] == 13


@pytest.mark.parametrize(
    "kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_long_names_and_all_kinds_of_tar(kind, tmp_path):
    """ustar, GNU and pax, as the standard library writes them."""
    long = "folder/" * 20 + "é" * 40
    files_ = [("a/0.jpg", b"x" * 700), ("a/0.cls", b"1")]
    if kind:  # ustar has no room for such names
        files_ += [(f"{long}.jpg", b""), (f"{long}.cls", b"0")]
    shards.write_tar(tmp_path / "a.tar", files_, format=kind)
    size, read = (tmp_path / "a.tar").stat().st_size, open(tmp_path / "a.tar", "rb")

    def part(at, length):
        read.seek(at)
        return read.read(length)

    found = list(tar.members(part, size, "a.tar"))
    assert [(one.name, part(one.offset, one.size)) for one in found] == files_
    read.close()


def test_labels_of_json_and_several_of_them(tmp_path):
    def write(name, told):
        samples = []
        for key, one in enumerate(told):
            samples += [(f"{key}.seg.png", b"mask"), (f"{key}.jpg", b"%d" % key)]
            samples.append((f"{key}.json", json.dumps(one).encode()))
        shards.write_tar(tmp_path / name, samples)
        return f"wds:{tmp_path}/{name}#image=jpg"

    two = write("a.tar", [{"id": 7, "tags": ["x", "y"]}, {"id": 8, "tags": []}])
    refused(two, "which column holds the labels", "tags", split="all")
    refused(f"{two},label=tag", "no column 'tag'", "Did you mean", split="all")
    source = catalog.open_source(f"{two},label=tags", "all")
    assert [source[k]["label"].tolist() for k in (0, 1)] == [[1, 1], [0, 0]]
    assert catalog.describe(f"{two},label=tags").multi_label
    one = write("b.tar", [{"label": 2}, {"label": 0}])
    source = catalog.open_source(one, "all")
    assert [source[k]["label"] for k in (0, 1)] == [2, 0]
    assert source[1]["image"] == b"1" and source.num_classes == 3
    assert source.name(1) == "b.tar:1"
    refused(f"wds:{tmp_path}/b.tar#image=tiff", "0 images by extension", split="all")


def test_bad_tar_files_are_one_error_each(tmp_path):
    name = shards.tars(tmp_path / "good")
    good = (tmp_path / "good" / "train-000.tar").read_bytes()

    def write(data):
        (tmp_path / "bad.tar").write_bytes(data)
        return f"wds:{tmp_path}/bad.tar"

    refused(f"wds:{tmp_path}/none-{{0..2}}.tar", "no file", "none-0.tar")
    refused("wds:pipe:cat a.tar", "no file")
    refused(write(b""), "breaks off at byte 0")
    refused(write(good[:3000]), "truncated or damaged: it breaks off")
    refused(write(good[:1024]), "breaks off at byte 1024")
    refused(write(b"x" * 2048), "it is no tar file")
    refused(write(b"\x1f\x8b" + b"x" * 2048), "compressed (gzip)", "unpack it")
    broken = bytearray(good)
    broken[at := good.index(b"0-000.cls") + 3] ^= 1
    assert at
    refused(write(bytes(broken)), "no header at byte")
    refused(write(bytes(1024)), "holds no sample")
    shards.write_tar(tmp_path / "bad.tar", [("a.jpg", b"")])
    refused(f"wds:{tmp_path}/bad.tar", "has no label: wanted .cls or .json")
    shards.write_tar(tmp_path / "bad.tar", [("a.cls", b"1")])
    refused(f"wds:{tmp_path}/bad.tar", "0 images by extension")
    shards.write_tar(tmp_path / "bad.tar", [("a.jpg", b""), ("a.cls", b"-1")])
    refused(f"wds:{tmp_path}/bad.tar", "bad.tar:a: label -1 is out of range")
    (tmp_path / "names.csv").write_text("id,name\n0,ant\n1,bee\n")
    refused(f"{name}#names={tmp_path}/names.csv", "'cat' is none of the 2 classes")


def test_shards_elsewhere_are_read_through_fsspec(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    local = shards.tars(tmp_path)
    memory = fsspec.filesystem("memory")
    for path in tmp_path.glob("*.tar"):
        memory.pipe(f"/shards/{path.name}", path.read_bytes())
    name = "wds:memory://shards/train-{000..001}.tar"
    there, here = (catalog.open_source(n, "train") for n in (name, local))
    assert [there[k] for k in range(24)] == [here[k] for k in range(24)]
    refused("wds:memory://shards/none.tar", "cannot be read")
    refused("wds:nowhere://x.tar", "cannot be reached")


# Hugging Face's, tables, code


def test_what_hugging_face_cannot_open_is_one_error(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    refused(f"hf:{tmp_path}", "cannot be opened")
    refused("hf:", "names nothing")
    stream = datasets.Dataset.from_dict({"label": [1]}).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: {"train": stream})
    refused("hf:org/name", "is a stream", "without streaming=True")

    def offline(*args):
        raise ConnectionError("couldn't reach the hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    refused("hf:org/name", "couldn't reach the hub", "only what is in the cache")


def test_columns_of_hugging_face_are_listed_where_several_will_do(tmp_path):
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["a", "b"])
    features = {"img": datasets.Image(), "fine": names, "coarse": names}
    features["tags"] = datasets.Sequence(names)
    image = {"bytes": b"1", "path": None}
    rows = [{"img": image, "fine": 1, "coarse": 0, "tags": [0, 1]}]
    made = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    made.save_to_disk(str(tmp_path / "saved"))
    name = f"hf:{tmp_path}/saved"
    refused(name, "which column holds the labels", "fine", "coarse", split="all")
    source = catalog.open_source(f"{name}#label=fine", "all")
    assert source[0] == {"image": b"1", "label": 1} and source.num_classes == 2
    source = catalog.open_source(f"{name}#label=tags", "all")
    assert source[0]["label"].tolist() == [1, 1]


def test_several_labels_in_a_table(tmp_path):
    for name in "xyz":
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    table = tmp_path / "t.csv"
    table.write_text("file,labels\nx.png,cat;dog\ny.png,\nz.png,dog\n")
    info = catalog.describe(f"csv:{table}")
    assert info.label_names == ("cat", "dog") and info.multi_label
    source = catalog.open_source(f"csv:{table}", "all")
    rows = [source[k]["label"].tolist() for k in range(3)]
    assert rows == [[1, 1], [0, 0], [0, 1]]
    table.write_text("file,labels\nx.png,cat\nq.png,dog\n")
    refused(f"csv:{table}", "1 of 2 files are not there", "q.png")
    table.write_text("name,labels\nx.png,cat\n")
    refused(f"csv:{table}", "one of file, image", "name, labels")
    table.write_text("file,label\n")
    refused(f"csv:{table}", "holds no row")
    refused(f"csv:{tmp_path}/none.csv", "cannot be read")


@pytest.fixture
def module(monkeypatch):
    made = types.ModuleType("made_here")
    monkeypatch.setitem(__import__("sys").modules, "made_here", made)
    return made


def test_code_that_makes_no_dataset_is_one_error(module):
    refused("py:made_here", "py:MODULE:FUNCTION")
    refused("py:no_such_module:f", "importing no_such_module failed")
    refused("py:made_here:make", "has no function 'make'")
    module.make = lambda: 1 / 0
    refused("py:made_here:make", "make() raised ZeroDivisionError")
    module.make = lambda: iter([(b"", 0)])
    text = refused("py:made_here:make", "is a stream", "parquet:GLOB")
    assert len(text) < 700
    module.make = list
    refused("py:made_here:make", "holds no example")
    module.make = lambda: [b"image"]
    refused("py:made_here:make", "wanted dicts, or pairs")
    module.make = lambda: [(b"image", 0)]
    refused("py:made_here:make", "how many classes", "num_classes")
    module.make = lambda: [{"a": b"", "mask": b"", "label": 0}]
    refused("py:made_here:make", "which column holds the images", "mask (bytes)")


def test_a_stream_that_knows_its_length_is_one(module):
    class Stream:  # as torch.utils.data.IterableDataset
        def __getitem__(self, index):
            raise NotImplementedError

        def __len__(self):
            return 3

        def __iter__(self):
            return iter(())

    module.make = Stream
    refused("py:made_here:make", "is a stream")


def test_pictures_and_labels_of_any_kind(module):
    from PIL import Image

    picture = Image.fromarray(np.full((4, 5, 3), 7, np.uint8))

    class Tagged(list):
        label_names = ("a", "b", "c")

    module.make = lambda: Tagged(
        [{"x": picture, "y": ["c", "a"]}, {"x": np.zeros((4, 5)), "y": []}]
    )
    source = catalog.open_source("py:made_here:make", "all")
    assert source[0]["label"].tolist() == [1, 0, 1]
    assert source[1]["label"].tolist() == [0, 0, 0]
    assert catalog.describe("py:made_here:make").multi_label
    assert source[0]["image"] is picture


# What they share


def test_names_with_columns():
    columns = naming.Columns(image="a b", label="x,y=z#", names="/a/c.txt")
    name = naming.join("parquet:/x/*.parquet", columns)
    assert naming.split(name) == ("parquet:/x/*.parquet", columns)
    assert naming.split("folder:/a#b=c") == ("folder:/a#b=c", naming.Columns())
    assert naming.join(name, naming.Columns(label="n")).endswith(
        "label=n,names=/a/c.txt"
    )
    section = {
        "dataset": "digits",
        "image_column": "",
        "label_column": "",
        "class_names": "",
    }
    assert naming.of_run(section) == "digits" == naming.of_run({"dataset": "digits"})
    with pytest.raises(errors.UserError, match="no columns"):
        catalog.describe("digits#label=x")


def test_every_form_has_a_prefix():
    # See test_imagenets and test_noisy_student.
    elsewhere = {"real", "imagenetv2", "objectnet", "predicted"}
    assert set(forms.FORMS) == set(naming.FORMS) == set(shards.FORMS) | elsewhere


def test_splits_are_told_by_names():
    def splits(*paths):
        return {k: len(v) for k, v in files.by_split(paths, "x").items()}

    assert splits("/train/a.tar", "/train/b.tar") == {"all": 2}
    assert splits("/d/train/a.tar", "/d/val/b.tar") == {"train": 1, "val": 1}
    assert splits("/d/x_train-000.tar", "/d/x_test-000.tar") == {"train": 1, "test": 1}
    assert splits("/d/trainer.tar") == {"all": 1}
    with pytest.raises(errors.UserError, match="is named after a split and"):
        splits("/d/train-0.tar", "/d/other.tar")
    assert files.braces("a{08..11}{x,y}")[:3] == ["a08x", "a08y", "a09x"]
    assert files.braces("{a}b{2..0}") == ["{a}b2", "{a}b1", "{a}b0"]


def test_names_of_classes_from_files(tmp_path):
    text, table = tmp_path / "a.txt", tmp_path / "a.csv"
    text.write_text("one\n\ntwo\n")
    table.write_text("id,class\n0,one\n1,two\n")
    assert labelling.read_names(str(text)) == ("one", "two")
    assert labelling.read_names(str(table)) == ("one", "two")
    table.write_text("one\ntwo\n")
    assert labelling.read_names(str(table)) == ("one", "two")
    for content, shown in (("a\na\n", "'a' twice"), ("", "no name")):
        text.write_text(content)
        with pytest.raises(errors.UserError, match=shown):
            labelling.read_names(str(text))
    with pytest.raises(errors.UserError, match="No such file"):
        labelling.read_names(str(tmp_path / "none"))


def test_columns_of_arrow_of_every_type():
    pyarrow = pytest.importorskip("pyarrow")

    def labels(values, kind):
        found = arrow.labels(pyarrow.chunked_array([pyarrow.array(values, kind)]), "x")
        return found.kind, found.values.tolist()

    texts = pyarrow.dictionary(pyarrow.int8(), pyarrow.string())
    assert labels(["a", "b", "a"], texts) == ("class", ["a", "b", "a"])
    assert labels([3, 0], pyarrow.uint16()) == ("class", [3, 0])
    several = labels([[1], [], [2, 0]], pyarrow.list_(pyarrow.int64()))
    assert several == ("classes", [1, 2, 0])
    floats = labels([[1.0, 0.5], [0, 0]], pyarrow.list_(pyarrow.float32(), 2))
    assert floats == ("vector", [[1.0, 0.5], [0.0, 0.0]])
    with pytest.raises(errors.UserError, match="vectors of 1 to 2"):
        labels([[1.0], [0.0, 1.0]], pyarrow.list_(pyarrow.float32()))


def test_a_dataset_that_changes_is_opened_again(tmp_path):
    name = shards.lists(tmp_path)
    assert catalog.describe(name).splits == shards.COUNTS
    table = Path(tmp_path / "table.csv")
    table.write_text("\n".join(table.read_text().splitlines()[:4]) + "\n")
    os.utime(table, ns=(1, 1))
    assert catalog.describe(name).splits == {"train": 3}
