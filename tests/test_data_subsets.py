import numpy as np
import pytest
from PIL import Image

from vit_jax import errors
from vit_jax.data import catalog, loader, orders, sources, subsets, transforms
from vit_jax.settings import naming

CROP = transforms.make("train", "resize", image_size=8)


def toys(counts):
    """So many images of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = labels[np.random.default_rng(0).permutation(len(labels))]
    images = np.zeros((len(labels), 8, 8, 3), np.uint8)
    return sources.ArraySource(images, labels, num_classes=len(counts), name="toy")


@pytest.mark.parametrize("balance", [1.0, 0.5])
def test_classes_come_by_their_weights_and_examples_alike(balance):
    counts = np.array([900, 90, 10])
    source = toys(counts)
    found = orders.of(source, 4, balance)(np.arange(3 * 65536))
    weights = counts ** (1 - balance) / (counts ** (1 - balance)).sum()
    shares = np.bincount(source.labels[found]) / len(found)
    assert np.abs(shares - weights).max() < 1e-4
    for label in range(3):
        (members,) = np.nonzero(source.labels == label)
        seen = np.bincount(found, minlength=1000)[members]
        assert seen.max() - seen.min() <= 1


def test_balanced_batches_depend_on_neither_hosts_nor_threads():
    def batch(step, **options):
        options = {"batch_size": 24, "seed": 1, "cache": "none"} | options
        made = loader.train_loader(toys((200, 20, 4)), CROP, balance=1.0, **options)
        try:
            return made.batch(step)
        finally:
            made.close()

    for step in (0, 7):
        whole = batch(step, threads=1)["label"]
        parts = [batch(step, process_index=k, process_count=3) for k in range(3)]
        joined = np.concatenate([part["label"] for part in parts])
        np.testing.assert_array_equal(joined, whole)
    with pytest.raises(errors.UserError, match="wanted 0 to 1"):
        loader.train_loader(toys((3, 3)), CROP, batch_size=2, seed=0, balance=2.0)


def test_some_classes_of_a_dataset_in_the_order_of_a_list(tmp_path):
    said = {"dataset": "digits", "classes": "7,2,5"}
    name = naming.of_run(said)
    assert naming.split(name) == ("digits", naming.Columns(classes="7,2,5"))
    whole, info = catalog.describe("digits"), catalog.describe(name)
    assert info.label_names == ("7", "2", "5") and info.num_classes == 3
    kept = catalog.open_source(name, "test")
    every = catalog.open_source("digits", "test")
    wanted = [
        (example["image"].tobytes(), "725".index(str(example["label"])))
        for example in (every[k] for k in range(len(every)))
        if str(example["label"]) in "725"
    ]
    found = [(kept[k]["image"].tobytes(), kept[k]["label"]) for k in range(len(kept))]
    assert found == wanted and info.splits["test"] == len(wanted)
    assert info.splits["train"] < whole.splits["train"]
    half = catalog.open_source(name, "train[:50%]")
    assert len(half) == round(info.splits["train"] / 2)
    listed = tmp_path / "kept.txt"
    listed.write_text("7\n2\n\n5\n")
    of_file = naming.of_run({"dataset": "digits", "classes": str(listed)})
    assert catalog.describe(of_file).splits == info.splits
    mixed = catalog.describe(f"mix:1*{name},1*digits#classes=0")
    assert mixed.label_names == ("7", "2", "5", "0")


def test_classes_that_there_are_not_are_named():
    for classes, shown in (
        ("7,x", "unknown classes of digits: x"),
        ("1,1", "repeated"),
    ):
        with pytest.raises(errors.UserError, match=shown):
            catalog.describe(naming.of_run({"dataset": "digits", "classes": classes}))


def test_labels_of_a_folder_are_read_from_its_names(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    source = catalog.open_source(f"folder:{tmp_path}", "train")
    monkeypatch.setattr(type(source), "__getitem__", None)
    assert sorted(subsets.labels_of(source)) == [0, 1]
    assert subsets.labels_of(source).tolist() == [source.label(k) for k in range(2)]
