"""The files of writers, for a run whose folder is in a bucket.

Nothing can be appended there. Writers work in a folder of this machine, as ever, and
what changed is copied whole: before each checkpoint, after each evaluation, and in
between at most once in `SECONDS`.
"""

import errno
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from vit_jax import errors

SECONDS = 60.0
# What is copied; wandb's own folder is not.
PATTERNS = ("*.*", "tensorboard/*")


class Copied:
    """A folder of this machine whose files a folder in a bucket has as well.

    Attributes:
        folder: Where to write.
    """

    def __init__(self, workdir: Path, names: Sequence[str]):
        """Fetches what is gone on with.

        Args:
            workdir: In a bucket.
            names: Of its files to fetch, where they are there.
        """
        self._workdir = workdir
        self._temporary = tempfile.TemporaryDirectory(prefix="vit_jax-")
        self.folder = Path(self._temporary.name) / workdir.name
        self.folder.mkdir()
        self._copied: dict[Path, tuple[int, int]] = {}
        self._when = time.monotonic()
        for name in names:
            if (workdir / name).exists():
                (self.folder / name).write_bytes((workdir / name).read_bytes())
                self._copied[self.folder / name] = _stamp(self.folder / name)

    def now_and_then(self) -> None:
        """Copies if the last time is `SECONDS` ago."""
        if time.monotonic() - self._when >= SECONDS:
            self.now()

    def now(self) -> None:
        """Copies what has changed.

        Raises:
            OSError: it cannot be.
        """
        found = [path for pattern in PATTERNS for path in self.folder.glob(pattern)]
        for path in found:
            stamp = _stamp(path)
            if self._copied.get(path) == stamp or path.suffix == ".partial":
                continue
            try:
                place = self._workdir / path.relative_to(self.folder).as_posix()
                place.write_bytes(path.read_bytes())
            except Exception as error:  # of gcsfs, which raises its own kinds
                raise OSError(_number(error), errors.reason(error)) from error
            self._copied[path] = stamp
        self._when = time.monotonic()

    def close(self) -> None:
        """Copies what has changed, and removes the folder of this machine."""
        try:
            self.now()
        finally:
            self._temporary.cleanup()


def _number(error: Exception) -> int:
    """EACCES where another start would fail as well, else EIO: it may pass."""
    lasts = isinstance(error, FileNotFoundError | PermissionError)
    return errno.EACCES if lasts or str(error).startswith("Forbidden") else errno.EIO


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
