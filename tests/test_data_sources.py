import numpy as np
import pytest

from vit_jax import errors
from vit_jax.data import catalog, sources, splits


def test_digits_are_those_of_the_collection():
    train, test = (catalog.open_source("digits", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1438, 359)
    everything = catalog.open_source("digits", "train+test")
    assert everything.images.shape == (1797, 8, 8, 1)
    assert everything.images.dtype == np.uint8
    assert set(np.unique(everything.images)) == {round(k * 255 / 16) for k in range(17)}
    assert np.bincount(everything.labels).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip
    assert everything.label_names == tuple("0123456789")
    # The sum of all values of the collection, 561718, in units of 16.
    assert round(everything.images.sum() / 255 * 16 / 1000) == 562


def test_digits_equal_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    index = np.arange(1797)
    for split, chosen in (("test", index % 5 == 4), ("train", index % 5 != 4)):
        ours = catalog.open_source("digits", split)
        np.testing.assert_array_equal(ours.labels, digits.target[chosen])
        images = np.round(digits.images[chosen] * 255 / 16)
        np.testing.assert_array_equal(ours.images[..., 0], images)


def test_ranges_locate_every_example():
    ranges = [splits.Range("a", 5, 8), splits.Range("b", 0, 2), splits.Range("a", 0, 1)]
    laid = sources.Ranges(ranges)
    found = [laid.locate(k) for k in range(len(laid))]
    assert found == [("a", 5), ("a", 6), ("a", 7), ("b", 0), ("b", 1), ("a", 0)]
    for index in (-1, 6):
        with pytest.raises(IndexError):
            laid.locate(index)


def test_array_source_knows_its_classes():
    images = np.zeros((4, 5, 6), np.uint8)
    source = sources.ArraySource(images, np.uint8([0, 3, 1, 1]))
    assert source.num_classes == 4
    assert source.image_shape == (5, 6, 1)
    assert source[1]["label"] == 3 and type(source[1]["label"]) is int
    hot = sources.ArraySource(images, np.eye(4, 7, dtype=np.int64))
    assert hot.num_classes == 7
    assert hot[2]["label"].dtype == np.float32


@pytest.mark.parametrize(
    "images, labels, shown",
    [
        (np.zeros((3, 4, 4, 3)), np.zeros(3, int), "float64"),
        (np.zeros((3, 4, 4, 2), np.uint8), np.zeros(3, int), "1 or 3"),
        (np.zeros((3, 4, 4, 3), np.uint8), np.zeros(2, int), "3 images"),
        (np.zeros((3, 4, 4, 3), np.uint8), np.zeros(3), "wanted integers"),
    ],
)
def test_wrong_arrays_are_errors(images, labels, shown):
    with pytest.raises(errors.UserError, match=shown):
        sources.ArraySource(images, labels)
