"""Where the records of TFRecord files lie, and that for the next start too.

A TFRecord file has no index: ours comes from hopping over the headers, one read a
record. It is kept in a file beside the shards, or in the cache where they cannot be
written, is told to be of the shards as they are now by their sizes and times, and each
record that is read by it says again, in its header, that it begins there.
"""

import array
import hashlib
import logging
import os
import re
import stat
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from vit_jax import errors, host
from vit_jax.host import files as host_files
from vit_jax.host import kept

HEADER = struct.Struct("<QI")
_FRAMING = 16  # bytes of a record beside its own: the header, and a checksum behind
# Of a record, bytes: protobuf's own limit, so that no Example is larger.
_LARGEST = 2**31 - 1
_VERSION = 1  # of what is kept
# Seconds of indexing a split that are worth a file, and between two writes of it.
WORTH, EVERY = 0.1, 30.0

Mark = tuple[int, int]  # of a file as it is now: bytes, time of its last change


class DamagedRecord(ValueError):
    """One record cannot be read; the file around it can."""


class Shard(NamedTuple):
    """Where the records of one file lie.

    Attributes:
        mark: Of the file when it was looked at.
        starts: Of each record's own bytes, and where those of one more would be: 4
            bytes a record, 8 in a file of 4 GiB and more.
        settled: Whether a later change of the file has another mark.
    """

    mark: Mark
    starts: np.ndarray
    settled: bool


def masked_crc32c(data: bytes) -> int:
    """Returns TFRecord's masked CRC-32C of bytes."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def header(length: int) -> bytes:
    """Returns what stands before a record of so many bytes."""
    packed = length.to_bytes(8, "little")
    return packed + masked_crc32c(packed).to_bytes(4, "little")


def damaged(path: Path, what: str) -> errors.UserError:
    """Returns the error for a shard that cannot be read."""
    return errors.UserError(
        f"{path} is truncated or damaged: {what}. Copy or prepare this shard again."
    )


def index(descriptor: int, path: Path) -> np.ndarray:
    """Returns where each record begins, and where one more would; see `Shard.starts`.

    Raises:
        errors.UserError: the file breaks off inside a record, a header's checksum is
            wrong, or a record is larger than an Example can be.
    """
    size = os.fstat(descriptor).st_size
    found = array.array("q")
    at = 0
    while at < size:
        head = host_files.read_at(descriptor, HEADER.size, at)
        if len(head) < HEADER.size:
            raise damaged(path, f"it breaks off at byte {size}, inside a header")
        length, checksum = HEADER.unpack(head)
        if checksum != masked_crc32c(head[:8]):  # the length could send us anywhere
            raise damaged(
                path, f"the header of record {len(found)} has a wrong checksum"
            )
        if length > _LARGEST:
            raise damaged(
                path,
                f"record {len(found)} has {length} bytes: no Example is larger than "
                f"{_LARGEST}",
            )
        if at + length + _FRAMING > size:
            raise damaged(
                path,
                f"it breaks off at byte {size}: record {len(found)} needs bytes up to "
                f"{at + length + _FRAMING}",
            )
        found.append(at + HEADER.size)
        at += length + _FRAMING
    found.append(at + HEADER.size)
    return _compact(np.frombuffer(found, np.int64))


def _compact(starts: np.ndarray) -> np.ndarray:
    return starts.astype(np.uint32 if starts[-1] < 2**32 else np.int64)


class Index:
    """Where the records of files lie, found file by file as they are read.

    What was found stays in memory when a file is closed.
    """

    def __init__(self, paths: Sequence[Path]):
        """Takes the files of one folder, of which none is looked at yet."""
        self._paths = list(paths)
        self._known: dict[str, Shard] | None = None
        self._lock = threading.Lock()
        self._seconds, self._written = 0.0, time.monotonic()
        self._told = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the names alone."""
        return Index, (self._paths,)

    def starts(self, number: int, descriptor: int, *, anew: bool = False) -> np.ndarray:
        """Returns where the records of an open file lie, as `index`.

        Args:
            number: Of the file.
            descriptor: Of the open file.
            anew: Whether what is known of it has proved wrong.

        Raises:
            errors.UserError: as `index`.
        """
        path = self._paths[number]
        status = os.fstat(descriptor)
        mark = status.st_size, status.st_mtime_ns
        with self._lock:
            if self._known is None:
                self._known = self._loaded()
            before = self._known.get(path.name)
            if before is not None and before.mark == mark and not anew:
                return before.starts
            if before is not None:
                self._tell(f"{path} is another file than its index is of")
        began, now = time.perf_counter(), time.time_ns()
        starts = index(descriptor, path)
        with self._lock:
            self._seconds += time.perf_counter() - began
            settled = mark[1] < now - kept.SETTLED
            self._known[path.name] = Shard(mark, starts, settled)
            if self._is_due():
                self._write()
        return starts

    def _tell(self, what: str) -> None:
        """Says once that the index is made again, of however many files."""
        if not self._told:
            logging.warning("%s: made again", what)
        self._told = True

    def _is_due(self) -> bool:
        whole = len(self._known or ()) == len(self._paths)
        late = time.monotonic() - self._written > EVERY
        return self._seconds > WORTH and (whole or late)

    def _places(self) -> list[Path]:
        """Where the index is kept: beside the files, else in the cache."""
        first = self._paths[0]
        name = re.sub(r"-\d+-of-\d+$", "", first.name) + ".index.npz"
        digest = hashlib.sha256(os.fsencode(first.absolute())).hexdigest()[:32]
        cached = host.cache_folder() / "tfrecord" / f"{digest}.npz"
        return [first.with_name(name), cached]

    def _loaded(self) -> dict[str, Shard]:
        found: dict[str, Shard] = {}
        for place in self._places():
            if (read := kept.load(place)) is None:
                continue
            try:
                shards = _unpacked(*read)
            except (KeyError, TypeError, ValueError, IndexError):
                self._tell(f"{place} is no index of ours")
                continue
            if not shards.keys() <= {path.name for path in self._paths}:
                self._tell(f"{place} is an index of other files")
                continue
            found |= shards
        return found

    def _write(self) -> None:
        """Writes what is known; without it the next start is slower."""
        shards = {n: s for n, s in (self._known or {}).items() if s.settled}
        self._written = time.monotonic()
        if not shards:
            return
        beside, cached = self._places()
        try:
            # What is meant to stay as it is is left so, by a superuser too.
            writable = os.stat(beside.parent).st_mode & stat.S_IWUSR
        except OSError:  # gone meanwhile
            writable = False
        problem = "it is read-only"
        if writable:
            problem = kept.save(beside, *_packed(shards))
        if problem:
            problem = kept.save(cached, *_packed(shards))
        if problem:
            logging.warning("the index of %s is not kept: %s", beside, problem)


