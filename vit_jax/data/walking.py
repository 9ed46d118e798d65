"""Which files of a folder are images, and which are left out."""

import errno
import functools
import logging
import os
import stat
import time
from pathlib import Path
from typing import NamedTuple

from vit_jax import errors
from vit_jax.data import levels

# What Pillow decodes and datasets are made of; case does not matter. Of an animation
# or a file of several pages the first is read.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp"),
    *(".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".tga"),
)
# Folders that archivers, network drives and recycle bins leave behind: what they hold
# looks like images.
LITTER = ("__macosx", "@eadir", "$recycle.bin", "lost+found")
# Of an image's file, bytes: far above any photograph, far below a machine's memory.
MAX_BYTES = 2**30
_SETTLED = 2 * 10**9  # ns; file systems keep times of 2 s (FAT) to 1 ns


class Listing(NamedTuple):
    """What lies in a folder; names are relative to it, with slashes, in no order."""

    folders: list[str]  # directly below, sorted
    images: list[str]  # directly below
    left_out: list[str]  # anything else directly below; folders end in a slash


class Walk:
    """Listings of folders, which know whether they still hold.

    Whatever comes into a folder or leaves it changes that folder's time, so that a look
    at each folder is enough, and none at its files.
    """

    def __init__(self) -> None:
        self._began = time.time_ns()
        self._times: dict[Path, int] = {}

    def holds(self) -> bool:
        """Returns whether a walk of now would find the same.

        False also where a folder was changed just before it was listed: a later change
        may have the same time.
        """
        if max(self._times.values(), default=0) > self._began - _SETTLED:
            return False
        try:
            return all(_status(p).st_mtime_ns == t for p, t in self._times.items())
        except errors.UserError:
            return False

    def list_folder(self, place: Path) -> Listing:
        """Returns what lies directly in a folder; links are followed.

        Hidden files are no images: "._a.jpg" is what macOS writes beside "a.jpg".

        Raises:
            errors.UserError: it cannot be listed.
        """
        self._times.setdefault(place, _status(place).st_mtime_ns)
        found = Listing([], [], [])
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    _sort_in(entry, found)
        except OSError as error:
            raise _not_listed(place, error) from error
        found.folders.sort()
        return found

    def list_below(self, place: Path) -> tuple[list[str], list[str]]:
        """Returns the images in a folder and all below it, and what is left out.

        A link to a folder that it lies in is left out, so that every walk ends.

        Raises:
            errors.UserError: a folder that cannot be listed.
        """
        images: list[str] = []
        left_out: list[str] = []
        pending = [("", frozenset([_identity(place)]))]
        while pending:
            prefix, above = pending.pop()
            found = self.list_folder(place / prefix)
            images.extend(prefix + name for name in found.images)
            left_out.extend(prefix + name for name in found.left_out)
            for name in found.folders:
                below = f"{prefix}{name}/"
                identity = _identity(place / below)
                if identity in above:
                    left_out.append(below)
                else:
                    pending.append((below, above | {identity}))
        return images, left_out


def _sort_in(entry: os.DirEntry, found: Listing) -> None:
    name = entry.name
    hidden = name.startswith(".")
    if _links_to_itself(entry):
        found.left_out.append(name)
    elif entry.is_dir():
        if hidden or name.lower() in LITTER:
            found.left_out.append(f"{name}/")
        else:
            found.folders.append(name)
    elif (
        not hidden
        and name.lower().endswith(EXTENSIONS)
        and entry.is_file()  # not so a link to nothing
    ):
        found.images.append(name)
    else:
        found.left_out.append(name)


def _links_to_itself(entry: os.DirEntry) -> bool:
    try:
        entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
        raise
    return False


# What is no file and no folder, by the bits of its mode.
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def kind(mode: int) -> str:
    """Returns what something that is no file is, from the mode of its status."""
    return _KINDS.get(stat.S_IFMT(mode), "no file")


def read_file(path: str | Path) -> bytes:
    """Returns what a file holds; what would wait for ever or never end is refused.

    Raises:
        levels.BadImage: it is no file, or larger than `MAX_BYTES`.
        OSError: it cannot be read.
    """
    try:
        status = os.stat(path)
    except ValueError as error:  # a zero in its name
        raise levels.BadImage(str(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise levels.BadImage(f"it is {kind(status.st_mode)}")
    if status.st_size > MAX_BYTES:
        raise levels.BadImage(
            f"{status.st_size} bytes are more than the limit of {MAX_BYTES}"
        )
    return Path(path).read_bytes()


def _identity(place: Path) -> tuple[int, int]:
    status = _status(place)
    return status.st_dev, status.st_ino


def _status(place: Path) -> os.stat_result:
    try:
        return os.stat(place)
    except OSError as error:
        raise _not_listed(place, error) from error


def _not_listed(place: Path, error: OSError) -> errors.UserError:
    return errors.UserError(
        f"folder {place} cannot be listed: {error.strerror or error}"
    )


@functools.lru_cache(maxsize=1024)
def tell_once(message: str) -> None:
    """Logs a warning, however often a folder is listed in this process."""
    logging.warning("%s", message)
