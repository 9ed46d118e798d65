"""Files of features as `vit_jax features` writes them, read a piece at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.host import files as host_files
from vit_jax.runs.bulk import arrays, parquet
from vit_jax.settings import documents
from vit_jax.weights.formats import safetensors

# Rows that are in memory at a time.
CHUNK = 8192


@dataclass(frozen=True)
class Vectors:
    """One vector an image.

    Attributes:
        path: The file.
        names: Of the rows.
        width: Of a vector.
        chunks: Yields the rows in their order, [n, width] of floats; what could not be
            read is NaN.
        labels: Of the rows: a class, a list of several, or None.
    """

    path: Path
    names: list[str]
    width: int
    chunks: Callable[[], Iterator[np.ndarray]]
    labels: list[Any]

    def row(self, index: int) -> np.ndarray:
        """Returns one vector."""
        for chunk in self.chunks():
            if index < len(chunk):
                return np.asarray(chunk[index], np.float32)
            index -= len(chunk)
        raise IndexError(index)


def open_vectors(path: str | Path) -> Vectors:
    """Opens a file; the names are read, the vectors only when asked for.

    Args:
        path: `.npy` with its names beside it, `.safetensors` or `.parquet`.

    Raises:
        errors.UserError: no such file, a damaged one, or one of several vectors an
            image.
    """
    path = host_files.expanded(path)
    read = errors.lookup(_READERS, path.suffix, f"features {path}: the suffix")
    try:
        found = read(path)
    except errors.UserError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise errors.UserError(
            f"{path} cannot be read as features: {error}; want a file of vit_jax "
            "features"
        ) from error
    return found


def _of_array(path: Path, array: np.ndarray, ids: bytes) -> Vectors:
    told = (documents.parse(line) for line in ids.splitlines())
    lines = [documents.checked(one, {"image": str}) for one in told]
    names = [line["image"] for line in lines]
    labels = [line["label"] if "label" in line else None for line in lines]
    if array.ndim != 2 or len(names) != len(array):
        raise errors.UserError(
            f"{path}: shape {array.shape} with {len(names)} names; want one vector an "
            "image, as vit_jax features writes them without --tokens"
        )

    def chunks() -> Iterator[np.ndarray]:
        for start in range(0, len(array), CHUNK):
            yield array[start : start + CHUNK]

    return Vectors(path, names, array.shape[1], chunks, labels)


def _npy(path: Path) -> Vectors:
    ids = path.with_name(path.name + arrays.IDS)
    for file in (path, ids):
        host_files.check_plain(file)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return _of_array(path, array, ids.read_bytes())


def _safetensors(path: Path) -> Vectors:
    try:
        ids, features = (safetensors.mapped(path, k) for k in ("ids", "features"))
    except errors.UserError as error:
        raise ValueError(str(error)) from error
    return _of_array(path, features, ids.tobytes())


def _parquet(path: Path) -> Vectors:
    pa = parquet.arrow()
    try:
        file = pa.parquet.ParquetFile(path)
        has = [name for name in ("image", "label") if name in file.schema_arrow.names]
        columns = {name: file.read([name])[name].to_pylist() for name in has}
        names = columns["image"]
        width = file.schema_arrow.field("features").type.list_size
        shape = documents.parse(file.schema_arrow.metadata[b"shape"])
    except (pa.ArrowException, AttributeError, TypeError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(shape, list) or len(shape) != 1:
        raise errors.UserError(
            f"{path} has features of shape {shape}; want one vector an image, as "
            "vit_jax features writes them without --tokens"
        )

    def chunks() -> Iterator[np.ndarray]:
        for batch in file.iter_batches(CHUNK, columns=["features"]):
            column = batch.column(0)
            found = np.full((len(column), width), np.nan, np.float32)
            there = np.array(column.is_valid())
            flat = column.flatten().to_numpy(zero_copy_only=False)
            found[there] = flat.reshape(-1, width)
            yield found

    labels = columns["label"] if "label" in columns else [None] * len(names)
    return Vectors(path, names, width, chunks, labels)


_READERS = {".npy": _npy, ".safetensors": _safetensors, ".parquet": _parquet}
