import pytest

from vit_jax import errors
from vit_jax.data import catalog


@pytest.mark.parametrize(
    "name, classes, splits, multi",
    [
        ("imagenet2012", 1000, {"train": 1281167, "validation": 50000}, False),
        ("imagenet21k", 21843, {"train": 14197122}, True),
        ("jft", 18291, {"train": 303000000}, True),
        ("cifar10", 10, {"train": 50000, "test": 10000}, False),
        ("cifar100", 100, {"train": 50000, "test": 10000}, False),
        ("oxford_iiit_pet", 37, {"train": 3680, "test": 3669}, False),
        (
            "oxford_flowers102",
            102,
            {"train": 1020, "validation": 1020, "test": 6149},
            False,
        ),
    ],
)
def test_rows_need_no_data(name, classes, splits, multi, tmp_path):
    info = catalog.describe(name, data_dir=str(tmp_path))
    wanted = catalog.DatasetInfo(name, classes, splits, None, multi, prepared=False)
    assert info == wanted
    assert catalog.describe(name, data_dir=str(tmp_path / "nowhere")) == wanted


@pytest.mark.parametrize(
    "name, classes, splits",
    [
        ("caltech101", 102, {"train": 3059, "test": 6085}),
        ("caltech_birds2011", 200, {"train": 5994, "test": 5794}),
        ("cars196", 196, {"train": 8144, "test": 8041}),
        ("dtd", 47, {"train": 1880, "validation": 1880, "test": 1880}),
        ("uc_merced", 21, {"train": 2100}),
        ("svhn_cropped", 10, {"train": 73257, "test": 26032}),
        ("eurosat/rgb", 10, {"train": 27000}),
        ("resisc45", 45, {"train": 31500}),
    ],
)
def test_rows_of_few_shot_evaluation_and_of_vtab(name, classes, splits, tmp_path):
    info = catalog.describe(name, data_dir=str(tmp_path))
    assert (info.num_classes, info.splits, info.prepared) == (classes, splits, False)
    with pytest.raises(errors.UserError, match=f"builder\\('{name}'") as caught:
        catalog.open_source(name, "train", data_dir=str(tmp_path))
    assert ("downloads/manual" in str(caught.value)) == (name == "resisc45")


def test_the_papers_dev_splits(tmp_path):
    """Section 4.1: 1 % of ImageNet, 2 % of CIFAR, 10 % of Pets and Flowers."""
    sizes = {
        ("imagenet2012", "train[:99%]"): 1268355,
        ("cifar10", "train[98%:]"): 1000,
        ("oxford_iiit_pet", "train[90%:]"): 368,
        ("oxford_flowers102", "train[:90%]"): 918,
    }
    for (name, split), size in sizes.items():
        info = catalog.describe(name, data_dir=str(tmp_path))
        assert catalog.num_examples(info, split) == size


def test_prepared_files_win_over_the_row(shared_data):
    info = catalog.describe("cifar10", data_dir=str(shared_data))
    assert info.prepared
    assert info.splits == {"train": 50000, "test": 10000}
    assert info.label_names[0] == "airplane"
    assert catalog.describe("cifar10:3.0.2", data_dir=str(shared_data)) == info


def test_data_dir_comes_from_the_environment(shared_data, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(shared_data))
    assert len(catalog.open_source("imagenet_samples", "train")) == 250


def test_a_dataset_not_prepared_says_how_to_prepare_it(tmp_path):
    with pytest.raises(errors.UserError) as error:
        catalog.open_source("cifar10", "train", data_dir=str(tmp_path))
    text = str(error.value)
    assert f"looked for {tmp_path}/cifar10/" in text
    assert 'pip install "vit_jax[prepare]"' in text
    assert f"tfds.builder('cifar10', data_dir='{tmp_path}')" in text
    assert "download_and_prepare(file_format='array_record')" in text
    with pytest.raises(errors.UserError) as error:
        catalog.open_source("imagenet2012", "train", data_dir=str(tmp_path))
    assert "ILSVRC2012_img_train.tar" in str(error.value)
    assert f"{tmp_path}/downloads/manual" in str(error.value)


@pytest.mark.parametrize(
    "name, shown",
    [
        ("jft", "not public"),
        ("imagenet21k", "image-net.org"),
        ("cifer10", 'Did you mean "cifar10"?'),
        ("mnist", "not in the catalog"),
        ("../cifar10", "neither"),
        ("no/such/folder/here", "neither"),
        ("", "neither"),
        ("folder:/no/such", "does not exist"),
        ("folder:", "names no folder"),
        (f"folder:{__file__}", "is a file, not a folder"),
        (__file__, "is a file, not a folder"),
    ],
)
def test_what_cannot_be_opened_says_why(name, shown, tmp_path):
    with pytest.raises(errors.UserError) as error:
        catalog.open_source(name, "train", data_dir=str(tmp_path))
    assert shown in str(error.value)
    assert str(error.value).count("\n") < 10


def test_missing_data_dir_is_named(tmp_path):
    with pytest.raises(errors.UserError, match="nowhere' does not exist"):
        catalog.open_source("cifar10", "train", data_dir=str(tmp_path / "nowhere"))
