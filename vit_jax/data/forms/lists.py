"""`csv:FILE`: pictures in files, and their labels in a table beside them.

Columns: `file` (or `image`, `path`), a path from the table's own folder; `label`, or
`labels` with several between semicolons or bars; `split` where there are several.
"""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vit_jax import errors
from vit_jax.data import decode, walking
from vit_jax.data.forms import files, labelling, table
from vit_jax.host import files as host_files
from vit_jax.settings import naming

_FILES = ("file", "image", "path", "filename", "file_name")
_MISSING_SHOWN = 3


class FileImages:
    """Pictures, each a file."""

    def __init__(self, root: Path, names: Sequence[str]):
        """Takes paths from a folder on."""
        self._root, self._names = root, list(names)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int) -> bytes:
        """Returns the bytes of an image; see `table.Images`."""
        try:
            return walking.read_file(self.name(index))
        except OSError as error:
            raise decode.BadImage(f"cannot be read: {error.strerror}") from error

    def name(self, index: int) -> str:
        """Returns the path of the file."""
        return os.path.join(self._root, self._names[index])


def open_table(spec: str, columns: naming.Columns, dataset: str) -> table.Table:
    """Opens a table of pictures.

    Args:
        spec: Behind "csv:".
        columns: Of the files and labels.
        dataset: The name, for messages.

    Raises:
        errors.UserError: no such file or column, a row without a part, no picture.
    """
    path = host_files.expanded(spec)
    mark = files.fingerprint(str(path))
    rows = _rows(path, dataset)
    header = [name for name in rows[0] if name] if rows else []
    file = _column(columns.image, _FILES, header, f"{dataset}: image_column")
    label = columns.plain.label
    label = _column(label, ("label", "labels"), header, f"{dataset}: label")
    grouped: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        split = row["split"] if "split" in row else files.ONLY_SPLIT
        if not row[file] or not split:
            raise errors.UserError(
                f"{path}, row {number + 1}: no {file if split else 'split'}"
            )
        grouped.setdefault(split, []).append(number)
    images = {
        split: FileImages(path.parent, [rows[number][file] for number in numbers])
        for split, numbers in grouped.items()
    }
    check_there(images, "paths are from the table's folder")
    several = label.endswith("s") or any(
        mark in row[label] for row in rows for mark in ";|"
    )
    whole = all(
        labelling.is_whole(one)
        for row in rows
        for one in _several(row[label])
        if several
    ) and all(several or labelling.is_whole(row[label]) for row in rows)
    raws = {}
    for split, numbers in grouped.items():
        cells = [rows[number][label] for number in numbers]
        values: list[Any] = [
            [int(one) if whole else one for one in _several(cell)]
            if several
            else (int(cell) if whole else cell or None)
            for cell in cells
        ]
        if columns.numeric:
            values = [_several(cell) for cell in cells]
        read = labelling.raw_numbers if columns.numeric else labelling.raw
        raws[split] = read(values, images[split].name)
    labels = labelling.Labelling(
        raws,
        dataset=dataset,
        name=lambda split, index: images[split].name(index),
        names_file=columns.names,
        numeric=columns.numeric,
    )
    return table.Table(
        *(dataset, images, labels),
        holds=lambda: path.is_file() and files.fingerprint(str(path)) == mark,
    )


def _rows(path: Path, dataset: str) -> list[dict[str, str]]:
    try:
        descriptor = host_files.open_to_read(path)
        with open(descriptor, newline="", encoding="utf-8-sig") as file:
            rows = [
                {key: (value or "").strip() for key, value in row.items() if key}
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise errors.UserError(f"{dataset} cannot be read: {error}") from error
    if not rows:
        raise errors.UserError(f"{dataset} holds no row; wanted file,label and rows")
    return rows


def _column(given: str, usual: Sequence[str], header: list[str], what: str) -> str:
    found = [given] if given else [name for name in usual if name in header]
    if len(found) != 1 or found[0] not in header:
        wanted = f"{given!r}" if given else f"one of {', '.join(usual)}"
        raise errors.UserError(
            f"{what}: wanted {wanted} among its columns: {', '.join(header)}"
        )
    return found[0]


def _several(cell: str) -> list[str]:
    return [one.strip() for one in cell.replace("|", ";").split(";") if one.strip()]


def check_there(images: dict[str, FileImages], where: str) -> None:
    """Raises a `UserError` where files are not there: a wrong folder, most likely.

    Args:
        images: Of each split.
        where: What paths mean, for the message.
    """
    missing = [
        name
        for one in images.values()
        for index in range(len(one))
        if not Path(name := one.name(index)).is_file()
    ]
    if missing:
        raise errors.UserError(
            f"{len(missing)} of {sum(map(len, images.values()))} files are not there: "
            f"{', '.join(missing[:_MISSING_SHOWN])}; {where}"
        )
