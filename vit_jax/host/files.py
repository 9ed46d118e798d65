"""Reading at a place, writing whole files, folders by address too; no JAX."""

import contextlib
import errno
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vit_jax.host import resource

_SEEKING = threading.Lock()
# Opening a pipe that nobody writes to must not wait; Windows' lines end otherwise.
_TO_READ = os.O_RDONLY | sum(
    vars(os)[name] for name in ("O_NONBLOCK", "O_BINARY") if name in vars(os)
)
# A `Path` of "gs://bucket/run" is "gs:/bucket/run".
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)


def address(path: str | os.PathLike) -> str:
    """Returns `gs://bucket/run` and the like, and "" for a path of this machine."""
    match = _ADDRESS.fullmatch(os.fspath(path))
    return f"{match[1].lower()}://{match[2]}" if match else ""


def folder(path: str | os.PathLike) -> Path:
    """Returns a path of this machine, or of an address what has `Path`'s methods.

    Raises:
        ValueError: an address of a kind that `buckets` does not know.
        ImportError: its packages are missing.
    """
    where = address(path)
    if not where:
        return Path(path)
    from vit_jax.host import buckets

    return buckets.folder(where)


def absolute(path: Path) -> Path:
    """Returns a path that does not depend on the working directory."""
    return path if address(path) else path.absolute()


def expanded(path: str | Path) -> Path:
    """Returns a path with the home that a leading "~" or "~NAME" stands for.

    Where there is none it stays as it is written, and names nothing.
    """
    return Path(os.path.expanduser(path))


def open_to_read(path: str | Path) -> int:
    """Returns the descriptor of a plain file, for `read_at`; `os.close` closes it.

    Raises:
        OSError: there is none, or it is a pipe, a device or a folder, of which a read
            may never end.
    """
    descriptor = os.open(path, _TO_READ)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return descriptor


def check_plain(path: str | Path) -> None:
    """Raises `OSError` where there is no file that a library may open and read."""
    os.close(open_to_read(path))


def read_whole(path: str | Path, limit: int) -> bytes:
    """Returns the bytes of a plain file, or of an object of a bucket.

    Args:
        path: The file.
        limit: The most bytes that it may have.

    Raises:
        OSError: it cannot be read, is no plain file, or has more.
    """
    if address(path):
        return folder(path).read_bytes()
    with os.fdopen(open_to_read(path), "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > limit:
            told = f"it has {size:,} bytes, more than {limit:,}"
            raise OSError(errno.EFBIG, told, str(path))
        return file.read(limit)


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


@contextlib.contextmanager
def whole(path: Path, *, shared: bool = False) -> Iterator[BinaryIO]:
    """Yields a file that gets its name when all is written, else is not there.

    What had the name is there until then, and also after a power cut.

    Args:
        path: Its name, in a folder that is there.
        shared: Other processes may write the same file at the same time.
    """
    # Of processes in containers the numbers are the same.
    end = f".{os.urandom(4).hex()}.partial" if shared else ".partial"
    partial = path.with_name(path.name + end)
    try:
        with open(partial, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file that is there whole, as UTF-8, or as it was; see `whole`."""
    encoded = content.encode() if isinstance(content, str) else content
    if address(path):
        path.write_bytes(encoded)  # an object is never there in part
        return
    with whole(path) as stream:
        stream.write(encoded)


def move_over(path: Path, target: Path) -> None:
    """Moves a folder to another place of its file system or bucket, over what is there.

    In a bucket every object is copied and removed.
    """
    if address(path):
        from vit_jax.host import buckets

        buckets.move_over(path, target)
        return
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    path.rename(target)


def remove(path: Path) -> None:
    """Removes a folder with all that is below."""
    if address(path):
        from vit_jax.host import buckets

        buckets.remove(path)
        return
    shutil.rmtree(path)


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
