"""Processes that take turns at the files of a folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Waits until no other process has its turn in a folder, by the kernel's lock.

    Nothing is waited for where there is no folder yet, or no locks in it.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            file = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, file)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
