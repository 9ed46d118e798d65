"""A folder of images: `SPLIT/CLASS/.../IMAGE`, or `CLASS/.../IMAGE` as split "train".

Which of the two it is follows from the names. The folders in it are splits if one that
holds folders of images is named like a split (`train`, `val`, `test_2`, `fold1`, see
`folder_layout`); otherwise they are classes. All images below a class folder, however
deep, belong to the class. What would leave room for doubt is an error.

The listing of a large folder is kept in the cache. It holds as long as no folder in it
has other times: what files hold is no part of it.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import errors, host
from vit_jax.data import decode, folder_layout, sources, splits, walking
from vit_jax.data.folder_layout import Layout
from vit_jax.data.names import FEW, Names
from vit_jax.host import kept

EXTENSIONS = walking.EXTENSIONS
FEWEST = 10_000  # images whose listing is kept: it took a tenth of a second
_VERSION = 1  # of what is kept


class Folder:
    """The images of a folder: which splits and classes there are, and their files.

    Files come sorted by class, so every split is put in a pseudo-random order that
    depends on nothing but the files' names (by the hash of CLASS/.../IMAGE); split
    expressions cut that order. Classes are numbered in the order of their names, alike
    in all splits. What is left out is logged: how many, and the first few names.
    """

    multi_label = numeric = False

    def __init__(self, root: Path, *, name: str = ""):
        """Lists the folder; `name` is what the dataset is called, "" its path.

        Raises:
            errors.UserError: there is no such folder, its layout is not one of ours, or
                a class has no image.
        """
        self.root, self.name = root, name or str(root)
        if not root.is_dir():
            what = "is a file, not a folder" if root.exists() else "does not exist"
            raise errors.UserError(f"folder {root} {what}; {folder_layout.LAYOUTS}")
        kept_at = _place(root)
        found = _read(kept_at, root)
        if found is None:
            self._walk = walking.Walk()
            branches = list(self._walk.branches(root, FEW))
            self._layout = folder_layout.of(root, branches)
            self._keep(kept_at)
        else:
            self._layout, self._walk = found
        self.class_names = self._layout.classes
        splits = self._layout.splits.items()
        self._parts = {n: (str(root / place), names) for n, (place, names) in splits}
        for line in self._layout.said:
            walking.tell_once(line)

    def counts(self) -> dict[str, int]:
        """Returns the number of images of each split."""
        return {split: len(found) for split, (_, found) in self._layout.splits.items()}

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the classes, those of their folders."""
        return self.class_names

    def open(self, ranges: Sequence[splits.Range]) -> "FolderSource":
        """Returns the examples of ranges of splits; see `FolderSource`."""
        return FolderSource(self, ranges)

    def holds(self) -> bool:
        """Returns whether it would be listed so again."""
        return self._walk.holds()

    def file(self, split: str, at: int) -> tuple[str, str]:
        """Returns the path and the class name of one image of a split."""
        place, names = self._parts[split]
        name = names[at]
        return f"{place}/{name}", name.split("/")[0]

    def _keep(self, place: Path) -> None:
        """Writes the listing for the next start, where it may be trusted then."""
        if sum(self.counts().values()) < FEWEST or not self._walk.is_settled():
            return
        arrays: dict[str, np.ndarray] = {}
        told: dict[str, tuple[str, list[str]]] = {}
        for number, (split, (folder, names)) in enumerate(self._layout.splits.items()):
            told[split] = folder, names.prefixes
            arrays |= {f"{number}.{k}": v for k, v in names.arrays().items()}
        marks = self._walk.marks
        arrays["marks"] = np.array(list(marks.values()), np.int64)
        said = {
            "version": _VERSION,
            "root": str(self.root.absolute()),
            "folders": [os.path.relpath(one, self.root) for one in marks],
            "splits": told,
            "classes": list(self._layout.classes),
            "said": self._layout.said,
        }
        if problem := kept.save(place, said, arrays):
            walking.tell_once(f"the listing of {self.root} is not kept: {problem}")


def _place(root: Path) -> Path:
    """Where the listing of a folder is kept; a file in it would change its time."""
    digest = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:32]
    return host.cache_folder() / "folders" / f"{digest}.npz"


def _read(place: Path, root: Path) -> tuple[Layout, walking.Walk] | None:
    """The listing that is kept of a folder; None where the folder is another now."""
    if (read := kept.load(place)) is None:
        return None
    told, arrays = read
    try:
        if told["version"] != _VERSION or told["root"] != str(root.absolute()):
            return None
        marks = map(tuple, arrays["marks"].tolist())
        folders = (str(root / name) for name in told["folders"])
        walk = walking.Walk(dict(zip(folders, marks, strict=True)))
        if not walk.is_as_marked():
            return None
        found = {
            split: (folder, Names.read(prefixes, _part(arrays, number)))
            for number, (split, (folder, prefixes)) in enumerate(told["splits"].items())
        }
        return Layout(found, tuple(told["classes"]), told["said"]), walk
    except (KeyError, TypeError, ValueError):
        walking.tell_once(f"{place} is no listing of ours: made again")
        return None


def _part(arrays: dict[str, Any], number: int) -> dict[str, Any]:
    return {name: arrays[f"{number}.{name}"] for name in ("counts", "blob", "order")}


_listed: dict[tuple[Path, str], Folder] = {}  # of this process, the last used last
_KEPT = 4


def listed(root: Path, *, name: str = "") -> Folder:
    """Returns a `Folder`, listed again only where something came or went.

    A run describes and opens a folder several times, and a large one takes seconds.
    """
    key = (root.absolute(), name)
    known = _listed.pop(key, None)
    if known is None or not known.holds():
        known = Folder(root, name=name)
    _listed[key] = known
    for oldest in list(_listed)[:-_KEPT]:
        del _listed[oldest]
    return known


class FolderSource:
    """The images of a folder as files still encoded, labels by class folder."""

    image_shape = None

    def __init__(self, folder: Folder, ranges: Sequence[splits.Range]):
        """Takes what `splits.resolve` returned for the folder's counts."""
        self.label_names = folder.class_names
        self.num_classes = len(folder.class_names)
        self._ids = {name: number for number, name in enumerate(folder.class_names)}
        self._folder, self._ranges = folder, sources.Ranges(ranges)

    def __len__(self) -> int:
        return len(self._ranges)

    def __getitem__(self, index: int) -> sources.Example:
        """Reads one file.

        Raises:
            decode.BadImage: the file cannot be read.
        """
        path, name = self._folder.file(*self._ranges.locate(index))
        try:
            return {"image": walking.read_file(path), "label": self._ids[name]}
        except OSError as error:
            raise decode.BadImage(f"cannot be read: {error.strerror}") from error

    def label(self, index: int) -> int:
        """Returns the class of an example, whose file is not read."""
        return self._ids[self._folder.file(*self._ranges.locate(index))[1]]

    def name(self, index: int) -> str:
        """Returns the path of the file."""
        return self._folder.file(*self._ranges.locate(index))[0]
