"""Files that grow by whole batches, survive any end and appear under their name whole.

Beside `OUT` lies `OUT.job.json`: what makes it, how many rows are safe and how many
bytes of each file they are. Rows go to `OUT.partial` (and to further files of a format,
`OUT.ids.partial`); whoever goes on cuts these to the bytes that are safe. Nothing is
read again, so that going on costs the same after ten rows and after a billion.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from vit_jax import errors
from vit_jax.host import files as host_files
from vit_jax.settings import documents

# Seconds of work that a power cut may cost. A kill costs no more.
EVERY = 1.0
_SUFFIX = ".job.json"
_PARTIAL = ".partial"


def job_path(out: Path) -> Path:
    """Returns where it stands what made a file."""
    return out.with_name(out.name + _SUFFIX)


def read_job(out: Path) -> dict[str, Any] | None:
    """Returns what made a file, and how far it is; None: nothing says.

    Raises:
        errors.UserError: it is damaged.
    """
    path = job_path(out)
    try:
        if not path.exists():
            return None
        kinds = {"job": dict, "bytes": dict, "finished": bool, "rows": int}
        found = documents.checked(documents.read(path), kinds | {"failed": int})
        documents.checked(found["bytes"], dict.fromkeys(found["bytes"], int))
    except errors.UserError as error:
        raise errors.UserError(
            f"{path} cannot be read: {error}. Remove it and {out}*, or take another "
            "--out"
        ) from error
    return found


def check_place(out: str, *, overwrite: bool) -> Path:
    """Returns where rows go, after making its folder.

    Raises:
        errors.UserError: nothing can be written there, or something else is there.
    """
    if "://" in out:
        raise errors.UserError(f"--out={out}: want a local or mounted file")
    path = host_files.expanded(out)
    if path.is_dir():
        raise errors.UserError(f"--out={out} is a folder; want a file in it")
    with explained(path):
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
            logging.info("made the folder %s", path.parent)
    if not os.access(path.parent, os.W_OK):
        raise errors.UserError(f"--out={out}: {path.parent} cannot be written to")
    beside = [path, _part(path, "")]
    taken = [str(p) for p in beside if os.path.lexists(p)]
    if taken and not overwrite and not job_path(path).exists():
        raise errors.UserError(
            f"{taken[0]} is there, and nothing says what made it: want another --out, "
            "or --overwrite"
        )
    return path


def _part(out: Path, suffix: str) -> Path:
    return out.with_name(out.name + suffix + _PARTIAL)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise errors.UserError(
            f"cannot write {error.filename or path}: {error.strerror or error}. Free "
            "space or take another --out; the same command goes on where it was"
        ) from error


class Journal:
    """The files of one job, to which rows are appended; also a context.

    Attributes:
        out: Where the result will be.
        rows: That are safe, or written and not yet so.
        failed: How many of them are of images that could not be read.
        finished: Whether the result is there.
    """

    def __init__(
        self,
        out: Path,
        job: Mapping[str, Any],
        begin: Mapping[str, bytes],
        *,
        said: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ):
        """Starts, or goes on where an earlier call of the same job was.

        Args:
            out: From `check_place`.
            job: What decides the rows; plain values.
            begin: What each file begins with, by its suffix; "" is the main one.
            said: More to keep, which does not decide the rows.
            overwrite: Forget what is there of another job.

        Raises:
            errors.UserError: another job's rows are there; nothing can be written.
        """
        self.out = out
        self._job = json.loads(json.dumps(job))
        self._said = dict(said or {})
        self._files: dict[str, BinaryIO] = {}
        earlier = self._stored(overwrite)
        self.rows = earlier["rows"] if earlier else 0
        self.failed = earlier["failed"] if earlier else 0
        self.finished = earlier["finished"] if earlier else False
        self._bytes: dict[str, int] = earlier["bytes"] if earlier else {}
        self._saved = time.monotonic()
        if self.finished:
            return
        with explained(out):
            for suffix, head in begin.items():
                self._open(suffix, head, new=earlier is None)
            if earlier is None:
                self.save()

    def _stored(self, overwrite: bool) -> dict[str, Any] | None:
        """What an earlier call of this job left; None: it starts anew."""
        earlier = None if overwrite else read_job(self.out)
        if earlier is None or not self._is_there(earlier):
            return None
        theirs = earlier["job"]
        lines = [
            f"{key}: {_short(theirs.get(key))} there, "
            f"{_short(self._job.get(key))} in this call"
            for key in {**theirs, **self._job}
            if theirs.get(key) != self._job.get(key)
        ]
        if lines:
            raise errors.UserError(
                errors.listing(
                    f"{self.out} is of another command:",
                    lines,
                    "want the same values, another --out, or --overwrite",
                )
            )
        return earlier

    def _is_there(self, earlier: Mapping[str, Any]) -> bool:
        """Whether there is anything that the record is of: nobody removed it."""
        return self.out.exists() or _part(self.out, "").exists()

    def _open(self, suffix: str, head: bytes, *, new: bool) -> None:
        path = _part(self.out, suffix)
        if not new and not path.exists() and self._final(suffix).exists():
            return  # the last call ended at the very end
        file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        self._files[suffix] = file
        _lock(file, path)
        if new:
            file.truncate(0)
            file.write(head)
            return
        length = os.fstat(file.fileno()).st_size
        if suffix not in self._bytes or not 0 <= self._bytes[suffix] <= length:
            raise errors.UserError(
                f"{path} has {length} bytes, {self._bytes.get(suffix)} were written: "
                "it is damaged. Start anew with --overwrite"
            )
        file.truncate(self._bytes[suffix])
        file.seek(self._bytes[suffix])

    def _final(self, suffix: str) -> Path:
        return self.out.with_name(self.out.name + suffix)

    def append(self, count: int, failed: int, chunks: Mapping[str, bytes]) -> None:
        """Writes rows; they are safe after the next `save`.

        Args:
            count: How many.
            failed: How many of them are of images that could not be read.
            chunks: Their bytes, by the suffix of the file.

        Raises:
            errors.UserError: the disk is full.
        """
        with explained(self.out):
            for suffix, chunk in chunks.items():
                self._files[suffix].write(chunk)
        self.rows += count
        self.failed += failed
        if time.monotonic() - self._saved >= EVERY:
            self.save()

    def save(self) -> None:
        """Makes all rows safe.

        Raises:
            errors.UserError: the disk is full.
        """
        with explained(self.out):
            for suffix, file in self._files.items():
                file.flush()
                os.fsync(file.fileno())
                self._bytes[suffix] = file.tell()
            self._record()
        self._saved = time.monotonic()

    def _record(self) -> None:
        record = {
            "job": self._job,
            **self._said,
            "rows": self.rows,
            "failed": self.failed,
            "bytes": self._bytes,
            "finished": self.finished,
        }
        content = json.dumps(record, indent=1) + "\n"
        host_files.write_whole(job_path(self.out), content)

    def parts(self) -> dict[str, Path]:
        """Returns the files not yet under their own name, written to the end.

        They stay this process's alone until `end`, through the last rename.
        """
        self.save()
        if os.name == "nt":  # which renames no open file
            self._close()
        return {suffix: _part(self.out, suffix) for suffix in self._files}

    def end(self) -> None:
        """Records that the result is there, and gives the files up."""
        self.finished = True
        with explained(self.out):
            self._record()
        self._close()

    def _close(self) -> None:
        for file in self._files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # of a full disk, which was an error before
            self._close()


def _lock(file: BinaryIO, path: Path) -> None:
    """Has the file for this process alone, where the system can do that."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise errors.UserError(
            f"another process is writing {path}: want another --out, or wait for it"
        ) from error


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
