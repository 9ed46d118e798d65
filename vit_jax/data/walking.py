"""Which files of a folder are images, and which are left out."""

import errno
import functools
import heapq
import logging
import operator
import os
import stat
import time
from collections.abc import Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import NamedTuple

from vit_jax import errors
from vit_jax.data import levels, names
from vit_jax.data.names import Branch
from vit_jax.host import kept

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
_AT_ONCE = 1024  # folders, whose names are in memory together


class Listing(NamedTuple):
    """What lies in a folder; names are relative to it, with slashes, in no order."""

    folders: list[str]  # directly below, sorted
    images: list[str]  # directly below
    left_out: list[str]  # anything else directly below; folders end in a slash


Mark = tuple[int, int]  # of a folder: the times of its last change, and of its entry's


class Walk:
    """Listings of folders, which know whether they still hold.

    Whatever comes into a folder or leaves it changes that folder's time, so that a look
    at each folder is enough, and none at its files. Who sets the time back, as tar
    does, changes the other one. Folders are looked at by several threads: where they
    lie elsewhere, most of the time is waiting.
    """

    def __init__(self, marks: Mapping[str, Mark] | None = None) -> None:
        """Takes the marks of an earlier walk, where its listings are at hand."""
        self._began = time.time_ns()
        self.marks: dict[str, Mark] = dict(marks or {})

    def holds(self) -> bool:
        """Returns whether a walk of now would find the same.

        False also where a folder was changed just before it was listed: a later change
        may have the same time.
        """
        latest = max((changed for changed, _ in self.marks.values()), default=0)
        return latest <= self._began - kept.SETTLED and self.is_as_marked()

    def is_as_marked(self) -> bool:
        """Returns whether all folders have the marks that they had."""
        try:
            with _threads() as pool:
                found = pool.map(_mark, self.marks)
                return all(map(operator.eq, found, self.marks.values()))
        except errors.UserError:
            return False

    def is_settled(self) -> bool:
        """Returns whether another process may trust the marks.

        Not so right after a change, or on a file system that gives folders no times.
        """
        latest = self._began - kept.SETTLED
        return all(0 < a <= latest and b <= latest for a, b in self.marks.values())

    def list_folder(self, place: Path) -> Listing:
        """Returns what lies directly in a folder; links are followed.

        Hidden files are no images: "._a.jpg" is what macOS writes beside "a.jpg".

        Raises:
            errors.UserError: it cannot be listed.
        """
        self.marks.setdefault(str(place), _mark(str(place)))
        found = Listing([], [], [])
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    _sort_in(entry, found)
        except OSError as error:
            raise _not_listed(place, error) from error
        found.folders.sort()
        return found

    def branches(self, place: Path, few: int | None = None) -> Iterator[Branch]:
        """Yields a folder and all below it, those above before those inside.

        A link to a folder that it lies in is left out, so that every walk ends.

        Args:
            place: The folder.
            few: How many names of what is left out of each are wanted; None: all.

        Raises:
            errors.UserError: a folder that cannot be listed.
        """
        level: list[_At] = [("", frozenset())]
        with _threads() as pool:
            while level:
                following: list[_At] = []
                for at in range(0, len(level), _AT_ONCE):
                    look = functools.partial(self._branch, place, few)
                    for branch, above in pool.map(look, level[at : at + _AT_ONCE]):
                        yield branch
                        inside = (f"{branch.prefix}{n}/" for n in branch.folders)
                        following += [(prefix, above) for prefix in inside]
                level = following

    def _branch(self, place: Path, few: int | None, at: "_At") -> "tuple[Branch, _Ids]":
        prefix, above = at
        where = place / prefix
        above = above | {_identity(where)}
        found = self.list_folder(where)
        loops = [name for name in found.folders if _identity(where / name) in above]
        folders = [name for name in found.folders if name not in loops]
        left_out = [prefix + name for name in found.left_out]
        left_out += [f"{prefix}{name}/" for name in loops]
        left = len(left_out)
        if few is not None:
            left_out = heapq.nsmallest(few, left_out)
        images, count = names.packed(found.images), len(found.images)
        return Branch(prefix, folders, images, count, left_out, left), above

    def list_below(self, place: Path) -> tuple[list[str], list[str]]:
        """Returns the images in a folder and all below it, and what is left out.

        Raises:
            errors.UserError: a folder that cannot be listed.
        """
        images: list[str] = []
        left_out: list[str] = []
        for branch in self.branches(place):
            images += [branch.prefix + name for name in branch.names()]
            left_out += branch.left_out
        return images, left_out


_Ids = frozenset[tuple[int, int]]
_At = tuple[str, _Ids]  # a folder, and those that it lies in


def _threads() -> futures.ThreadPoolExecutor:
    return futures.ThreadPoolExecutor(16, "list")


def _sort_in(entry: os.DirEntry, found: Listing) -> None:
    name = entry.name
    hidden = name.startswith(".")
    image = not hidden and name.lower().endswith(EXTENSIONS)
    if image and entry.is_file(follow_symlinks=False):  # nearly all
        found.images.append(name)
    elif _links_to_itself(entry):
        found.left_out.append(name)
    elif entry.is_dir():
        if hidden or name.lower() in LITTER:
            found.left_out.append(f"{name}/")
        else:
            found.folders.append(name)
    elif image and entry.is_file():  # not so a link to nothing
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


def _mark(place: str) -> Mark:
    status = _status(Path(place))
    return status.st_mtime_ns, status.st_ctime_ns


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
