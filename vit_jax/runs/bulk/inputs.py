"""What is read in bulk: files by name, or the examples of a dataset."""

import glob
import hashlib
import logging
import os
import re
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vit_jax import errors
from vit_jax.data import catalog, sources, walking

# Of a list of files that is read from standard input.
STDIN = "@-"


class Inputs(Protocol):
    """Images by number. What is held for each is its name, or nothing."""

    @property
    def exif(self) -> str:
        """As `Preprocessing.eval_transform` takes it."""
        ...

    @property
    def labels(self) -> str:
        """What "label" of an example is: a "class", "classes" of several, "": none."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Returns what its row is called."""
        ...

    def example(self, index: int) -> Mapping[str, Any]:
        """Reads an "image", still encoded where it is, and its "label" if any.

        Raises:
            decode.BadImage: it cannot be read.
            OSError: the same.
        """
        ...


class Files:
    """Image files in the order they were named in."""

    exif, labels = "turn", ""

    def __init__(self, paths: Sequence[str]):
        """Takes paths as they are."""
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        """Returns the path."""
        return self._paths[index]

    def example(self, index: int) -> Mapping[str, Any]:
        """Reads the file; see `Inputs`."""
        return {"image": walking.read_file(self._paths[index])}


class Examples:
    """The examples of a source, in its order, prepared as `evaluate` does it."""

    exif = ""

    def __init__(self, source: Any, labels: str = ""):
        """Takes a source of `data.sources`, and what its labels are; see `Inputs`."""
        self._source, self.labels = source, labels

    def __len__(self) -> int:
        return len(self._source)

    def name(self, index: int) -> str:
        """Returns what the dataset calls the example."""
        return sources.describe_example(self._source, index)

    def example(self, index: int) -> Mapping[str, Any]:
        """Reads an example; see `Inputs`."""
        return self._source[index]


class Part:
    """A run of neighbours among other inputs: the share of one of several processes."""

    def __init__(self, whole: Inputs, start: int, stop: int):
        """Takes the bounds of the part."""
        self._whole, self._start, self._stop = whole, start, stop
        self.exif, self.labels = whole.exif, whole.labels

    def __len__(self) -> int:
        return self._stop - self._start

    def name(self, index: int) -> str:
        """Returns the name it has in the whole."""
        return self._whole.name(self._start + index)

    def example(self, index: int) -> Mapping[str, Any]:
        """Reads an example; see `Inputs`."""
        return self._whole.example(self._start + index)


def find(
    words: Sequence[str],
    *,
    dataset: str = "",
    split: str = "",
    data_dir: str = "",
    part: str = "",
) -> Inputs:
    """Returns what the words of a command line name.

    Args:
        words: Files; folders, whose images are taken however deep, sorted; patterns
            (`*`, `?`, `[a-z]`, `**`), sorted; and `@FILE`, a list with a path on each
            line, `@-` that of standard input. Paths are kept as they are written.
        dataset: In the place of words: as `data.catalog` takes it.
        split: Of the dataset; "" is the usual test split.
        data_dir: Of TFDS.
        part: "K/N": the part K, from 0, of N equal ones; "": all.

    Raises:
        errors.UserError: nothing is there, or no image in it.
    """
    if dataset:
        if words:
            raise errors.UserError(
                f"--dataset={dataset} and {words[0]!r}: want one of them"
            )
        info = catalog.describe(dataset, data_dir=data_dir)
        split = split or catalog.usual_split(info)
        source = catalog.open_source(dataset, split, data_dir=data_dir)
        labels = "classes" if info.multi_label else "class"
        found: Inputs = Examples(source, "" if info.numeric else labels)
    else:
        found = Files(paths(words))
    if not len(found):
        raise errors.UserError(
            "want images: files, folders, patterns, @LIST, or --dataset=NAME"
        )
    return _part(found, part) if part else found


def paths(words: Sequence[str], *, missing: bool = False) -> list[str]:
    """Returns the files that words name, see `find`.

    Args:
        words: Files, folders, patterns and lists.
        missing: Leave a file that is not there in its place.

    Raises:
        errors.UserError: nothing is there, or no image in it.
    """
    return [path for word in words for path in _paths(word, missing)]


def digest(inputs: Inputs) -> str:
    """Returns a hash of the names, which says whether these are the same inputs."""
    found = hashlib.blake2b(digest_size=16)
    for index in range(len(inputs)):
        found.update(inputs.name(index).encode("utf-8", "surrogateescape") + b"\0")
    return found.hexdigest()


def _part(whole: Inputs, part: str) -> Part:
    match = re.fullmatch(r"(\d{1,12})/(\d{1,12})", part)
    if not match or not int(match[1]) < int(match[2]) <= len(whole):
        raise errors.UserError(
            f"--part={part}; want K/N, as in 0/4 to 3/4, of at most the {len(whole)} "
            "images that there are"
        )
    number, count = int(match[1]), int(match[2])
    bounds = (len(whole) * k // count for k in (number, number + 1))
    return Part(whole, *bounds)


def _paths(word: str, missing: bool) -> Iterable[str]:
    if word == STDIN:
        return _lines(sys.stdin.buffer)
    if word.startswith("@"):
        return _listed(word[1:])
    if glob.has_magic(word) and not os.path.lexists(word):
        return _matching(word)
    try:
        mode = os.stat(word).st_mode
    except (OSError, ValueError) as error:
        if missing:
            return [word]
        raise _unreadable(word, error) from error
    if stat.S_ISDIR(mode):
        return _below(Path(word))
    if not stat.S_ISREG(mode):
        raise errors.UserError(
            f"{word} is {walking.kind(mode)}; want an image file, a folder or @LIST"
        )
    return [word]


def _unreadable(path: str, error: Exception) -> errors.UserError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    parent = Path(path).parent
    beside = [str(p) for p in parent.iterdir()] if os.access(parent, os.R_OK) else []
    if isinstance(error, FileNotFoundError):
        reason = "there is no such file or folder." + errors.suggest(path, beside)
    return errors.UserError(f"{path}: {reason}")


def _listed(path: str) -> list[str]:
    try:
        if not stat.S_ISREG(mode := os.stat(path).st_mode):
            raise errors.UserError(
                f"@{path}: it is {walking.kind(mode)}; want a file with a path on each "
                f"line, or {STDIN} for standard input"
            )
        with open(path, "rb") as file:
            return _lines(file)
    except OSError as error:
        raise _unreadable(path, error) from error


def _lines(file: Iterable[bytes]) -> list[str]:
    lines = (line.rstrip(b"\r\n") for line in file)
    return [line.decode("utf-8", "surrogateescape") for line in lines if line.strip()]


def _matching(pattern: str) -> list[str]:
    found = sorted(p for p in glob.iglob(pattern, recursive=True) if os.path.isfile(p))
    if not found:
        raise errors.UserError(f"{pattern}: no file matches the pattern")
    return found


def _below(folder: Path) -> list[str]:
    images, left_out = walking.Walk().list_below(folder)
    if left_out:
        logging.warning(
            "folder %s: left out %d (no images): %s",
            *(folder, len(left_out), errors.some(left_out)),
        )
    if not images:
        raise errors.UserError(
            f"folder {folder} holds no image; want files ending in "
            f"{', '.join(walking.EXTENSIONS)}"
        )
    return [str(folder / name) for name in sorted(images)]
