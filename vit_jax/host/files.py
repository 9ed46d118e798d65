"""Open files and reading at a place, where Unix's calls are missing too; no JAX."""

import importlib
import os
import threading
from pathlib import Path
from types import ModuleType

resource: ModuleType | None
try:
    resource = importlib.import_module("resource")
except ImportError:  # Windows
    resource = None

_SEEKING = threading.Lock()


def open_to_read(path: str | Path) -> int:
    """Returns the descriptor of a file, for `read_at`; `os.close` closes it."""
    try:
        return os.open(path, os.O_RDONLY | os.O_BINARY)  # type: ignore[attr-defined]
    except AttributeError:  # not Windows, where lines end otherwise
        return os.open(path, os.O_RDONLY)


def read_at(descriptor: int, length: int, start: int) -> bytes:
    """Returns up to `length` bytes of an open file, from any thread."""
    try:
        return os.pread(descriptor, length, start)
    except AttributeError:  # Windows: a file has one position
        with _SEEKING:
            os.lseek(descriptor, start, os.SEEK_SET)
            return os.read(descriptor, length)


def read_into(buffer: memoryview, descriptor: int, start: int) -> int:
    """Fills as much of a buffer as one read gives, and returns how much that was."""
    try:
        return os.preadv(descriptor, [buffer], start)
    except AttributeError:  # neither Linux nor BSD
        got = read_at(descriptor, min(len(buffer), 2**30), start)
        buffer[: len(got)] = got
        return len(got)


def raise_open_files(wanted: int) -> int | None:
    """Raises the limit of open files to `wanted`, as far as it may, and returns it.

    None: there is no limit, or nothing says it.
    """
    if resource is None:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return None if soft == resource.RLIM_INFINITY else soft
