import itertools
import threading

import numpy as np
import pytest

from vit_jax import errors
from vit_jax.data import catalog, loader, sources, transforms

CROP = transforms.make("train", "inception_crop", image_size=(24, 32))


@pytest.fixture(scope="module")
def photographs(shared_data):
    return catalog.open_source(
        "imagenet_samples", "train[:60]", data_dir=str(shared_data)
    )


def toys(count, size=(8, 8), bad=()):
    """Example k is an image full of k."""
    values = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)
    images = np.broadcast_to(values, (count, *size, 3))
    source = sources.ArraySource(images, np.arange(count), name="toy")
    return Damaged(source, set(bad)) if bad else source


class Damaged:
    def __init__(self, source, bad):
        self.source, self.bad = source, bad
        self.num_classes = source.num_classes

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        example = self.source[index]
        return example | ({"image": b"\xff\xd8junk"} if index in self.bad else {})

    def name(self, index):
        return f"file{index}.jpg"


AS_IS = transforms.make("train", "none", image_size=8)


def train(source, transform=AS_IS, batch_size=16, seed=0, cache="none", **options):
    return loader.train_loader(
        source, transform, batch_size=batch_size, seed=seed, cache=cache, **options
    )


def same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert np.asarray(one[key]).dtype == np.asarray(other[key]).dtype
        np.testing.assert_array_equal(np.asarray(one[key]), np.asarray(other[key]))


@pytest.mark.parametrize("processes", [2, 4, 8, 16])
def test_the_global_batch_does_not_depend_on_the_processes(photographs, processes):
    for step in (3, 10**9):
        whole = train(photographs, CROP, threads=2).batch(step)
        parts = [
            train(
                photographs,
                CROP,
                process_index=index,
                process_count=processes,
                threads=1,
            ).batch(step)
            for index in range(processes)
        ]
        joined = {key: np.concatenate([p[key] for p in parts]) for key in whole}
        same(joined, whole)


def test_shapes_and_types(photographs):
    batch = train(photographs, CROP).batch(0)
    assert batch["image"].shape == (16, 24, 32, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].shape == (16,) and batch["label"].dtype == np.int32


@pytest.mark.parametrize("start", [0, 5, 10**12])
def test_iterating_from_a_step_is_the_batches_from_there(photographs, start):
    one, other = train(photographs, CROP), train(photographs, CROP, threads=1)
    for step, batch in zip(range(start, start + 4), one.iterate(start)):
        same(batch, other.batch(step))


def test_seeds_give_other_batches(photographs):
    one, other = (train(photographs, CROP, seed=seed).batch(0) for seed in (0, 1))
    assert (one["image"] != other["image"]).any()
    assert (one["label"] != other["label"]).any()


def test_every_epoch_reads_everything_once_across_batch_borders():
    batches = train(toys(50), batch_size=16).iterate(0)
    labels = np.concatenate([next(batches)["label"] for _ in range(25)])
    for epoch in labels.reshape(8, 50):
        assert sorted(epoch) == list(range(50))


@pytest.mark.parametrize("repeats, distinct", [(3, 8), (5, 5), (24, 1)])
def test_repeated_images_are_each_augmented_anew(photographs, repeats, distinct):
    """Each image so often in every batch; over processes, and from any step."""
    options = {"batch_size": 24, "repeats": repeats}
    source, plain = train(photographs, CROP, **options), train(toys(30), **options)
    seen = []
    for step in (0, 1, 2):
        labels = plain.batch(step)["label"]
        assert len(set(labels)) == distinct
        assert {list(labels).count(one) for one in labels} <= {repeats, repeats - 1}
        assert labels[0] != labels[1] or distinct == 1  # whoever mixes neighbours
        seen += list(dict.fromkeys(labels))
        whole = source.batch(step)
        assert len({image.tobytes() for image in whole["image"]}) == 24
        parts = [
            train(photographs, CROP, process_index=k, process_count=2, **options)
            for k in range(2)
        ]
        for key, values in whole.items():
            joined = np.concatenate([part.batch(step)[key] for part in parts])
            np.testing.assert_array_equal(joined, values)
    assert len(set(seen)) == 3 * distinct  # an epoch has each image once
    with pytest.raises(errors.UserError, match="data.repeats=0"):
        train(toys(3), repeats=0)


@pytest.mark.parametrize("count, batch_size", [(1, 1), (1, 8), (3, 16), (5, 5)])
def test_datasets_smaller_than_the_batch(count, batch_size):
    batch = train(toys(count), batch_size=batch_size).batch(7)
    assert batch["image"].shape == (batch_size, 8, 8, 3)
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
    assert set(np.bincount(batch["label"])) <= {
        batch_size // count,
        batch_size // count + 1,
        batch_size // count - 1,
    }


def test_steps_may_be_small_numpy_integers():
    source = train(toys(50), batch_size=16)
    same(source.batch(np.int32(2**30)), source.batch(2**30))


def test_grey_images_get_three_channels():
    digits = catalog.open_source("digits", "train")
    for cache in ("none", "ram"):
        batch = train(digits, cache=cache).batch(0)
        assert batch["image"].shape == (16, 8, 8, 3)
        assert (batch["image"] == batch["image"][..., :1]).all()


def test_multi_hot_labels():
    hot = np.eye(20, 30, dtype=np.uint8)
    source = sources.ArraySource(toys(20).images, hot)
    batch = train(source).batch(0)
    assert batch["label"].shape == (16, 30) and batch["label"].dtype == np.float32
    np.testing.assert_array_equal(batch["label"].argmax(-1), batch["image"][:, 0, 0, 0])


