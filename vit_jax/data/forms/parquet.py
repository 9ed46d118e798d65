"""`parquet:GLOB`: Parquet files of encoded images and labels, by index.

Images are a column of bytes, or of structs {bytes, path} as Hugging Face writes them.
"""

import collections
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.data import decode
from vit_jax.data.forms import arrow, files, labelling, pages, picking, snappy, table
from vit_jax.settings import naming

_KEPT = 256 << 20  # bytes of unpacked pages and row groups that are kept
_SMALL = 4 * snappy.BLOCK  # a page that is not worth being read in parts
_COSTLY = 4 << 20  # unpacked bytes for one picture that are worth a warning


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise errors.UserError(
            arrow.MISSING.format(what="parquet:GLOB", package="pyarrow")
        ) from error
    return pyarrow


class Kept:
    """The last used of what is expensive to make, up to a number of bytes."""

    def __init__(self, limit: int):
        """Takes the number of bytes."""
        self._limit, self._size = limit, 0
        self._items: collections.OrderedDict[Any, tuple[Any, int]] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()

    def get(self, key: Any) -> Any:
        """Returns an item, or None."""
        with self._lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key][0]

    def put(self, key: Any, item: Any, size: int) -> None:
        """Keeps an item, and lets those go that were not used for longest."""
        with self._lock:
            if key not in self._items:
                self._items[key] = (item, size)
                self._size += size
            while self._size > self._limit and len(self._items) > 1:
                self._size -= self._items.popitem(last=False)[1][1]


class Group:
    """What is known of the images of one row group before it is read.

    Attributes:
        values: Where they are; None: in pages that pyarrow has to read.
        blocks: The borders of the blocks of pages packed by Snappy, by page.
    """

    def __init__(self, values: pages.Values | None, blocks: dict[int, np.ndarray]):
        """Takes both."""
        self.values, self.blocks = values, blocks


