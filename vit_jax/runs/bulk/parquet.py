"""Parquet by way of a stream that can be appended to, and the names of its columns."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import errors

# Of the result: what a reader holds at a time.
ROWS_PER_GROUP = 8192


def arrow() -> Any:
    """Returns the module pyarrow.

    Raises:
        errors.UserError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise errors.UserError(
            f"Parquet wants pyarrow ({error}): pip install 'vit_jax[data]', or take "
            "another suffix"
        ) from error
    return pyarrow


def text(value: str | None) -> str | None:
    """Returns text that is UTF-8 whatever the bytes of a file's name were."""
    if value is None:
        return None
    return value.encode("utf-8", "backslashreplace").decode()


def vectors(values: np.ndarray, valid: np.ndarray) -> Any:
    """Returns a column of rows [n, ...]: lists of one size, null where not valid."""
    pa = arrow()
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    width = int(np.prod(values.shape[1:]))
    mask = None if valid.all() else pa.array(~valid)
    return pa.FixedSizeListArray.from_arrays(flat, width, mask=mask)


def begin(schema: Any) -> bytes:
    """Returns what a stream of batches of this schema starts with."""
    return schema.serialize().to_pybytes()


def batch(schema: Any, columns: list[Any]) -> bytes:
    """Returns rows as a message of the stream."""
    found = arrow().record_batch(columns, schema=schema)
    return found.serialize().to_pybytes()


def finish(part: Path, out: Path) -> None:
    """Makes the Parquet file of a stream, and removes the stream.

    The rows of a group do not depend on how the stream was cut into batches.
    """
    pa = arrow()
    whole = out.with_name(out.name + ".whole")
    try:
        with pa.OSFile(str(part), "rb") as file:
            stream = pa.ipc.open_stream(file)
            with pa.parquet.ParquetWriter(whole, stream.schema) as writer:
                for table in _regrouped(pa, stream):
                    writer.write_table(table, row_group_size=ROWS_PER_GROUP)
        with open(whole, "rb") as written:
            os.fsync(written.fileno())
        os.replace(whole, out)
    finally:
        whole.unlink(missing_ok=True)
    part.unlink()


def _regrouped(pa: Any, stream: Any) -> Iterator[Any]:
    """The rows of a stream as tables of one size, the last one of what is left."""
    held, count = [], 0
    for found in stream:
        held.append(found)
        count += found.num_rows
        while count >= ROWS_PER_GROUP:
            table = pa.Table.from_batches(held)
            yield table.slice(0, ROWS_PER_GROUP)
            rest = table.slice(ROWS_PER_GROUP)
            held, count = rest.to_batches(), rest.num_rows
    if count:
        yield pa.Table.from_batches(held)
