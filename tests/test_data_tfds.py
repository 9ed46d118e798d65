import json
import os
import shutil

import numpy as np
import pytest
from test_data_example import bytes_feature, encode, packed_floats, packed_ints
from test_data_records import write_tfrecord

from vit_jax import errors
from vit_jax.data import catalog, decode, tfds

IMAGE = {"image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}}}


def prepare(directory, features, splits, *, names=None, pair=("image", "label")):
    """Writes a dataset as TFDS would: {split: [[example, ...] of each shard]}."""
    directory.mkdir(parents=True)
    table = []
    for split, shards in splits.items():
        for k, shard in enumerate(shards):
            name = f"toy-{split}.tfrecord-{k:05d}-of-{len(shards):05d}"
            write_tfrecord(directory / name, [encode(example) for example in shard])
        lengths = [str(len(shard)) for shard in shards]
        table.append({"name": split, "shardLengths": lengths})
    info = {"name": "toy", "fileFormat": "tfrecord", "splits": table}
    if pair:
        items = [{"featureKey": key} for key in pair]
        info["supervisedKeys"] = {"tuple": {"items": items}}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    tree = {"featuresDict": {"features": features}}
    (directory / "features.json").write_text(json.dumps(tree))
    if names:
        (directory / "label.labels.txt").write_text("\n".join(names) + "\n")
    return directory


def one(k, label):
    return {"image": bytes_feature(b"image %d" % k), "label": label}


@pytest.mark.parametrize("split", ["train", "validation", "train[10:30]+validation"])
def test_tfrecord_equals_what_tfds_wrote(shared_data, split):
    """The sixty photographs: 3 shards a split, other features beside the image."""
    source = catalog.open_source("tfrecord_samples", split, data_dir=str(shared_data))
    assert len(source) == {"train": 48, "validation": 12}.get(split, 32)
    for index in range(len(source)):
        example = source[index]
        opened = decode.open_image(example["image"])
        assert isinstance(opened, decode.JpegImage)
        assert 0 <= example["label"] < 1000
    assert source.num_classes == 1000
    with pytest.raises(IndexError):
        source[len(source)]


def test_array_record_equals_tensorflow_datasets(shared_data):
    peer = pytest.importorskip("tensorflow_datasets")
    theirs = peer.data_source(
        "cifar10",
        split="test[5%:6%]",
        data_dir=str(shared_data),
        decoders={"image": peer.decode.SkipDecoding()},
    )
    ours = catalog.open_source("cifar10", "test[5%:6%]", data_dir=str(shared_data))
    assert len(ours) == len(theirs) == 100
    for index in range(100):
        assert ours[index]["image"] == theirs[index]["image"]
        assert ours[index]["label"] == theirs[index]["label"]
    assert ours.label_names[3] == "cat"
    assert ours.image_shape == (32, 32, 3)
    assert ours.name(2) == "cifar10-test.array_record-00000-of-00001:502"


def test_list_of_classes_becomes_multi_hot(tmp_path):
    classes = {"sequence": {"feature": {"classLabel": {"numClasses": "5"}}}}
    shards = [[one(0, packed_ints(1, 3)), one(1, b"")], [one(2, packed_ints(4))]]
    directory = prepare(
        tmp_path / "toy" / "1.0.0",
        {"image": IMAGE, "label": classes},
        {"train": shards},
    )
    source = catalog.open_source("toy", "train", data_dir=str(tmp_path))
    labels = np.stack([source[k]["label"] for k in range(3)])
    wanted = [[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    np.testing.assert_array_equal(labels, np.float32(wanted))
    assert catalog.describe(str(directory)).multi_label


def test_vector_label_and_features_without_a_supervised_pair(tmp_path):
    vector = {"tensor": {"dtype": "float32", "shape": {"dimensions": ["3"]}}}
    directory = prepare(
        tmp_path / "1.0.0",
        {"image": IMAGE, "label": vector},
        {"train": [[one(0, packed_floats(0.5, 0, 1))]]},
        pair=(),
    )
    source = catalog.open_source(str(directory), "train")
    np.testing.assert_array_equal(source[0]["label"], np.float32([0.5, 0, 1]))
    assert source.num_classes == 3


def test_class_out_of_range_in_a_list_is_an_error(tmp_path):
    classes = {"sequence": {"feature": {"classLabel": {"numClasses": "5"}}}}
    directory = prepare(
        tmp_path / "1.0.0",
        {"image": IMAGE, "label": classes},
        {"train": [[one(0, packed_ints(5))]]},
    )
    source = catalog.open_source(str(directory), "train")
    with pytest.raises(errors.UserError, match=r"tfrecord-00000-of-00001:0: label 5"):
        source[0]


def test_names_come_from_the_labels_file(tmp_path):
    features = {"image": IMAGE, "label": {"classLabel": {"numClasses": "2"}}}
    splits = {"train": [[one(0, packed_ints(1))]]}
    directory = prepare(tmp_path / "a", features, splits, names=["cat", "dog"])
    assert catalog.describe(str(directory)).label_names == ("cat", "dog")
    directory = prepare(tmp_path / "b", features, splits, names=["cat"])
    with pytest.raises(errors.UserError, match="names 1 classes"):
        catalog.describe(str(directory))


def test_newest_version_wins_by_number(tmp_path):
    features = {"image": IMAGE, "label": {"classLabel": {"numClasses": "2"}}}
    for version, count in (("2.0.0", 1), ("10.0.0", 2), ("9.1.0", 3)):
        splits = {"train": [[one(k, packed_ints(1)) for k in range(count)]]}
        prepare(tmp_path / "toy" / version, features, splits)
    info = catalog.describe("toy", data_dir=str(tmp_path))
    assert info.splits == {"train": 2}
    info = catalog.describe("toy:9.1.0", data_dir=str(tmp_path))
    assert info.splits == {"train": 3}
    with pytest.raises(errors.UserError, match="Versions there: 2.0.0, 9.1.0, 10.0.0"):
        catalog.open_source("toy:3.0.0", "train", data_dir=str(tmp_path))


@pytest.fixture
def copy(shared_data, tmp_path):
    source = shared_data / "tfrecord_samples" / "1.0.0"
    target = tmp_path / "tfrecord_samples" / "1.0.0"
    shutil.copytree(source, target)
    for path in [target, *target.iterdir()]:
        os.chmod(path, 0o755)
    return target


def test_truncated_shard_is_found_when_opening(copy):
    path = copy / "tfrecord_samples-train.tfrecord-00002-of-00003"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(errors.UserError, match="truncated") as error:
        catalog.open_source("tfrecord_samples", "train", data_dir=str(copy.parents[1]))
    assert path.name in str(error.value)


def test_damaged_descriptions_are_clear_errors(copy):
    path = copy / "dataset_info.json"
    good = json.loads(path.read_text())
    cases = [
        ("{", "cannot be read"),
        ("[]", "not as TFDS writes it"),
        (json.dumps(good | {"fileFormat": "parquet"}), "file_format='array_record'"),
        (json.dumps({"name": "x"}), "not as TFDS writes it"),
    ]
    for text, shown in cases:
        path.write_text(text)
        with pytest.raises(errors.UserError) as error:
            tfds.read_info(copy)
        assert shown in str(error.value)
        assert str(copy) in str(error.value)
    path.write_text(json.dumps(good))
    os.remove(copy / "features.json")
    with pytest.raises(errors.UserError, match="features.json is missing"):
        tfds.read_info(copy)


def test_file_names_cannot_leave_the_folder(copy):
    path = copy / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"][0]["filepathTemplate"] = "../../../etc/passwd"
    path.write_text(json.dumps(info))
    with pytest.raises(errors.UserError, match="leaves the dataset's folder"):
        tfds.read_info(copy)
