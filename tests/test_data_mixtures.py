import itertools

import numpy as np
import pytest
from PIL import Image

from vit_jax import errors
from vit_jax.data import catalog, draws, loader, orders, transforms
from vit_jax.settings import naming

CROP = transforms.make("train", "resize", image_size=8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six images: of the digit 3, of 9, and of a class that digits do not have."""
    root = tmp_path_factory.mktemp("photos")
    grey = iter(range(0, 240, 40))
    for split, name in itertools.product(("train", "test"), ("3", "9", "hand")):
        (root / split / name).mkdir(parents=True)
        pixels = np.full((8, 8, 3), next(grey), np.uint8)
        Image.fromarray(pixels).save(root / split / name / "a.png")
    return f"folder:{root}"


def mixed(*parts):
    return naming.MIX + ",".join(f"{weight}*{name}" for weight, name in parts)


@pytest.mark.parametrize("weights", [(0.7, 0.3), (5, 3, 2), (1, 1e-4)])
def test_of_every_source_there_is_its_share_in_epochs_of_its_own(weights):
    sizes = (50, 7, 200)[: len(weights)]
    order = orders.weighted(3, sizes, weights)
    block = 1 << 16
    starts = np.cumsum(sizes) - sizes
    for first in (0, 5 * block, 10**9 * block):
        found = order(first + np.arange(block))
        which = np.searchsorted(np.cumsum(sizes), found, side="right")
        counts = np.bincount(which, minlength=len(sizes))
        shares = np.array(weights) / sum(weights) * block
        assert np.abs(counts - shares).max() <= 1
        early = np.bincount(which[:8192], minlength=len(sizes)) / 8192
        assert np.abs(early - shares / block).max() < 0.02  # not one after the other
        for k, size in enumerate(sizes):
            seen = np.bincount(found[which == k] - starts[k], minlength=size)
            assert seen.max() - seen.min() <= 2  # whole epochs, but for both ends


def test_an_order_of_many_streams_is_a_permutation_in_every_epoch():
    sizes = np.array([1, 2, 37, 1000])
    for stream, size in enumerate(sizes):
        positions = np.arange(3 * size)
        streams, each = np.full(3 * size, stream), np.full(3 * size, size)
        order = draws.shuffled_each(1, streams, positions, each).reshape(3, size)
        for epoch in order:
            assert sorted(epoch) == list(range(size))
        together = draws.shuffled_each(
            1,
            np.concatenate([[0], streams]),
            np.concatenate([[5], positions]),
            np.concatenate([[9], each]),
        )
        np.testing.assert_array_equal(together[1:], order.ravel())
    assert (order[0] != order[1]).any()


def test_classes_are_joined_by_name(photos):
    name = mixed((0.75, "digits"), (0.25, photos))
    info = catalog.describe(name)
    assert info.label_names == (*map(str, range(10)), "hand")
    assert (info.num_classes, info.splits) == (11, {"train": 1441, "test": 359 + 3})
    test = catalog.open_source(name, "test")
    assert test.image_shape is None
    assert [test[359 + k]["label"] for k in range(3)] in [
        list(order) for order in itertools.permutations((3, 9, 10))
    ]
    assert test.name(0) == "digits:0" and test.name(361).endswith("a.png")
    same = catalog.describe(mixed((1, "digits"), (1, "digits@train[:50%]")))
    assert (same.num_classes, same.splits["train"]) == (10, 1438 + 719)


def test_batches_depend_on_neither_hosts_nor_threads_nor_restarts(photos):
    name = mixed((0.6, "digits@train[:300]"), (0.4, f"{photos}@train+test"))
    source = catalog.open_source(name, "train")
    assert len(source) == 306

    def batch(step, **options):
        options = {"batch_size": 40, "seed": 2, "cache": "none"} | options
        made = loader.train_loader(source, CROP, **options)
        try:
            return made.batch(step)
        finally:
            made.close()

    labels = []
    for step in range(8):
        whole = batch(step, threads=1)
        parts = [batch(step, process_index=k, process_count=4) for k in range(4)]
        for key, values in whole.items():
            joined = np.concatenate([part[key] for part in parts])
            np.testing.assert_array_equal(joined, values)
        labels.append(whole["label"])
    # Of six images each is seen over and over, a third of them of a class of their own.
    assert abs(np.mean(np.concatenate(labels) == 10) - 0.4 / 3) < 0.05


@pytest.mark.parametrize(
    "name, shown",
    [
        ("mix:digits", "cannot be read at 'digits'"),
        ("mix:0*digits", "cannot be read"),
        ("mix:1*digits,1*nothing_of_it", "nothing_of_it"),
        ("mix:1*digits,1*digits@other", "'other' is not a split of digits"),
        ("mix:1*digits,1*PHOTOS#names=x", "no columns"),
    ],
)
def test_mixtures_that_there_are_not(name, shown, photos):
    with pytest.raises(errors.UserError) as raised:
        info = catalog.describe(name.replace("PHOTOS", photos))
        assert not info
    assert shown in str(raised.value)


def test_what_a_mixture_cannot_do_is_said(photos):
    name = mixed((1, "digits"), (1, photos))
    with pytest.raises(errors.UserError, match="a mixture is not cut"):
        catalog.open_source(name, "train[:50%]")
    with pytest.raises(errors.UserError, match="columns of parts of mix: are theirs"):
        naming.of_run({"dataset": name, "image_column": "a", "label_column": ""})
    with pytest.raises(errors.UserError, match="less than one in 65536"):
        orders.weighted(0, (3, 3), (1, 1e-6))


class Nameless:
    """Three examples without names of classes."""

    num_classes = 2

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"image": np.zeros((8, 8, 3), np.uint8), "label": index % 2}


def test_classes_without_names_cannot_be_joined(tmp_path, monkeypatch):
    (tmp_path / "nameless.py").write_text(
        "from test_data_mixtures import Nameless\n"
        "def splits():\n    return {'train': Nameless()}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(errors.UserError, match="have no names .*#names=FILE"):
        catalog.describe(mixed((1, "digits"), (1, "py:nameless:splits")))
