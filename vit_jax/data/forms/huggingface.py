"""`hf:NAME_OR_PATH`: what Hugging Face's `datasets` opens, its images not decoded.

A name of the hub (`hf:ORG/NAME`, `hf:ORG/NAME:CONFIG`), a folder that `save_to_disk`
wrote, or a folder that `load_dataset` reads.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_jax import errors
from vit_jax.data import decode
from vit_jax.data.forms import arrow, files, labelling, picking, table
from vit_jax.host import files as host_files
from vit_jax.settings import naming


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise errors.UserError(
            arrow.MISSING.format(what="hf:NAME", package="datasets")
        ) from error
    return datasets


class RowImages:
    """The images of one split, as bytes or as the paths of their files."""

    def __init__(self, rows: Any, column: str, what: str):
        """Takes a `datasets.Dataset` whose images are not decoded."""
        self._rows = rows.select_columns([column])
        self._column, self._what = column, what

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> Any:
        """Returns the bytes of an image; see `table.Images`."""
        found = self._rows[index][self._column]
        if not isinstance(found, dict):
            return found
        if found["bytes"] is not None:
            return found["bytes"]
        if not found["path"]:
            raise decode.BadImage("a row without an image")
        if files.is_url(found["path"]):
            return files.read_whole(found["path"])
        with open(found["path"], "rb") as file:
            return file.read()

    def name(self, index: int) -> str:
        """Returns "split:row"."""
        return f"{self._what}:{index}"


def open_table(spec: str, columns: naming.Columns, dataset: str) -> table.Table:
    """Opens a dataset of the hub or of a folder.

    Args:
        spec: Behind "hf:".
        columns: Of the images and labels.
        dataset: The name, for messages.

    Raises:
        errors.UserError: no such dataset or column, no network, a bad label.
    """
    return of_splits(_load(spec, dataset), columns, dataset)


def of_splits(
    splits: Mapping[str, Any], columns: naming.Columns, dataset: str
) -> table.Table:
    """Returns a table of the splits of a `datasets.DatasetDict`; see `open_table`."""
    first = next(iter(splits.values()))
    noted = {name: _noted(feature) for name, feature in first.features.items()}
    kinds = arrow.kinds(first.features.arrow_schema, noted)
    described = {name: str(feature)[:40] for name, feature in first.features.items()}
    image, label = picking.choose(kinds, columns.plain, dataset, described=described)
    for split, rows in splits.items():
        if lacking := {image, label} - set(rows.column_names):
            raise errors.UserError(
                f"{dataset}: split {split!r} has no column {sorted(lacking)[0]!r}; it "
                f"has: {', '.join(rows.column_names)}"
            )
    images = {
        split: RowImages(_encoded(rows, image), image, f"{dataset}:{split}")
        for split, rows in splits.items()
    }
    read = arrow.numbers if columns.numeric else arrow.labels
    raws = {
        split: read(_column(rows, label), f"{dataset}:{split}: {label!r}")
        for split, rows in splits.items()
    }
    labels = labelling.Labelling(
        raws,
        dataset=dataset,
        name=lambda split, index: images[split].name(index),
        declared=arrow.class_names(noted[label]),
        names_file=columns.names,
        numeric=columns.numeric,
    )
    return table.Table(dataset, images, labels)


def _encoded(rows: Any, column: str) -> Any:
    """The rows with images as they are stored."""
    datasets = _datasets()
    rows = rows.with_format(None)
    if isinstance(rows.features[column], datasets.Image):
        return rows.cast_column(column, datasets.Image(decode=False))
    return rows


def _column(rows: Any, name: str) -> Any:
    """A column as Arrow has it, in the rows' order."""
    return rows.select_columns([name]).with_format("arrow")[:].column(name)


def _noted(feature: Any) -> Any:
    """A feature as `arrow.class_names` reads it."""
    datasets = _datasets()
    if isinstance(feature, datasets.Image):
        return {"_type": "Image"}
    if isinstance(feature, datasets.ClassLabel):
        return {"_type": "ClassLabel", "names": feature.names}
    if isinstance(feature, datasets.Sequence | datasets.LargeList):
        return {"feature": _noted(feature.feature)}
    if isinstance(feature, list) and len(feature) == 1:
        return [_noted(feature[0])]
    return {}


def _load(spec: str, dataset: str) -> dict[str, Any]:
    """The splits of a dataset by name."""
    if not spec:
        raise errors.UserError(f"{dataset!r} names nothing: hf:ORG/NAME or hf:FOLDER")
    datasets = _datasets()
    path = host_files.expanded(spec)
    try:
        if path.exists():
            saved = ("dataset_dict.json", "state.json")
            if any((path / name).is_file() for name in saved):
                found = datasets.load_from_disk(str(path))
            else:
                found = datasets.load_dataset(str(path))
        else:
            name, _, config = spec.partition(":")
            found = datasets.load_dataset(name, config or None)
    except errors.UserError:
        raise
    except Exception as error:  # whatever builders, Arrow and the network raise
        raise _unopened(spec, dataset, error) from error
    if not isinstance(found, Mapping):
        found = {str(found.split or files.ONLY_SPLIT): found}
    for split, rows in found.items():
        table.check_random_access(rows, f"{dataset}:{split}")
    return dict(found)


def _unopened(spec: str, dataset: str, error: Exception) -> errors.UserError:
    reason = errors.reason(error)
    hint = "a name of the hub (ORG/NAME, a configuration behind a colon), or a folder"
    if isinstance(error, ConnectionError | OSError) and not Path(spec).exists():
        hint += "; without a network only what is in the cache opens"
    return errors.UserError(
        f"{dataset} cannot be opened ({type(error).__name__}: {reason}); wanted {hint}"
    )