def test_unreadable_images_are_replaced_alike_everywhere():
    source = toys(40, bad=(3, 4, 20))
    options = {"max_corrupt": 0.1, "batch_size": 20}
    reference = train(toys(40), **options)
    with_bad = train(source, **options)
    replaced = {3: 5, 4: 5, 20: 21}
    for step in range(4):
        batch, good = with_bad.batch(step), reference.batch(step)
        wanted = [replaced.get(label, label) for label in good["label"].tolist()]
        assert batch["label"].tolist() == wanted
        assert batch["image"][:, 0, 0, 0].tolist() == wanted
        shares = [
            train(source, process_index=p, process_count=4, **options).batch(step)
            for p in range(4)
        ]
        joined = {key: np.concatenate([s[key] for s in shares]) for key in batch}
        same(joined, batch)
    assert sorted(with_bad.corrupt) == ["file20.jpg", "file3.jpg", "file4.jpg"]


def test_too_many_unreadable_images_stop_the_run():
    batches = train(toys(40, bad=range(8)), max_corrupt=0.1, batch_size=40)
    with pytest.raises(errors.UserError, match=r"\d of 40 images .*file\d"):
        batches.batch(0)
    with pytest.raises(errors.UserError, match="of 40 images"):
        list(itertools.islice(batches.iterate(0), 3))


def test_a_label_out_of_range_never_reaches_the_device():
    images = toys(6).images
    source = sources.ArraySource(images, np.array([0, 1, 2, 9, 1, 0]), num_classes=3)
    for cache in ("none", "ram"):
        with pytest.raises(errors.UserError, match="array:3: label 9 .* 0..2"):
            train(source, batch_size=6, cache=cache).batch(0)


def test_closing_ends_the_threads():
    before = set(threading.enumerate())
    batches = train(toys(50), threads=3)
    stream = batches.iterate(0)
    next(stream)
    started = set(threading.enumerate()) - before
    assert started
    batches.close()
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize("size, processes", [(0, 1), (10, 4), (3, 2), (-4, 2)])
def test_batches_that_cannot_be_shared_out_are_errors(size, processes):
    for make in (loader.train_loader, loader.eval_loader):
        extra = {"seed": 0} if make is loader.train_loader else {}
        with pytest.raises(errors.UserError, match="equal shares"):
            make(toys(9), AS_IS, batch_size=size, process_count=processes, **extra)


def test_wrong_options_are_errors():
    with pytest.raises(errors.UserError, match="cache='disk'"):
        train(toys(9), cache="disk")
    with pytest.raises(errors.UserError, match="threads=-1"):
        train(toys(9), threads=-1)
    with pytest.raises(errors.UserError, match="no example"):
        train([])


def test_anything_with_len_and_getitem_is_a_source(photographs):
    class Foreign:
        def __len__(self):
            return len(photographs)

        def __getitem__(self, index):
            assert type(index) is int
            return photographs[index] | {"other": "ignored"}

    same(train(Foreign(), CROP).batch(2), train(photographs, CROP).batch(2))


EVAL = transforms.make("eval", "none", image_size=8)


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 11, 12, 13, 25])
def test_evaluation_sees_each_example_exactly_once(count, processes):
    runs = [
        list(
            loader.eval_loader(
                toys(count),
                EVAL,
                batch_size=12,
                process_index=index,
                process_count=processes,
                threads=2,
            )
        )
        for index in range(processes)
    ]
    assert {len(run) for run in runs} == {-(-count // 12)}
    seen = []
    for shares in zip(*runs):
        batch = {k: np.concatenate([s[k] for s in shares]) for k in shares[0]}
        assert batch["image"].shape == (12, 8, 8, 3)
        assert batch["mask"].dtype == np.float32 and batch["label"].dtype == np.int32
        real = batch["mask"] == 1
        assert (batch["image"][~real] == 0).all() and (batch["label"][~real] == 0).all()
        np.testing.assert_array_equal(
            batch["image"][real, 0, 0, 0], batch["label"][real]
        )
        seen += batch["label"][real].tolist()
    assert seen == list(range(count))


def test_evaluation_masks_unreadable_images_and_can_be_repeated():
    batches = loader.eval_loader(toys(10, bad=(2, 7)), EVAL, batch_size=4)
    for _ in range(2):
        masks = np.concatenate([batch["mask"] for batch in batches])
        assert masks.tolist() == [1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 0, 0]
        assert sorted(batches.corrupt) == ["file2.jpg", "file7.jpg"]
    assert len(batches) == 3


def test_evaluation_pads_vectors_with_zeros():
    hot = np.eye(5, 7, dtype=np.float32)
    source = sources.ArraySource(toys(5).images, hot)
    *_, last = loader.eval_loader(
        source, EVAL, batch_size=8, process_index=1, process_count=2
    )
    assert last["label"].shape == (4, 7)
    np.testing.assert_array_equal(last["label"].sum(-1), [1, 0, 0, 0])


def test_evaluation_may_be_left_early():
    for batch in loader.eval_loader(toys(100), EVAL, batch_size=4):
        assert batch["mask"].all()
        break


def test_storage_that_does_not_answer_is_an_error_in_time():
    answers = threading.Event()

    class Silent:
        def __len__(self):
            return 8

        def __getitem__(self, index):
            answers.wait(60)
            return {"image": np.zeros((8, 8, 3), np.uint8), "label": 0}

    resized = transforms.make("train", "resize", image_size=8)
    options = {"batch_size": 4, "seed": 0, "cache": "none", "threads": 2}
    batches = loader.train_loader(Silent(), resized, read_timeout=0.1, **options)
    try:
        with pytest.raises(TimeoutError, match="no images in 0.1 s") as caught:
            batches.batch(0)
        batches.close()  # which waits for none of them
        assert not answers.is_set() and errors.transient(caught.value)
    finally:
        answers.set()
