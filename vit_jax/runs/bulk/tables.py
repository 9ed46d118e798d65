"""Predictions as CSV, JSON lines or Parquet: one row an image."""

import csv
import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from vit_jax.runs.bulk import parquet

# {"image"} and {"top"}, {"values"} or {"logits"}, or {"error"}: see `predictions`.
Entry = dict[str, Any]


class Format(Protocol):
    """How rows become a file. Everything that is written is appended."""

    def begin(self) -> dict[str, bytes]:
        """Returns what each file begins with, by its suffix; "" is the main one."""
        ...

    def encode(self, rows: Any) -> dict[str, bytes]:
        """Returns the bytes of some rows, by the suffix of the file."""
        ...

    def finish(self, parts: Mapping[str, Path], out: Path) -> None:
        """Makes the result of what was appended; may be called again after an end."""
        ...


class JsonLines:
    """Each row an object, as `predict` prints it."""

    def __init__(self, kind: str, outputs: int):
        """Takes what there is of each image, which every line says itself."""
        del kind, outputs

    def begin(self) -> dict[str, bytes]:
        """Returns nothing."""
        return {"": b""}

    def encode(self, rows: Sequence[Entry]) -> dict[str, bytes]:
        """Returns a line a row."""
        return {"": "".join(json.dumps(row) + "\n" for row in rows).encode()}

    def finish(self, parts: Mapping[str, Path], out: Path) -> None:
        """Gives the file its name."""
        renamed(parts, out)


class Csv:
    """A header, then each row: image, what was found, error.

    The best class is `label`, `name`, `probability`, the next ones `label_2`, ...; all
    outputs are `logit_0`, ... or `value_0`, ...
    """

    _FIELDS: ClassVar = ("label", "name", "probability")
    _SINGULAR: ClassVar = {"logits": "logit", "values": "value"}

    def __init__(self, kind: str, outputs: int):
        """Takes the key of what there is of each image, and how many of them."""
        self._kind, self._outputs = kind, outputs

    def begin(self) -> dict[str, bytes]:
        """Returns the header."""
        if self._kind == "top":
            ends = ["", *(f"_{k}" for k in range(2, self._outputs + 1))]
            columns = [name + end for end in ends for name in self._FIELDS]
        else:
            name = self._SINGULAR[self._kind]
            columns = [f"{name}_{k}" for k in range(self._outputs)]
        return {"": _csv([["image", *columns, "error"]])}

    def encode(self, rows: Sequence[Entry]) -> dict[str, bytes]:
        """Returns a record a row."""
        return {"": _csv([self._record(row) for row in rows])}

    def finish(self, parts: Mapping[str, Path], out: Path) -> None:
        """Gives the file its name."""
        renamed(parts, out)

    def _record(self, row: Entry) -> list[Any]:
        if "error" in row:
            width = self._outputs * (len(self._FIELDS) if self._kind == "top" else 1)
            return [row["image"], *[None] * width, row["error"]]
        found: list[Any] = row[self._kind]
        if self._kind == "top":
            found = [entry[name] for entry in found for name in self._FIELDS]
        elif self._kind == "values":
            found = [entry["value"] for entry in found]
        return [row["image"], *found, None]


class Parquet:
    """Columns as those of CSV; all outputs are one column of lists."""

    _BEST: ClassVar = (("label", "int32"), ("name", "string"), ("probability", "float"))

    def __init__(self, kind: str, outputs: int):
        """Takes the key of what there is of each image, and how many of them."""
        pa = parquet.arrow()
        types = {"int32": pa.int32(), "string": pa.string(), "float": pa.float32()}
        self._csv = Csv(kind, outputs)
        self._kind, self._outputs = kind, outputs
        if kind == "top":
            ends = ["", *(f"_{k}" for k in range(2, outputs + 1))]
            found = [(n + end, types[t]) for end in ends for n, t in self._BEST]
        else:
            found = [(kind, pa.list_(pa.float32(), outputs))]
        columns = [("image", pa.string()), *found, ("error", pa.string())]
        self._schema = pa.schema(columns)

    def begin(self) -> dict[str, bytes]:
        """Returns the schema."""
        return {"": parquet.begin(self._schema)}

    def encode(self, rows: Sequence[Entry]) -> dict[str, bytes]:
        """Returns a message of all rows."""
        return {"": parquet.batch(self._schema, self._columns(rows))}

    def finish(self, parts: Mapping[str, Path], out: Path) -> None:
        """Makes the Parquet file."""
        if "" in parts:
            parquet.finish(parts[""], out)

    def _columns(self, rows: Sequence[Entry]) -> list[Any]:
        pa = parquet.arrow()
        if self._kind == "top":
            records = [self._csv._record(row) for row in rows]
            columns = [list(column) for column in zip(*records, strict=True)]
        else:
            images = [row["image"] for row in rows]
            found = [self._vector(row) for row in rows]
            columns = [images, found, [row.get("error") for row in rows]]
        return [
            pa.array(
                [parquet.text(v) if isinstance(v, str) else v for v in column],
                field.type,
            )
            for column, field in zip(columns, self._schema, strict=True)
        ]

    def _vector(self, row: Entry) -> list[float | None] | None:
        if "error" in row:
            return None
        if self._kind == "values":
            return [entry["value"] for entry in row["values"]]
        return row[self._kind]


FORMATS: dict[str, Callable[[str, int], Format]] = {
    ".csv": Csv,
    ".jsonl": JsonLines,
    ".parquet": Parquet,
}


def number(value: Any) -> float | None:
    """Returns a number that JSON can hold: NaN and infinities become null."""
    value = float(value)
    return value if math.isfinite(value) else None


def renamed(parts: Mapping[str, Path], out: Path) -> None:
    """Gives files their names, the main one last: once it is there, all are."""
    for suffix in sorted(parts, reverse=True):
        os.replace(parts[suffix], out.with_name(out.name + suffix))


def _csv(records: Sequence[Sequence[Any]]) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(records)
    return stream.getvalue().encode("utf-8", "surrogateescape")
