"""Random access to the records of TFRecord and ArrayRecord files.

TFRecord files have no index: ours comes from hopping over the headers (4 us a record,
so 5 s for the whole of ImageNet, shard by shard as they are touched).
"""

import bisect
import collections
import itertools
import os
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from vit_jax import errors
from vit_jax.host import files as host_files

_HEADER = struct.Struct("<QI")


class DamagedRecord(ValueError):
    """One record cannot be read; the file around it can."""


class Shard(Protocol):
    """One open file of records."""

    def read(self, index: int) -> bytes:
        """Returns record `index` of the file."""
        ...


def _crc32c_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table.astype(np.uint32)


CRC32C_TABLE = _crc32c_table()


def masked_crc32c(rows: np.ndarray) -> np.ndarray:
    """Returns TFRecord's masked CRC-32C of each row; `rows` is uint8 [n, bytes]."""
    crc = np.full(len(rows), 0xFFFFFFFF, np.uint32)
    for column in rows.T:
        crc = CRC32C_TABLE[(crc ^ column) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
    crc = ~crc
    rotated = (crc >> np.uint32(15)) | (crc << np.uint32(17))
    return rotated + np.uint32(0xA282EAD8)


def index_tfrecord(descriptor: int, path: Path) -> np.ndarray:
    """Returns where each record lies: int64 [records, 2], offset and length.

    Raises:
        errors.UserError: the file breaks off inside a record, or a header's checksum is
            wrong.
    """
    size = os.fstat(descriptor).st_size
    lengths: list[int] = []
    checksums: list[int] = []
    offsets: list[int] = []
    at = 0
    while at < size:
        header = host_files.read_at(descriptor, _HEADER.size, at)
        if len(header) < _HEADER.size:
            raise _damaged(path, f"it breaks off at byte {size}, inside a header")
        length, checksum = _HEADER.unpack(header)
        if at + length + 16 > size:
            # A damaged length would send us anywhere: look at its checksum first.
            _check_headers(path, [*lengths, length], [*checksums, checksum])
            raise _damaged(
                path,
                f"it breaks off at byte {size}: record {len(offsets)} needs bytes up "
                f"to {at + length + 16}",
            )
        lengths.append(length)
        checksums.append(checksum)
        offsets.append(at + _HEADER.size)
        at += length + 16
    _check_headers(path, lengths, checksums)
    return np.stack([np.array(offsets, np.int64), np.array(lengths, np.int64)], axis=1)


def _check_headers(path: Path, lengths: list[int], checksums: list[int]) -> None:
    rows = np.array(lengths, "<u8").view(np.uint8).reshape(-1, 8)
    wrong = np.flatnonzero(masked_crc32c(rows) != np.array(checksums, np.uint32))
    if len(wrong):
        raise _damaged(path, f"the header of record {wrong[0]} has a wrong checksum")


def _damaged(path: Path, what: str) -> errors.UserError:
    return errors.UserError(
        f"{path} is truncated or damaged: {what}. Copy or prepare this shard again."
    )


class TFRecordShard:
    """One TFRecord file, read with `read_at`: threads share it without a lock."""

    def __init__(self, path: Path, records: int):
        """Indexes the file; it must hold exactly `records` records."""
        self._file = open(path, "rb", buffering=0)
        self._index = index_tfrecord(self._file.fileno(), path)
        if len(self._index) != records:
            raise _damaged(
                path, f"it holds {len(self._index)} records, wanted {records}"
            )

    def read(self, index: int) -> bytes:
        """Returns record `index` of the file."""
        offset, length = self._index[index].tolist()
        return host_files.read_at(self._file.fileno(), length, offset)


class ArrayRecordShard:
    """One ArrayRecord file; its reader is safe to share between threads."""

    def __init__(self, path: Path, records: int):
        """Opens the file; it must hold exactly `records` records."""
        # Compiled, without types.
        from array_record.python import (
            array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
        )

        try:
            # Neither read-ahead nor threads of its own: measured fastest for single
            # records in random order (47 us).
            self._reader = array_record_module.ArrayRecordReader(
                str(path), options="readahead_buffer_size:0,max_parallelism:0"
            )
            found = self._reader.num_records()
        except Exception as error:
            raise _damaged(path, errors.reason(error)) from error
        if found != records:
            raise _damaged(path, f"it holds {found} records, wanted {records}")

    def read(self, index: int) -> bytes:
        """Returns record `index` of the file."""
        try:
            return self._reader.read([index])[0]
        except Exception as error:
            raise DamagedRecord(errors.reason(error)) from error


FORMATS: dict[str, Callable[[Path, int], Shard]] = {
    "tfrecord": TFRecordShard,
    "array_record": ArrayRecordShard,
}


def open_file_budget(wanted: int) -> int:
    """Returns how many shards may stay open; raises the process's soft limit for it.

    The usual soft limit is 1024 files and ImageNet alone has as many shards; opening a
    TFRecord shard again costs its index (5 ms), so they should all stay open.
    """
    spare = 256
    limit = host_files.raise_open_files(wanted + spare)
    return wanted if limit is None else max(16, limit - spare)


class RecordFiles:
    """The records of a sequence of shards, as one random-access list of bytes."""

    def __init__(self, format: str, paths: Sequence[Path], lengths: Sequence[int]):
        """Takes files of one format and the number of records in each.

        Raises:
            errors.UserError: a file is missing.
        """
        assert len(paths) == len(lengths), (len(paths), len(lengths))
        for path in paths:
            if not path.is_file():
                raise errors.UserError(
                    f"{path} is missing: the dataset lists {len(paths)} shards there. "
                    "Copy or prepare it again."
                )
        self._open_shard = FORMATS[format]
        self._paths = list(paths)
        self._lengths = list(lengths)
        self._ends = list(itertools.accumulate(self._lengths))
        self._max_open = open_file_budget(len(paths))
        self._shards: collections.OrderedDict[int, Shard] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def locate(self, index: int) -> tuple[int, int]:
        """Returns the shard that holds record `index`, and its place in the shard."""
        shard = bisect.bisect_right(self._ends, index)
        return shard, index - self._ends[shard] + self._lengths[shard]

    def name(self, index: int) -> str:
        """Returns "file:record", for reports."""
        shard, record = self.locate(index)
        return f"{self._paths[shard].name}:{record}"

    def read(self, index: int) -> bytes:
        """Returns record `index`, 0 <= index < len."""
        shard, record = self.locate(index)
        return self._shard(shard).read(record)

    def check(self) -> None:
        """Opens every shard.

        Raises:
            errors.UserError: one of them is truncated, damaged or of another length.
        """
        for shard in range(len(self._paths)):
            self._shard(shard)

    def _shard(self, shard: int) -> Shard:
        with self._lock:
            if shard in self._shards:
                return self._shards[shard]
        # Opened outside the lock; two threads may do it twice, which is harmless. A
        # shard that falls out is closed when the last thread reading it lets go.
        opened = self._open_shard(self._paths[shard], self._lengths[shard])
        with self._lock:
            self._shards[shard] = opened
            if len(self._shards) > self._max_open:
                self._shards.popitem(last=False)
        return opened

    def __getstate__(self) -> dict:
        """Pickles without the open files."""
        return {
            "_open_shard": self._open_shard,
            "_paths": self._paths,
            "_lengths": self._lengths,
            "_ends": self._ends,
            "_max_open": self._max_open,
        }

    def __setstate__(self, state: dict) -> None:
        """Opens nothing until it is read."""
        self.__dict__.update(state)
        self._shards = collections.OrderedDict()
        self._lock = threading.Lock()
