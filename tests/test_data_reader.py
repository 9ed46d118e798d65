import numpy as np
import pytest
import simplejpeg

from vit_jax import errors
from vit_jax.data import reader, sources, transforms


class Listed:
    """Any object with `__len__` and `__getitem__` is a source."""

    def __init__(self, labels, num_classes=0, bad=()):
        self.labels, self.num_classes, self.bad = labels, num_classes, set(bad)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = b"junk" if index in self.bad else np.full((4, 4, 3), index, np.uint8)
        return {"image": image, "label": self.labels[index]}


def make(source, max_corrupt=1.0, name="none"):
    transform = transforms.make("train", name, image_size=4)
    log = reader.CorruptLog(source, max_corrupt)
    return reader.Reader(source, transform, log), log


OUT = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    "label",
    [3, np.int64(3), np.uint8(3), np.array(3), np.array(3, np.int16)],
)
def test_whole_numbers_of_any_type_are_classes(label):
    read, _ = make(Listed([label], num_classes=4))
    got = read.read(0, [], OUT)
    assert got == 3 and type(got) is int


@pytest.mark.parametrize("label", [4, -1, 2**40, np.uint8(255)])
def test_a_class_out_of_range_names_example_label_and_range(label):
    read, _ = make(Listed([0, label], num_classes=4))
    with pytest.raises(errors.UserError) as error:
        read.read(1, [], OUT)
    assert "example 1" in str(error.value)
    assert str(int(label)) in str(error.value)
    assert "0..3" in str(error.value)


@pytest.mark.parametrize("label", [2.5, "cat", None, [[1]], [1.0, float("nan")], [1]])
def test_other_labels_are_errors(label):
    read, _ = make(Listed([label], num_classes=2))
    with pytest.raises(errors.UserError, match="label"):
        read.read(0, [], OUT)


def test_a_negative_class_is_an_error_even_if_the_classes_are_unknown():
    read, _ = make(Listed([-1]))
    with pytest.raises(errors.UserError, match="0 or above"):
        read.read(0, [], OUT)


def test_multi_hot_labels_become_float32():
    for label in ([1, 0, 1], np.array([True, False, True]), np.float64([1, 0, 1])):
        got = make(Listed([label], num_classes=3))[0].read(0, [], OUT)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, [1, 0, 1])


def test_labels_of_a_batch_are_of_one_kind():
    assert reader.stack_labels([1, 2]).dtype == np.int32
    vectors = reader.stack_labels([np.zeros(3, np.float32)] * 2)
    assert vectors.shape == (2, 3) and vectors.dtype == np.float32
    for labels in ([1, np.zeros(2)], [np.zeros(2), np.zeros(3)]):
        with pytest.raises(errors.UserError, match="differ in kind"):
            reader.stack_labels(labels)


def test_an_unreadable_image_is_replaced_by_the_next_readable_one(caplog):
    read, log = make(Listed(list(range(6)), bad=(1, 4, 5)))
    assert [read.read(k, [], OUT) for k in range(6)] == [0, 2, 2, 3, 0, 0]
    assert OUT.max() == 0
    assert [read.read(1, [], OUT), OUT[0, 0, 0]] == [2, 2]
    assert log.names() == ["example 1", "example 4", "example 5"]
    assert caplog.text.count("unreadable image") == 3
    assert "example 4" in caplog.text


def test_more_than_the_allowed_share_is_an_error_that_names_some():
    read, log = make(Listed([0] * 100, bad=range(10, 20)), max_corrupt=0.05)
    for index in (10, 11, 10):
        with pytest.raises(errors.UserError) as error:
            for _ in range(3):
                read.read(index, [], OUT)
        text = str(error.value)
        break
    assert "6 of 100 images cannot be read" in text
    assert "example 10, example 11, example 12, ..." in text
    assert text.count("\n") < 10
    assert len(log.names()) == 6


def test_nothing_readable_is_an_error_not_an_endless_search():
    read, _ = make(Listed([0, 0, 0], bad=(0, 1, 2)))
    with pytest.raises(errors.UserError, match="3 of 3"):
        read.read(0, [], OUT)


def test_a_source_that_cannot_be_read_counts_as_unreadable():
    class Failing(Listed):
        def __getitem__(self, index):
            if index == 0:
                raise FileNotFoundError("gone")
            return super().__getitem__(index)

    read, log = make(Failing([0, 1]))
    assert read.read(0, [], OUT) == 1
    assert log.names() == ["example 0"]
    label, mask = read.read_or_blank(0, OUT)
    assert label is None and mask == 0 and (OUT == 0).all()
    assert read.blank_label() == 0


def test_bugs_of_a_source_are_not_swallowed():
    class Buggy(Listed):
        def __getitem__(self, index):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make(Buggy([0]))[0].read(0, [], OUT)


@pytest.mark.parametrize("example", [(1, 2), {"img": 1, "label": 0}, 7])
def test_examples_of_another_form_are_clear_errors(example):
    class Other(Listed):
        def __getitem__(self, index):
            return example

    with pytest.raises(errors.UserError, match='wanted a dict with "image"'):
        make(Other([0]))[0].read(0, [], OUT)


def test_an_image_that_the_transform_refuses_is_named():
    images = np.zeros((2, 5, 4, 3), np.uint8)
    source = sources.ArraySource(images, np.arange(2), name="toys")
    with pytest.raises(errors.UserError, match="toys:1: transform 'none'"):
        make(source)[0].read(1, [], OUT)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), float("inf")])
def test_max_corrupt_is_a_share(share):
    with pytest.raises(errors.UserError, match="max_corrupt"):
        make(Listed([0]), max_corrupt=share)


def test_max_corrupt_above_one_is_a_number():
    read, log = make(Listed([0] * 1000, bad=range(10, 20)), max_corrupt=4)
    with pytest.raises(errors.UserError, match="max_corrupt allows 4"):
        read.read(10, [], OUT)
    assert len(log.names()) == 5


def test_a_damaged_jpeg_is_used_or_counted():
    """What libjpeg warns of; its neighbours, and what is no JPEG, pass either way."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    good = simplejpeg.encode_jpeg(pixels)
    half = len(good) // 2
    images = [good, good[:half] + bytes(400) + good[half + 400 :], pixels]
    plain = transforms.make("train", "none", image_size=64)

    def read(damaged):
        source = [{"image": image, "label": k} for k, image in enumerate(images)]
        log = reader.CorruptLog(source, 1.0, damaged)
        example = reader.Reader(source, plain, log)
        return [example.read(k, [], np.empty_like(pixels)) for k in range(3)], log

    labels, log = read("use")
    assert labels == [0, 1, 2] and not log.names()
    labels, log = read("corrupt")
    assert labels == [0, 2, 2] and log.names() == ["example 1"]
    with pytest.raises(errors.UserError, match="damaged='no'"):
        read("no")


def test_one_unreadable_image_never_stops_a_small_dataset():
    read, log = make(Listed([0] * 10, bad=[3]), max_corrupt=0.02)
    read.read(3, [], OUT)
    assert len(log.names()) == 1
    read, _ = make(Listed([0] * 10, bad=[3]), max_corrupt=0.0)
    with pytest.raises(errors.UserError, match="max_corrupt"):
        read.read(3, [], OUT)
