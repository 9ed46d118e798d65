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

import google_crc32c
import numpy as np

from vit_jax import errors
from vit_jax.host import files as host_files

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
# Of a record, bytes: protobuf's own limit, so that no Example is larger.
_LARGEST = 2**31 - 1


class DamagedRecord(ValueError):
    """One record cannot be read; the file around it can."""


class Shard(Protocol):
    """One open file of records."""

    def read(self, index: int) -> bytes:
        """Returns record `index` of the file."""
        ...


def masked_crc32c(data: bytes) -> int:
    """Returns TFRecord's masked CRC-32C of bytes."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def index_tfrecord(descriptor: int, path: Path) -> np.ndarray:
    """Returns where each record lies: int64 [records, 2], offset and length.

    Raises:
        errors.UserError: the file breaks off inside a record, a header's checksum is
            wrong, or a record is larger than an Example can be.
    """
    size = os.fstat(descriptor).st_size
    found: list[tuple[int, int]] = []
    at = 0
    while at < size:
        header = host_files.read_at(descriptor, _HEADER.size, at)
        if len(header) < _HEADER.size:
            raise _damaged(path, f"it breaks off at byte {size}, inside a header")
        length, checksum = _HEADER.unpack(header)
        if checksum != masked_crc32c(header[:8]):  # the length could send us anywhere
            raise _damaged(
                path, f"the header of record {len(found)} has a wrong checksum"
            )
        if length > _LARGEST:
            raise _damaged(
                path,
                f"record {len(found)} has {length} bytes: no Example is larger than "
                f"{_LARGEST}",
            )
        if at + length + 16 > size:
            raise _damaged(
                path,
                f"it breaks off at byte {size}: record {len(found)} needs bytes up to "
                f"{at + length + 16}",
            )
        found.append((at + _HEADER.size, length))
        at += length + 16
    return np.array(found, np.int64).reshape(-1, 2)


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
        """Returns record `index` of the file.

        Raises:
            DamagedRecord: its checksum is another one (4 us for 110 KB: a photograph
                takes a thousand to decode).
        """
        offset, length = self._index[index].tolist()
        found = host_files.read_at(self._file.fileno(), length + _CHECKSUM.size, offset)
        record, checksum = found[:length], found[length:]
        if checksum != _CHECKSUM.pack(masked_crc32c(record)):
            raise DamagedRecord("its bytes have another checksum than the file states")
        return record


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
