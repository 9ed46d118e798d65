"""Random access to the records of TFRecord and ArrayRecord files."""

import bisect
import collections
import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from vit_jax import errors
from vit_jax.data import tfrecord
from vit_jax.data.tfrecord import DamagedRecord
from vit_jax.host import files as host_files


class Shard(Protocol):
    """One open file of records."""

    def read(self, index: int) -> bytes:
        """Returns record `index` of the file."""
        ...


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
            raise tfrecord.damaged(path, errors.reason(error)) from error
        if found != records:
            raise tfrecord.damaged(path, f"it holds {found} records, wanted {records}")

    def read(self, index: int) -> bytes:
        """Returns record `index` of the file."""
        try:
            # A range: a list of numbers copies the index, 1.9 ns for each record of the
            # file (190 us in one of 100,000, where this takes 5).
            return self._reader.read(index, index + 1)[0]
        except Exception as error:
            raise DamagedRecord(errors.reason(error)) from error


Opener = Callable[[int], Shard]


class TFRecords:
    """Opens the files of a list, whose indices outlive an open file."""

    def __init__(self, paths: Sequence[Path], lengths: Sequence[int]):
        """Takes the files and the number of records in each."""
        self._paths, self._lengths = paths, lengths
        self._index = tfrecord.Index(paths)

    def __call__(self, number: int) -> Shard:
        """Opens a file."""
        return tfrecord.TFRecordShard(
            self._paths[number],
            self._lengths[number],
            lambda descriptor, anew: self._index.starts(number, descriptor, anew=anew),
        )


class ArrayRecords:
    """Opens the files of a list."""

    def __init__(self, paths: Sequence[Path], lengths: Sequence[int]):
        """Takes the files and the number of records in each."""
        self._paths, self._lengths = paths, lengths

    def __call__(self, number: int) -> Shard:
        """Opens a file."""
        return ArrayRecordShard(self._paths[number], self._lengths[number])


FORMATS: dict[str, Callable[[Sequence[Path], Sequence[int]], Opener]] = {
    "tfrecord": TFRecords,
    "array_record": ArrayRecords,
}


def open_file_budget(wanted: int) -> int:
    """Returns how many shards may stay open; raises the process's soft limit for it.

    The usual soft limit is 1024 files and ImageNet alone has as many shards.
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
        self._paths = list(paths)
        self._lengths = list(lengths)
        self._open_shard = FORMATS[format](self._paths, self._lengths)
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
        opened = self._open_shard(shard)
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
