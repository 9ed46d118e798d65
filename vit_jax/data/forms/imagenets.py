"""ImageNet's other test sets, with the 1,000 outputs of any ImageNet-1k model.

    real:FILE[,IMAGES]   the reassessed labels ("Are we done with ImageNet?") of the
                         validation images, out of real.json
    imagenetv2:FOLDER    ImageNet-V2 as it is published: a folder a class, by number
    objectnet:FOLDER     ObjectNet as it is published: images/ and mappings/

An image of ReaL or ObjectNet has all the classes that are right for it; one without
any is left out of every figure. Those of ObjectNet are of the 113 classes that it
shares with ImageNet, by its own map. Classes are in the order of ImageNet's synset
numbers, as the outputs of all ImageNet-1k models are. TFDS has `imagenet2012_real` and
`imagenet_v2/...` as well.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.data import decode, prepared, splits, tfds, walking
from vit_jax.data.forms import lists, table
from vit_jax.host import files as host_files
from vit_jax.settings import documents, naming

CLASSES = 1000
_VALIDATION = re.compile(r"ILSVRC2012_val_([0-9]{8})\.\w+")
# What ObjectNet's authors marked their images with, to be cut off before use.
_BORDER = 2


@dataclass(frozen=True)
class _Labels:
    """What a `table.Table` asks of the labels of its splits."""

    splits: Mapping[str, Any]
    label_names: tuple[str, ...] | None
    multi_label: bool
    num_classes: int = CLASSES
    numeric: bool = False


class _Several:
    """The right classes of each image, as float32 [1000]."""

    def __init__(self, classes: Callable[[int], Sequence[int]]):
        """Takes a function of the place of an image."""
        self._classes = classes

    def __getitem__(self, index: int) -> np.ndarray:
        hot = np.zeros(CLASSES, np.float32)
        hot[list(self._classes(index))] = 1
        return hot


def read_real(path: Path) -> list[list[int]]:
    """Returns the classes of each validation image, in the order of their numbers.

    Raises:
        errors.UserError: the file is not like real.json.
    """
    found = documents.read(path)
    good = isinstance(found, list) and all(
        isinstance(one, list) and all(type(n) is int and 0 <= n < CLASSES for n in one)
        for one in found
    )
    if not good or not found:
        raise errors.UserError(
            f"{path} is no real.json; want a list with a list of classes, 0 to "
            f"{CLASSES - 1}, of each validation image"
        )
    return found


def open_real(
    spec: str, columns: naming.Columns, dataset: str, data_dir: str
) -> table.Table:
    """Opens the validation images with the labels of a file.

    Args:
        spec: "FILE" or "FILE,IMAGES": a folder with the 50,000 files, however deep, or
            of a prepared imagenet2012; without it that of TFDS.
        columns: None has an effect.
        dataset: The name, for messages.
        data_dir: Of TFDS.

    Raises:
        errors.UserError: no such file or images, a file that is not real.json.
    """
    _refuse_columns(columns, dataset)
    file, _, place = spec.partition(",")
    real = read_real(host_files.expanded(file))
    where = host_files.expanded(place) if place else _imagenet(data_dir)
    names: tuple[str, ...] | None = None
    walk = walking.Walk()
    images: table.Images
    if prepared.is_one(where):
        info = tfds.read_info(where)
        source = info.open([splits.Range("validation", 0, info.counts()["validation"])])
        images, names = _Prepared(source), info.label_names
        number = images.number
    else:
        files = [
            name
            for name in _files(walk, where)
            if _VALIDATION.fullmatch(os.path.basename(name))
        ]
        if not files:
            raise errors.UserError(
                f"{where} holds no validation image, ILSVRC2012_val_00000001.JPEG"
            )
        images = lists.FileImages(where, files)

        def number(index: int) -> int:
            return _number(files[index])

    def classes(index: int) -> Sequence[int]:
        found = number(index)
        if not 1 <= found <= len(real):
            raise errors.UserError(
                f"{images.name(index)}: {file} has labels of {len(real)} images"
            )
        return real[found - 1]

    labels = _Labels({"validation": _Several(classes)}, names, multi_label=True)
    return table.Table(dataset, {"validation": images}, labels, holds=walk.holds)


class _Prepared:
    """The validation images of a prepared imagenet2012; see `table.Images`."""

    def __init__(self, source: tfds.TfdsSource):
        """Takes the whole split."""
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int) -> Any:
        """Returns an image."""
        return self._source[index]["image"]

    def name(self, index: int) -> str:
        """Returns where it is."""
        return self._source.name(index)

    def number(self, index: int) -> int:
        """Returns its number, from 1, by the name of its file."""
        return _number(self._source.text(index, "file_name"))


def _number(name: str) -> int:
    match = _VALIDATION.fullmatch(os.path.basename(name))
    if match is None:
        raise errors.UserError(
            f"{name[:200]}: want a validation image, ILSVRC2012_val_00000001.JPEG"
        )
    return int(match[1])


def _imagenet(data_dir: str) -> Path:
    root = prepared.root(data_dir)
    found = prepared.find(root, "imagenet2012", "")
    if found is None:
        raise errors.UserError(
            f"imagenet2012 is not prepared in {root}: want real:FILE,IMAGES with the "
            "folder of the validation images, or vit_jax prepare imagenet2012"
        )
    return found


def open_v2(spec: str, columns: naming.Columns, dataset: str) -> table.Table:
    """Opens one of ImageNet-V2's three folders, of class folders 0 to 999.

    Args:
        spec: The folder.
        columns: None has an effect.
        dataset: The name, for messages.

    Raises:
        errors.UserError: no such folder, other folders in it.
    """
    _refuse_columns(columns, dataset)
    root = host_files.expanded(spec)
    walk = walking.Walk()
    files = _files(walk, root)
    folders = [name.split("/")[0] for name in files]
    wrong = [n for n in folders if not n.isascii() or not n.isdigit()]
    wrong += [n for n in folders if n not in wrong and int(n) >= CLASSES]
    if wrong:
        raise errors.UserError(
            f"{dataset}: folder {wrong[0]!r}; want a folder a class, 0 to "
            f"{CLASSES - 1}, as ImageNet-V2 is published"
        )
    numbers = [int(name) for name in folders]
    labels = _Labels({"test": numbers}, None, multi_label=False)
    images = {"test": lists.FileImages(root, files)}
    return table.Table(dataset, images, labels, holds=walk.holds)


def read_objectnet(mappings: Path) -> dict[str, list[int]]:
    """Returns the ImageNet classes of each of ObjectNet's folders that has any.

    Args:
        mappings: ObjectNet's own folder: `folder_to_objectnet_label.json` from folders
            to names; `objectnet_to_imagenet_1k.json` from these to ImageNet's
            descriptions, "; " between several; `imagenet_to_label_2012_v2`, 1,000 lines
            of these; `pytorch_to_imagenet_2012_id.json` from classes to such a line.

    Raises:
        errors.UserError: a file is missing or another.
    """
    folders = _texts(mappings / "folder_to_objectnet_label.json")
    described = _texts(mappings / "objectnet_to_imagenet_1k.json")
    path = mappings / "imagenet_to_label_2012_v2"
    try:
        text = host_files.read_whole(path, documents.MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UserError(f"{path} cannot be read: {error}") from error
    path = mappings / "pytorch_to_imagenet_2012_id.json"
    of_line = {
        line: int(number)
        for number, line in documents.read_object(path).items()
        if number.isdigit() and type(line) is int
    }
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = min(of_line, default=0)  # lines are counted from 0, or from 1
    if sorted(of_line) != list(range(first, first + len(lines))):
        raise errors.UserError(f"{path} is not of the {len(lines)} lines beside it")
    numbers = {line: of_line[first + at] for at, line in enumerate(lines)}
    found = {}
    for folder, name in folders.items():
        wanted = described[name].split("; ") if name in described else []
        if unknown := [one for one in wanted if one not in numbers]:
            raise errors.UserError(
                f"{mappings}: {name} is {unknown[0]!r}, which is none of the "
                f"{len(lines)} descriptions of ImageNet's classes"
            )
        if wanted:
            found[folder] = [numbers[one] for one in wanted]
    return found


def _texts(path: Path) -> dict[str, str]:
    found = documents.read_object(path)
    return documents.checked(found, dict.fromkeys(found, str))


def open_objectnet(spec: str, columns: naming.Columns, dataset: str) -> table.Table:
    """Opens ObjectNet: images of the classes that ImageNet has too, borders cut off.

    Args:
        spec: The folder of images/ and mappings/.
        columns: None has an effect.
        dataset: The name, for messages.

    Raises:
        errors.UserError: no such folders, maps that do not fit.
    """
    _refuse_columns(columns, dataset)
    root = host_files.expanded(spec)
    shared = read_objectnet(root / "mappings")
    walk = walking.Walk()
    files = [n for n in _files(walk, root / "images") if n.split("/")[0] in shared]
    if not files:
        raise errors.UserError(
            f"{dataset}: no image of the {len(shared)} classes that its mappings share "
            "with ImageNet; want images/CLASS/FILE"
        )

    def classes(index: int) -> Sequence[int]:
        return shared[files[index].split("/")[0]]

    labels = _Labels({"test": _Several(classes)}, None, multi_label=True)
    images = {"test": _Bordered(root / "images", files)}
    return table.Table(dataset, images, labels, holds=walk.holds)


class _Bordered(lists.FileImages):
    """Images without their border."""

    def read(self, index: int) -> Any:
        """Returns the pixels of an image; see `table.Images`."""
        pixels = decode.whole(decode.open_image(super().read(index)))
        return pixels[_BORDER:-_BORDER, _BORDER:-_BORDER]


def _files(walk: walking.Walk, root: Path) -> list[str]:
    """The images below a folder, sorted."""
    if not (found := sorted(walk.list_below(root)[0])):
        raise errors.UserError(f"{root} holds no image")
    return found


def _refuse_columns(columns: naming.Columns, dataset: str) -> None:
    if columns:
        raise errors.UserError(
            f"dataset={dataset!r} has no columns; leave data.image_column, "
            "data.label_column and data.class_names empty"
        )
