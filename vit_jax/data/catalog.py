"""Datasets by name: one row each, and how to open them.

A dataset is a TFDS name ("cifar10", "cifar10:3.0.2", "cifar10:3.*.*"), "digits",
"folder:PATH", the path of an existing folder, or one of `forms` ("parquet:GLOB");
columns may follow, as `naming` has them. A prepared dataset's own files win over its
row.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from vit_jax import errors
from vit_jax.data import sources, splits
from vit_jax.host import files as host_files
from vit_jax.settings import naming

# What the names of datasets begin with that a program handed over.
GIVEN = "source:"
handed_over: dict[str, "Opened"] = {}  # by these, see `handed`
_NAME = re.compile(r"^[A-Za-z]\w*(/[\w.+-]+)?(:\d{1,9}(\.(\d{1,9}|\*)){2})?$")


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset; `splits` counts the examples of each split.

    A `numeric` one has labels that are numbers, `num_classes` of them an example.
    """

    name: str
    num_classes: int
    splits: dict[str, int]
    label_names: tuple[str, ...] | None
    multi_label: bool
    prepared: bool
    numeric: bool = False


class Opened(Protocol):
    """A dataset that is there: what it holds, and its examples."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def num_classes(self) -> int:
        """How many classes there are; 0: unknown."""
        ...

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Their names, where there are any."""
        ...

    @property
    def multi_label(self) -> bool:
        """Whether an example may have several."""
        ...

    @property
    def numeric(self) -> bool:
        """Whether labels are numbers and no classes; `num_classes` of them each."""
        ...

    def counts(self) -> dict[str, int]:
        """Returns the number of examples of each split."""
        ...

    def open(self, ranges: Sequence[splits.Range]) -> sources.Source:
        """Returns the examples of ranges of splits."""
        ...


@dataclasses.dataclass(frozen=True)
class Row:
    """What the catalog knows without the data."""

    num_classes: int
    splits: dict[str, int]
    multi_label: bool = False
    note: str = ""  # what has to be fetched by hand before it can be prepared


_TARS = (
    "First put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from "
    "https://image-net.org (free account) into {data_dir}/downloads/manual."
)
_IMAGENET21K = (
    "ImageNet-21k (Fall 2011 release) has no TFDS builder that downloads it: get it "
    "from https://image-net.org and put it into a folder of class folders, then use "
    "folder:PATH; or prepare a TFDS dataset named imagenet21k of your own."
)
_JFT = (
    "JFT is Google's own and not public: it cannot be had. The row is there to plan "
    "and count; a TFDS dataset of yours of that name would be opened."
)

_BY_HAND = (
    "TFDS cannot download all of it: first put what "
    "https://www.tensorflow.org/datasets/catalog/{name} asks for into "
    "{data_dir}/downloads/manual."
)

_VALIDATION_TAR = _TARS.replace("ILSVRC2012_img_train.tar and ", "")

# Counts of the paper's section 4.1 and of TFDS; the second part is of few-shot
# evaluation and of VTAB.
ROWS = {
    "imagenet2012": Row(1000, {"train": 1281167, "validation": 50000}, note=_TARS),
    # ReaL, of which 3,163 images have no label and are left out of its figures.
    "imagenet2012_real": Row(
        1000, {"validation": 50000}, multi_label=True, note=_VALIDATION_TAR
    ),
    "imagenet_v2/matched-frequency": Row(1000, {"test": 10000}),
    "imagenet_v2/threshold-0.7": Row(1000, {"test": 10000}),
    "imagenet_v2/topimages": Row(1000, {"test": 10000}),
    "imagenet21k": Row(21843, {"train": 14197122}, multi_label=True, note=_IMAGENET21K),
    "jft": Row(18291, {"train": 303000000}, multi_label=True, note=_JFT),
    # "Scaling Vision Transformers", section 3: about three billion images.
    "jft3b": Row(29593, {"train": 3000000000}, multi_label=True, note=_JFT),
    "cifar10": Row(10, {"train": 50000, "test": 10000}),
    "cifar100": Row(100, {"train": 50000, "test": 10000}),
    "oxford_iiit_pet": Row(37, {"train": 3680, "test": 3669}),
    "oxford_flowers102": Row(102, {"train": 1020, "validation": 1020, "test": 6149}),
    "caltech101": Row(102, {"train": 3059, "test": 6085}),
    "clevr": Row(0, {"train": 70000, "validation": 15000, "test": 15000}),
    "caltech_birds2011": Row(200, {"train": 5994, "test": 5794}),
    "cars196": Row(196, {"train": 8144, "test": 8041}),
    "diabetic_retinopathy_detection/btgraham-300": Row(
        5, {"train": 35126, "validation": 10906, "test": 42670}, note=_BY_HAND
    ),
    "dsprites": Row(0, {"train": 737280}),
    "dmlab": Row(6, {"train": 65550, "validation": 22628, "test": 22735}),
    "dtd": Row(47, {"train": 1880, "validation": 1880, "test": 1880}),
    "eurosat/rgb": Row(10, {"train": 27000}),
    "kitti": Row(0, {"train": 6347, "validation": 423, "test": 711}),
    "patch_camelyon": Row(2, {"train": 262144, "validation": 32768, "test": 32768}),
    "resisc45": Row(45, {"train": 31500}, note=_BY_HAND),
    "smallnorb": Row(5, {"train": 24300, "test": 24300}),
    "sun397/tfds": Row(397, {"train": 76128, "validation": 10875, "test": 21750}),
    "svhn_cropped": Row(10, {"train": 73257, "test": 26032}),
    "uc_merced": Row(21, {"train": 2100}),
}
NOT_PREPARABLE = ("imagenet21k", "jft", "jft3b")
TEST_SPLITS = ("test", "validation", "val")  # the first that the dataset has


