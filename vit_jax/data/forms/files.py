"""Which files a glob or list of shards names, their splits, and bytes of them."""

import collections
import glob
import itertools
import math
import os
import re
import stat
import threading
from collections.abc import Sequence
from typing import Any

from vit_jax import errors
from vit_jax.data import decode, records, walking
from vit_jax.host import files as host_files

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"^(\d{1,12})\.\.(\d{1,12})$")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_MOST_FILES = 1_000_000
_SPLIT = re.compile(
    r"(?:^|[-_./])(train|training|val|valid|validation|dev|test|testing|eval|evaluation"
    r"|holdout)(?=[-_.0-9/]|$)",
    re.IGNORECASE,
)
ONLY_SPLIT = "all"  # of files whose names tell of none


def is_url(path: str) -> bool:
    """Returns whether a path is the address of something that lies elsewhere."""
    return bool(_URL.match(path))


def braces(pattern: str) -> list[str]:
    """Returns what a shell makes of `a{000..012}` and `a{x,y}`.

    Raises:
        errors.UserError: a range of far too many files.
    """
    parts: list[list[str]] = []
    at = 0
    for match in _BRACES.finditer(pattern):
        parts.append([pattern[at : match.start()]])
        if numbers := _RANGE.match(match[1]):
            first, last = (int(number) for number in numbers.groups())
            width = max(map(len, numbers.groups()))
            if abs(last - first) >= _MOST_FILES:
                raise _too_many(pattern)
            step = 1 if last >= first else -1
            numbers_ = range(first, last + step, step)
            parts.append([f"{number:0{width}d}" for number in numbers_])
        elif "," in match[1]:
            parts.append(match[1].split(","))
        else:  # as a shell, which leaves {x} alone
            parts.append([match[0]])
        at = match.end()
    parts.append([pattern[at:]])
    if math.prod(map(len, parts)) > _MOST_FILES:
        raise _too_many(pattern)
    return ["".join(words) for words in itertools.product(*parts)]


def _too_many(pattern: str) -> errors.UserError:
    return errors.UserError(
        f"{pattern}: more than {_MOST_FILES:,} files in braces; want fewer shards"
    )


def expand(spec: str, dataset: str, suffix: str) -> list[str]:
    """Returns the files of a glob, a folder, braces, or several joined by "::".

    Args:
        spec: What the dataset's name has behind its form.
        dataset: The name, for messages.
        suffix: Of the files of a folder, ".parquet" or ".tar".

    Raises:
        errors.UserError: no file, or one that is not there.
    """
    found: list[str] = []
    for pattern in itertools.chain.from_iterable(map(braces, spec.split("::"))):
        if not pattern:  # which would be the current folder
            continue
        if is_url(pattern):
            found.append(pattern)
            continue
        place = host_files.expanded(pattern)
        if place.is_dir():
            found += sorted(str(path) for path in place.rglob(f"*{suffix}"))
        elif place.is_file():
            found.append(str(place))
        elif glob.has_magic(pattern):
            found += sorted(glob.glob(str(place), recursive=True))
        else:
            raise errors.UserError(f"{dataset}: no file {place}")
    if not found:
        raise errors.UserError(
            f"{dataset}: no file of that name; wanted a file, a folder of *{suffix}, a "
            f"glob like data/train-*{suffix} or braces like "
            f"train-{{000..012}}{suffix}"
        )
    return list(dict.fromkeys(found))


def by_split(files: Sequence[str], dataset: str) -> dict[str, list[str]]:
    """Returns the files of each split, told by their names: train-00000.tar, val/a.tar.

    The names of the files decide, else those of folders below the one that all files
    share. Where none tells of a split, the only one is "all".

    Raises:
        errors.UserError: some files tell of a split and some do not.
    """
    folders = [os.path.dirname(file) for file in files]
    shared = os.path.commonpath(folders) if all(folders) else ""
    found: dict[str, list[str]] = collections.defaultdict(list)
    without = []
    for file in files:
        place = os.path.relpath(os.path.dirname(file) or ".", shared or ".")
        match = _SPLIT.search(os.path.basename(file)) or _SPLIT.search(place)
        if match:
            found[match[1].lower()].append(file)
        else:
            without.append(file)
    if found and without:
        named = next(iter(found.values()))[0]
        raise errors.UserError(
            f"{dataset}: {named} is named after a split and {without[0]} is not; name "
            "all files so (train-000, val-000), or none"
        )
    return dict(found) or {ONLY_SPLIT: list(files)}


def remote(path: str) -> tuple[Any, str]:
    """Returns the file system of a URL and the path in it.

    Raises:
        errors.UserError: fsspec or what it needs is not installed, or an unknown kind.
    """
    if path.startswith("pipe:"):
        raise errors.UserError(
            f"{path} is a stream: it has no random access; download the shards"
        )
    try:
        import fsspec
    except ImportError as error:
        raise errors.UserError(
            f"{path}: files elsewhere want fsspec: pip install 'vit_jax[data]'"
        ) from error
    try:
        return fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise errors.UserError(f"{path} cannot be reached: {error}") from error


class Bytes:
    """Ranges of bytes of a sequence of files, local or remote; threads share it."""

    def __init__(self, paths: Sequence[str]):
        """Opens nothing yet."""
        self.paths = list(paths)
        self._max_open = records.open_file_budget(len(paths))
        self._open: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def read(self, file: int, offset: int, length: int) -> bytes:
        """Returns `length` bytes of file number `file`.

        Raises:
            decode.BadImage: the file breaks off before.
            OSError: it cannot be read.
        """
        path = self.paths[file]
        opened = self._file(file)
        if is_url(path):
            system, place = opened
            data = system.cat_file(place, start=offset, end=offset + length)
        else:
            data = host_files.read_at(opened.fileno(), length, offset)
        if len(data) != length:
            raise decode.BadImage(f"{path} breaks off before byte {offset + length}")
        return data

    def _file(self, file: int) -> Any:
        with self._lock:
            if file in self._open:
                return self._open[file]
        path = self.paths[file]
        # A file that falls out is closed when the last thread reading it lets go.
        opened = remote(path) if is_url(path) else open(path, "rb", buffering=0)
        with self._lock:
            self._open[file] = opened
            if len(self._open) > self._max_open:
                self._open.popitem(last=False)
        return opened


def fingerprint(path: str) -> str:
    """Returns what changes when a file does: its size and time, or what a server says.

    Raises:
        errors.UserError: it is not there.
    """
    try:
        if is_url(path):
            system, place = remote(path)
            return f"{system.size(place)}-{system.ukey(place)}"
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise errors.UserError(
                f"{path} is {walking.kind(status.st_mode)}; want a file"
            )
        return f"{status.st_size}-{status.st_mtime_ns}"
    except (OSError, ValueError) as error:
        if isinstance(error, errors.UserError):
            raise
        what = (isinstance(error, OSError) and error.strerror) or errors.reason(error)
        raise errors.UserError(f"{path} cannot be read: {what}") from error


def read_whole(path: str) -> bytes:
    """Returns all bytes of a remote file."""
    system, place = remote(path)
    return system.cat_file(place)
