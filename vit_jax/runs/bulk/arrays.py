"""Features as NumPy's, safetensors' or Parquet files, with what they are of.

Rows are in the order of the inputs. One that could not be read is NaN, null in Parquet,
and beside its name is why. Those of a dataset have their labels beside them.
"""

import io
import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vit_jax.runs.bulk import parquet, tables

# The names of an array's rows, one JSON object a line.
IDS = ".ids.jsonl"
# In front of the tensors of a safetensors file; what its header does not need is space.
_HEADER = 512


@dataclass(frozen=True)
class Rows:
    """Some rows of features.

    Attributes:
        names: What they are of.
        problems: Why there is nothing to see, or None, for each.
        values: [n, ...], NaN where there is nothing.
        labels: A class, or a list of several, or None, for each; None: no labels.
    """

    names: Sequence[str]
    problems: Sequence[str | None]
    values: np.ndarray
    labels: Sequence[Any] | None = None


def _ids(rows: Rows) -> bytes:
    lines = []
    labels = rows.labels or [None] * len(rows.names)
    for name, problem, label in zip(rows.names, rows.problems, labels, strict=True):
        more = {"error": problem, "label": label}
        said = {key: value for key, value in more.items() if value is not None}
        lines.append(json.dumps({"image": name} | said) + "\n")
    return "".join(lines).encode()


class Npy:
    """One array, which `numpy.load(path, mmap_mode="r")` opens, and its names."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, labels: str):
        """Takes the shape [n, ...] of the whole; each line says itself what it has."""
        del labels
        self._shape, self._dtype = shape, dtype

    def begin(self) -> dict[str, bytes]:
        """Returns the header, which says all rows already."""
        stream = io.BytesIO()
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": self._shape,
        }
        np.lib.format.write_array_header_1_0(stream, header)
        return {"": stream.getvalue(), IDS: b""}

    def encode(self, rows: Rows) -> dict[str, bytes]:
        """Returns the numbers and the names."""
        return {"": rows.values.astype(self._dtype).tobytes(), IDS: _ids(rows)}

    def finish(self, parts: Mapping[str, Path], out: Path) -> None:
        """Gives both files their names."""
        tables.renamed(parts, out)


class Safetensors:
    """Tensors "features" [n, ...] and "ids": the bytes of a JSON object a line."""

    KINDS: ClassVar = {np.dtype("float32"): "F32", np.dtype("float16"): "F16"}

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, labels: str):
        """Takes the shape [n, ...] of the whole; each line says itself what it has."""
        del labels
        self._shape, self._dtype = shape, dtype

    def begin(self) -> dict[str, bytes]:
        """Returns room for the header."""
        return {"": bytes(_HEADER), IDS: b""}

    def encode(self, rows: Rows) -> dict[str, bytes]:
        """Returns the numbers and the names."""
        return {"": rows.values.astype(self._dtype).tobytes(), IDS: _ids(rows)}

    def finish(self, parts: Mapping[str, Path], out: Path) -> None:
        """Puts the names behind the numbers and the header before them."""
        if "" in parts:
            with open(parts[""], "r+b") as file, open(parts[IDS], "rb") as ids:
                file.seek(0, os.SEEK_END)
                shutil.copyfileobj(ids, file)
                file.seek(0)
                file.write(self._header(os.fstat(ids.fileno()).st_size))
                file.flush()
                os.fsync(file.fileno())
            os.replace(parts[""], out)
        parts[IDS].unlink()

    def _header(self, ids: int) -> bytes:
        end = int(np.prod(self._shape)) * self._dtype.itemsize
        header = {
            "features": {
                "dtype": self.KINDS[self._dtype],
                "shape": list(self._shape),
                "data_offsets": [0, end],
            },
            "ids": {"dtype": "U8", "shape": [ids], "data_offsets": [end, end + ids]},
        }
        text = json.dumps(header).encode().ljust(_HEADER - 8)
        return struct.pack("<Q", len(text)) + text


class Parquet:
    """Columns image, features (lists of one size, row after row), label and error."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, labels: str):
        """Takes the shape [n, ...] of the whole, and what labels there are."""
        pa = parquet.arrow()
        self._dtype = dtype
        width = int(np.prod(shape[1:]))
        number = pa.from_numpy_dtype(dtype)
        kinds = {"class": pa.int64(), "classes": pa.list_(pa.int64())}
        self._label = kinds[labels] if labels else None
        columns = [
            ("image", pa.string()),
            ("features", pa.list_(number, width)),
            *([("label", self._label)] if labels else []),
            ("error", pa.string()),
        ]
        self._schema = pa.schema(columns, {"shape": json.dumps(shape[1:])})

    def begin(self) -> dict[str, bytes]:
        """Returns the schema."""
        return {"": parquet.begin(self._schema)}

    def encode(self, rows: Rows) -> dict[str, bytes]:
        """Returns a message of all rows."""
        pa = parquet.arrow()
        valid = np.array([problem is None for problem in rows.problems])
        labels = [] if rows.labels is None else [pa.array(rows.labels, self._label)]
        columns = [
            [parquet.text(name) for name in rows.names],
            parquet.vectors(rows.values.astype(self._dtype), valid),
            *labels,
            [parquet.text(problem) for problem in rows.problems],
        ]
        arrays = [
            c if isinstance(c, pa.Array) else pa.array(c, pa.string()) for c in columns
        ]
        return {"": parquet.batch(self._schema, arrays)}

    def finish(self, parts: Mapping[str, Path], out: Path) -> None:
        """Makes the Parquet file."""
        if "" in parts:
            parquet.finish(parts[""], out)


FORMATS: dict[str, Callable[[tuple[int, ...], np.dtype, str], Any]] = {
    ".npy": Npy,
    ".safetensors": Safetensors,
    ".parquet": Parquet,
}