def _packed(shards: dict[str, Shard]) -> tuple[Any, dict[str, np.ndarray]]:
    lengths = [np.diff(shard.starts.astype(np.int64)) for shard in shards.values()]
    return {"version": _VERSION, "names": list(shards)}, {
        "marks": np.array([shard.mark for shard in shards.values()], np.int64),
        "counts": np.array([len(one) for one in lengths], np.int64),
        "lengths": (np.concatenate(lengths) - _FRAMING).astype(np.uint32),
    }


def _unpacked(told: Any, arrays: dict[str, np.ndarray]) -> dict[str, Shard]:
    """What `_packed` made; of a file whose records do not fill it, nothing.

    Raises:
        ValueError, KeyError, TypeError, IndexError: another program's.
    """
    if told["version"] != _VERSION or arrays["lengths"].dtype != np.uint32:
        raise ValueError(told["version"])
    names, marks, counts = told["names"], arrays["marks"], arrays["counts"]
    if len(names) != len(marks) or counts.sum() != len(arrays["lengths"]):
        raise ValueError(len(names))
    parts = np.split(arrays["lengths"], np.cumsum(counts)[:-1])
    found = {}
    for name, mark, part in zip(names, marks.tolist(), parts, strict=True):
        starts = np.zeros(len(part) + 1, np.int64)
        np.cumsum(part.astype(np.int64) + _FRAMING, out=starts[1:])
        starts += HEADER.size
        if starts[-1] == mark[0] + HEADER.size:
            found[name] = Shard((mark[0], mark[1]), _compact(starts), settled=True)
    return found


class TFRecordShard:
    """One TFRecord file, read with `read_at`: threads share it without a lock."""

    def __init__(
        self, path: Path, records: int, find: Callable[[int, bool], np.ndarray]
    ):
        """Opens the file; it must hold exactly `records` records.

        Args:
            path: The file.
            records: How many the dataset says.
            find: From its descriptor to `Shard.starts`; anew, if it is said so.
        """
        self._file = open(path, "rb", buffering=0)
        self._path, self._records, self._find = path, records, find
        self._look(anew=False)

    def _look(self, *, anew: bool) -> None:
        starts = self._find(self._file.fileno(), anew)
        if len(starts) - 1 != self._records:
            if not anew:  # so says an index that may be another file's
                self._look(anew=True)
                return
            raise damaged(
                self._path,
                f"it holds {len(starts) - 1} records, wanted {self._records}",
            )
        self._starts = starts

    def read(self, index: int) -> bytes:
        """Returns a record of the file.

        Raises:
            DamagedRecord: its checksum is another one (4 us for 110 KB: a photograph
                takes a thousand to decode).
            errors.UserError: the file was changed, and cannot be read any more.
        """
        whole, length = self._whole(index)
        if whole[: HEADER.size] != header(length):  # not where the index says
            self._look(anew=True)
            whole, length = self._whole(index)
        end = HEADER.size + length
        record, checksum = whole[HEADER.size : end], whole[end:]
        if checksum != masked_crc32c(record).to_bytes(4, "little"):
            raise DamagedRecord("its bytes have another checksum than the file states")
        return record

    def _whole(self, number: int) -> tuple[bytes, int]:
        """A record with its framing, as the index says where it is, and its length."""
        start, following = self._starts[number : number + 2].tolist()
        length = following - start - _FRAMING
        at, size = start - HEADER.size, length + _FRAMING
        return host_files.read_at(self._file.fileno(), size, at), length