def describe(dataset: str, *, data_dir: str = "") -> DatasetInfo:
    """Returns what is known of a dataset; a row of the catalog needs no data.

    Args:
        dataset: See the module.
        data_dir: Of TFDS; "" is $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
        errors.UserError: neither in the catalog nor prepared, or a damaged dataset.
    """
    name = _row_name(dataset)
    found = _present(dataset, data_dir)
    if found is not None:
        name = name if name in ROWS else found.name
        return DatasetInfo(
            name=name,
            num_classes=found.num_classes or _row_classes(dataset),
            splits=found.counts(),
            label_names=found.label_names,
            multi_label=found.multi_label,
            prepared=True,
            numeric=found.numeric,
        )
    if name not in ROWS:
        raise _not_prepared(dataset, data_dir)
    row = ROWS[name]
    classes = _row_classes(dataset)
    if not classes:
        raise errors.UserError(
            f"{name} has several labels; want one, as in "
            f"--config.data.label_column={naming.RULE}NAME, of "
            "vit_jax/data/label_rules.py"
        )
    return DatasetInfo(
        name, classes, dict(row.splits), None, row.multi_label, prepared=False
    )


def open_source(dataset: str, split: str, *, data_dir: str = "") -> sources.Source:
    """Opens the examples that a split expression selects.

    Args:
        dataset: See the module.
        split: "train", "train[:98%]", "train+test"; see `splits.resolve`.
        data_dir: See `describe`.

    Raises:
        errors.UserError: not prepared (with the command that prepares it), a wrong
            split, or damaged files.
    """
    found = _present(dataset, data_dir)
    if found is None:
        raise _not_prepared(dataset, data_dir)
    bare = naming.split(dataset)[0]
    source: Any = found.open(splits.resolve(split, found.counts(), bare))
    source.num_classes = source.num_classes or _row_classes(dataset)
    return source


def num_examples(info: DatasetInfo, split: str) -> int:
    """Returns how many examples a split expression selects.

    Raises:
        errors.UserError: a wrong expression or split.
    """
    return splits.count(split, info.splits, info.name)


def usual_split(info: DatasetInfo) -> str:
    """Returns the split to report figures on: test, else validation or val.

    Raises:
        errors.UserError: the dataset has none of these.
    """
    for split in TEST_SPLITS:
        if split in info.splits:
            return split
    raise errors.UserError(
        f"which split of {info.name}? It has {', '.join(info.splits)}: --split=NAME, "
        "or the evaluation's split=NAME"
    )


def _row_name(dataset: str) -> str:
    """The name of a dataset's row, if it has one."""
    return naming.split(dataset)[0].split(":")[0]


def _row_classes(dataset: str) -> int:
    label = naming.split(dataset)[1].label
    if label.startswith(naming.RULE):
        from vit_jax.data import label_rules

        return label_rules.named(label).classes
    name = _row_name(dataset)
    return ROWS[name].num_classes if name in ROWS else 0


def _folder_path(dataset: str) -> Path | None:
    """The folder that `dataset` names, None if it names none."""
    if dataset.startswith("folder:"):
        name = dataset.removeprefix("folder:")
        if not name:
            raise errors.UserError(f"dataset={dataset!r} names no folder: folder:PATH")
        return host_files.expanded(name)
    path = host_files.expanded(dataset)
    return path if dataset and dataset not in ROWS and path.is_dir() else None


def _refuse_columns(dataset: str) -> None:
    bare, columns = naming.split(dataset)
    if columns:
        raise errors.UserError(
            f"dataset={bare!r} has no columns; leave data.image_column, "
            "data.label_column and data.class_names empty"
        )


def _present(dataset: str, data_dir: str) -> Opened | None:
    """The dataset if it is there; of the kinds' readers only its own is loaded."""
    if dataset.startswith(naming.MIX):
        from vit_jax.data import mixtures

        return mixtures.opened(dataset, data_dir, describe, open_source)
    if naming.split(dataset)[1].classes:
        from vit_jax.data import subsets

        return subsets.opened(dataset, data_dir, describe, open_source)
    if dataset.partition(":")[0] in naming.FORMS and ":" in dataset:
        from vit_jax.data import forms

        return forms.opened(dataset, data_dir)
    bare, columns = naming.split(dataset)
    if bare == "digits":
        from vit_jax.data import digits

        _refuse_columns(dataset)
        return digits.Digits()
    if bare in handed_over:
        return handed_over[bare]
    directory = _find(bare, data_dir)
    if directory is not None:
        from vit_jax.data import tfds

        return tfds.opened(directory, columns)
    path = _folder_path(bare)
    if path is not None:
        from vit_jax.data import folder

        _refuse_columns(dataset)
        return folder.listed(path, name=dataset)
    return None


def _find(dataset: str, data_dir: str) -> Path | None:
    """The folder of a prepared TFDS dataset, by its name or by its path."""
    from vit_jax.data import prepared

    path = _folder_path(dataset)
    if path is not None and prepared.is_one(path):
        return path
    if _NAME.match(dataset):
        name, _, version = dataset.partition(":")
        return prepared.find(prepared.root(data_dir), name, version)
    return None


def _not_prepared(dataset: str, data_dir: str) -> errors.UserError:
    from vit_jax.data import missing

    notes = {name: row.note for name, row in ROWS.items()}
    name = naming.split(dataset)[0]
    kind = missing.HANDED if name.startswith(GIVEN) else missing.PATH
    kind = missing.NAME if _NAME.match(name) else kind
    return missing.error(name, data_dir, kind, notes, never=NOT_PREPARABLE)