class ParquetImages:
    """The images of one split; a row group is looked at when it is first read of."""

    def __init__(self, paths: Sequence[str], metadata: Sequence[Any], column: str):
        """Takes files with what their ends say of them, and the images' column.

        Raises:
            errors.UserError: the column holds no bytes.
        """
        self._bytes = files.Bytes(paths)
        self._metadata, self._column = list(metadata), column
        self._leaf = _leaf(self._metadata[0], column, paths[0])
        sizes = [
            (file, group, told.row_group(group).num_rows)
            for file, told in enumerate(metadata)
            for group in range(told.num_row_groups)
        ]
        self._groups = [(file, group) for file, group, _ in sizes]
        self._ends = np.cumsum([rows for _, _, rows in sizes])
        self._known: dict[int, Group] = {}
        self._kept = Kept(_KEPT)
        self._warned = False

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def name(self, index: int) -> str:
        """Returns "file:row"."""
        number, row = self._place(index)
        file, group = self._groups[number]
        told = self._metadata[file]
        row += sum(told.row_group(before).num_rows for before in range(group))
        return f"{os.path.basename(self._bytes.paths[file])}:{row}"

    def read(self, index: int) -> bytes:
        """Returns the bytes of an image; see `table.Images`."""
        number, row = self._place(index)
        if number not in self._known:  # two threads may both look: harmless
            self._known[number] = self._look(number)
        group = self._known[number]
        if group.values is None:
            data = self._row_group(number)[row].as_py()
        else:
            data = self._value(number, group, row)
        if data is None:
            raise decode.BadImage(f"row without bytes in column {self._column!r}")
        return data

    def _place(self, index: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        start = self._ends[number - 1] if number else 0
        return number, int(index - start)

    def _look(self, number: int) -> Group:
        """Finds where the values of a row group are."""
        file, group = self._groups[number]
        rows = self._metadata[file].row_group(group)
        chunk = rows.column(self._leaf)
        start = chunk.data_page_offset
        if chunk.has_dictionary_page and chunk.dictionary_page_offset:
            start = min(start, chunk.dictionary_page_offset)
        schema = self._metadata[file].schema.column(self._leaf)
        codec = chunk.compression.lower()

        def read(offset: int, length: int) -> bytes:
            return self._bytes.read(file, offset, length)

        blocks: dict[int, np.ndarray] = {}
        try:
            if schema.max_repetition_level or codec == "lz4":
                raise pages.Unsupported("lists, or LZ4 of Hadoop's kind")
            values = pages.locate(
                *(read, _unpack),
                start=start,
                stop=start + chunk.total_compressed_size,
                rows=rows.num_rows,
                codec="" if codec == "uncompressed" else codec,
                nullable=schema.max_definition_level,
            )
        except (pages.Unsupported, decode.BadImage, OSError, ValueError, IndexError):
            # What is damaged, pyarrow refuses too, and says it better.
            return Group(None, {})
        for place, page in enumerate(values.pages):
            if page.codec == "snappy" and page.size > _SMALL:
                found = snappy.borders(read(page.offset, page.stored))
                if found is not None:
                    blocks[place] = found
            if page.codec and page.size > _COSTLY and place not in blocks:
                self._warn(page.size)
        return Group(values, blocks)

    def _value(self, number: int, group: Group, row: int) -> bytes | None:
        assert group.values is not None, "found by _look"
        found = group.values
        place = int(found.page[row])
        if place < 0:
            return None
        page, file = found.pages[place], self._groups[number][0]
        offset, length = int(found.offset[row]), int(found.length[row])
        if not page.codec:
            return self._bytes.read(file, page.offset + offset, length)
        if place in group.blocks:
            return self._part(file, page, group.blocks[place], offset, length)
        data = self._kept.get((number, place))
        if data is None:
            packed = self._bytes.read(file, page.offset, page.stored)
            data = _unpack(packed, page.size, page.codec)
            self._kept.put((number, place), data, len(data))
        return data[offset : offset + length]

    def _part(
        self,
        file: int,
        page: pages.Page,
        borders: np.ndarray,
        offset: int,
        length: int,
    ) -> bytes:
        """Unpacks only the blocks around a value."""
        first, last = offset // snappy.BLOCK, (offset + length - 1) // snappy.BLOCK + 1
        start, stop = int(borders[first]), int(borders[last])
        begin = first * snappy.BLOCK
        size = min(last * snappy.BLOCK, page.size) - begin
        packed = self._bytes.read(file, page.offset + start, stop - start)
        data = _unpack(snappy.header(size) + packed, size, "snappy")
        return data[offset - begin : offset - begin + length]

    def _row_group(self, number: int) -> Any:
        column = self._kept.get(number)
        if column is None:
            file, group = self._groups[number]
            path = self._bytes.paths[file]
            name = self._metadata[file].schema.column(self._leaf).path
            try:
                opened = _pyarrow().parquet.ParquetFile(path)
                found = opened.read_row_group(group, columns=[name], use_threads=False)
            except (OSError, ValueError) as error:
                raise decode.BadImage(f"{path}: {error}") from error
            column = found.column(0)
            if "." in name:
                column = _pyarrow().compute.struct_field(column, "bytes")
            self._warn(column.nbytes)
            self._kept.put(number, column, column.nbytes)
        return column

    def _warn(self, size: int) -> None:
        if size > _COSTLY and not self._warned:
            self._warned = True
            logging.warning(
                "%s: pages are packed so that one picture in random order costs %.0f "
                "MB; write the files again with compression='none' for images, which "
                "are compressed already",
                *(self._bytes.paths[0], size / 2**20),
            )


def _unpack(data: bytes, size: int, codec: str) -> bytes:
    pyarrow = _pyarrow()
    try:
        return pyarrow.decompress(data, size, codec=codec, asbytes=True)
    except (OSError, ValueError) as error:
        raise decode.BadImage(f"a page that cannot be unpacked ({error})") from error


def _leaf(told: Any, column: str, path: str) -> int:
    """The number of the column with the images' bytes."""
    for number in range(told.num_columns):
        if told.schema.column(number).path in (column, f"{column}.bytes"):
            return number
    raise errors.UserError(
        f"{path}: column {column!r} holds no bytes; wanted encoded images, or structs "
        "{bytes, path} of them"
    )


def open_table(spec: str, columns: naming.Columns, dataset: str) -> table.Table:
    """Opens Parquet files.

    Args:
        spec: Behind "parquet:".
        columns: Of the images and labels.
        dataset: The name, for messages.

    Raises:
        errors.UserError: no file, a damaged one, no such column, a bad label.
    """
    _pyarrow()
    paths = files.expand(spec, dataset, ".parquet")
    if elsewhere := [path for path in paths if files.is_url(path)]:
        raise errors.UserError(
            f"{dataset}: {elsewhere[0]} is a URL; Parquet files are read from local or "
            "mounted folders (hf:NAME downloads a dataset of the hub)"
        )
    marks = {path: files.fingerprint(path) for path in paths}
    told = {path: _metadata(path) for path in paths}
    schema = told[paths[0]].schema.to_arrow_schema()
    noted = arrow.features(schema)
    described = {field.name: str(field.type)[:40] for field in schema}
    image, label = picking.choose(
        arrow.kinds(schema, noted), columns.plain, dataset, described=described
    )
    for path in paths:
        names = told[path].schema.to_arrow_schema().names
        if lacking := {image, label} - set(names):
            raise errors.UserError(
                f"{path} has no column {sorted(lacking)[0]!r}, which {paths[0]} has; "
                f"it has: {', '.join(names)}"
            )
    splits = files.by_split(paths, dataset)
    images = {
        split: ParquetImages(part, [told[path] for path in part], image)
        for split, part in splits.items()
    }
    labels = labelling.Labelling(
        {
            split: _labels(part, label, numeric=columns.numeric)
            for split, part in splits.items()
        },
        dataset=dataset,
        name=lambda split, index: images[split].name(index),
        declared=arrow.class_names(noted[label]) if label in noted else None,
        names_file=columns.names,
        numeric=columns.numeric,
    )
    return table.Table(dataset, images, labels, holds=lambda: _holds(marks))


def _holds(marks: Mapping[str, str]) -> bool:
    try:
        return {path: files.fingerprint(path) for path in marks} == marks
    except errors.UserError:
        return False


def _metadata(path: str) -> Any:
    try:
        return _pyarrow().parquet.read_metadata(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a table by their columns, or raises `UserError`."""
    try:
        for batch in _pyarrow().parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (OSError, ValueError) as error:
        raise _damaged(str(path), error) from error


def _labels(paths: Sequence[str], column: str, *, numeric: bool) -> labelling.Raw:
    pyarrow = _pyarrow()
    parts = []
    for path in paths:
        try:
            opened = pyarrow.parquet.ParquetFile(path)
            parts.append(opened.read(columns=[column]).column(column))
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error
    chunks = [chunk for part in parts for chunk in part.chunks]
    joined = pyarrow.chunked_array(chunks, type=parts[0].type)
    read = arrow.numbers if numeric else arrow.labels
    return read(joined, f"{os.path.basename(paths[0])}: column {column!r}")


def _damaged(path: str, error: Exception) -> errors.UserError:
    return errors.UserError(
        f"{path} is truncated or damaged, or no Parquet file: "
        f"{errors.reason(error)}. Copy or write it again."
    )
