"""TFDS datasets whose features our own reader refuses, through `tfds.data_source`.

Columns are paths in the features: `objects/label`, `frames/0` for the first of a list.
"""

from pathlib import Path
from typing import Any

from vit_jax import errors
from vit_jax.data import walking
from vit_jax.data.forms import objects
from vit_jax.settings import documents, naming

_TFDS = "tensorflow_datasets."


class Rows:
    """The examples of one split, their image and label by paths."""

    def __init__(self, rows: Any, columns: naming.Columns):
        """Takes what `as_data_source` returned."""
        self._rows, self._columns = rows, columns

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = self._rows[index]
        return _walk(row, self._columns.image), _walk(row, self._columns.label)


def open_directory(
    directory: Path, columns: naming.Columns, name: str, reason: str
) -> objects.Objects:
    """Opens a prepared dataset with TFDS's own reader.

    Args:
        directory: Of one version.
        columns: Of the image and of the label, both.
        name: Of the dataset.
        reason: Why our own reader does not do.

    Raises:
        errors.UserError: no such feature, files that have no random access.
    """
    if not (columns.image and columns.label):
        raise errors.UserError(
            f"{reason}\ntensorflow_datasets can read other features: say both, as in "
            "--config.data.image_column=frames/0 "
            "--config.data.label_column=objects/label"
        )
    _check_classes(directory / "features.json")
    import tensorflow_datasets as tfds

    builder: Any = tfds.builder_from_directory(str(directory))
    label = _feature(builder.info.features, columns.label, name)
    _feature(builder.info.features, columns.image, name)
    walking.tell_once(
        f"{name} is read through tensorflow_datasets, which is slower than our own "
        f"reader, because of {columns.image!r} and {columns.label!r}"
    )
    members = {}
    for split in builder.info.splits:
        try:
            rows = builder.as_data_source(split)
        except NotImplementedError as error:
            raise errors.UserError(
                f"{directory} has no random access for tensorflow_datasets; prepare it "
                "again with download_and_prepare(file_format='array_record')"
            ) from error
        members[split] = Rows(rows, naming.Columns(columns.image, columns.label))
    known = isinstance(label, tfds.features.ClassLabel)
    names = label.names if known and label.num_classes else None
    return objects.Objects(
        *(name, members, naming.Columns(names=columns.names)),
        num_classes=int(label.num_classes or 0) if known else 0,
        label_names=names,
    )


def _check_classes(path: Path) -> None:
    """Raises `UserError` where features name a class of another module than TFDS's.

    TFDS imports the modules of the classes that a dataset's files name.
    """
    level = [documents.read(path)]
    while level:
        objects = [one for one in level if isinstance(one, dict)]
        for one in objects:
            name = one["pythonClassName"] if "pythonClassName" in one else _TFDS
            if not isinstance(name, str) or not name.startswith(_TFDS):
                raise errors.UserError(
                    f"{path} names the class {str(name)[:100]!r}, which is none of "
                    f"{_TFDS}: it would be imported"
                )
        lists = [one for one in level if isinstance(one, list)]
        level = [value for one in objects for value in one.values()]
        level += [value for one in lists for value in one]


def _walk(row: Any, path: str) -> Any:
    for step in path.split("/"):
        row = row[int(step)] if step.isdecimal() else row[step]
    return row


def _feature(features: Any, path: str, name: str) -> Any:
    """The feature at a path, that of its elements where it is a list.

    Raises:
        errors.UserError: there is none.
    """
    import tensorflow_datasets as tfds

    found = features
    for step in path.split("/"):
        if isinstance(found, tfds.features.Sequence) and not step.isdecimal():
            found = found.feature
        inner = dict(found) if isinstance(found, tfds.features.FeaturesDict) else {}
        if step.isdecimal() and isinstance(found, tfds.features.Sequence):
            found = found.feature
        elif step in inner:
            found = inner[step]
        else:
            raise errors.UserError(
                f"{name} has no feature {path!r}: {step!r} is none of "
                f"{', '.join(inner) or 'its elements'}.{errors.suggest(step, inner)}"
            )
    return found.feature if isinstance(found, tfds.features.Sequence) else found
