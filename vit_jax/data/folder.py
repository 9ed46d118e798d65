"""A folder of images: `SPLIT/CLASS/.../IMAGE`, or `CLASS/.../IMAGE` as split "train".

Which of the two it is follows from the names. The folders in it are splits if one that
holds folders of images is named like a split (`train`, `val`, `test_2`, `fold1`, see
`SPLIT_NAME`); otherwise they are classes. All images below a class folder, however
deep, belong to the class. What would leave room for doubt is an error.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from vit_jax import errors
from vit_jax.data import decode, sources, splits, walking

EXTENSIONS = walking.EXTENSIONS
SPLIT_NAME = re.compile(
    r"(.+[-_.])?(train|training|val|valid|validation|dev|test|testing|eval|evaluation"
    r"|holdout|fold|split)([-_.]?\d+|[-_.].+)?",
    re.IGNORECASE,
)
_LAYOUTS = (
    f"wanted SPLIT/CLASS/IMAGE or CLASS/IMAGE, images ending in {', '.join(EXTENSIONS)}"
)


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
            raise errors.UserError(f"folder {root} {what}; {_LAYOUTS}")
        self._walk = walking.Walk()
        top = self._walk.list_folder(root)
        below = {name: self._walk.list_below(root / name) for name in top.folders}
        direct = [n for n in top.folders if any("/" not in i for i in below[n][0])]
        deep = [n for n in top.folders if any("/" in i for i in below[n][0])]
        named = [n for n in deep if SPLIT_NAME.fullmatch(n)]
        if not direct and not deep:
            found = "images beside it" if top.images else "no image"
            raise errors.UserError(
                f"folder {root} has no class folder with images ({found}); {_LAYOUTS}"
            )
        if named and direct:
            raise errors.UserError(
                f"folder {root} mixes two layouts: {direct[0]}/ holds images and "
                f"{named[0]}/ holds folders of images; {_LAYOUTS}"
            )
        left_out = list(top.left_out)
        if named:
            # Images beside the splits are in none of them.
            left_out += top.images
            left_out += [f"{name}/" for name in top.folders if name not in deep]
            below = {name: below[name] for name in deep}
            self._splits = {n: (root / n, images) for n, (images, _) in below.items()}
        else:
            _check_classes(root, direct, below)
            images = [f"{n}/{i}" for n, (found, _) in below.items() for i in found]
            self._splits = {"train": (root, images + top.images)}
        for name, (_, others) in below.items():
            left_out += [f"{name}/{other}" for other in others]
        self.class_names = _class_names(self._walk, root, self._splits)
        self._files = {n: sorted(f, key=_order) for n, (_, f) in self._splits.items()}
        self._tell(left_out)

    def counts(self) -> dict[str, int]:
        """Returns the number of images of each split."""
        return {split: len(files) for split, files in self._files.items()}

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
        place, _ = self._splits[split]
        name = self._files[split][at]
        return f"{place}/{name}", name.split("/")[0]

    def _tell(self, left_out: list[str]) -> None:
        """Logs what a user may not expect, once."""
        deeper = [
            name
            for files in self._files.values()
            for name in files
            if name.count("/") > 1
        ]
        if deeper:
            walking.tell_once(
                f"folder {self.root}: of the images {len(deeper)} lie deeper than "
                f"their class's folder and belong to it: {errors.some(deeper)}"
            )
        if left_out:
            walking.tell_once(
                f"folder {self.root}: left out {len(left_out)} (no images, or of no "
                f"class): {errors.some(left_out)}"
            )
        for split, files in self._files.items():
            missing = set(self.class_names) - {name.split("/")[0] for name in files}
            if missing:
                walking.tell_once(
                    f"folder {self.root}: split {split!r} has no image of "
                    f"{len(missing)} of {len(self.class_names)} classes: "
                    f"{errors.some(list(missing))}"
                )


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


def _check_classes(
    root: Path, direct: list[str], below: dict[str, tuple[list[str], list[str]]]
) -> None:
    """Raises a `UserError` where folders read as classes are plainly something else."""
    if direct:
        return
    inner = {image.split("/")[0] for images, _ in below.values() for image in images}
    if len(below) == 1:
        [name] = below
        raise errors.UserError(
            f"folder {root} holds one folder, {name}/, and all images lie deeper (in "
            f"{errors.some(list(inner))}); give the folder of the splits or classes "
            f"itself: folder:{root / name}"
        )
    if len(inner) > 1 and all(SPLIT_NAME.fullmatch(name) for name in inner):
        raise errors.UserError(
            f"folder {root} has its splits ({errors.some(list(inner))}) inside the "
            f"classes ({errors.some(list(below))}); {_LAYOUTS}"
        )


def _class_names(
    walk: walking.Walk, root: Path, places: dict[str, tuple[Path, list[str]]]
) -> tuple[str, ...]:
    """The classes of all splits; one that training lacks, or an empty one, is an error.

    Raises:
        errors.UserError: also an image that lies beside the class folders.
    """
    classes = {n: walk.list_folder(place).folders for n, (place, _) in places.items()}
    names = sorted({name for found in classes.values() for name in found})
    if "train" in classes:
        for split, found in classes.items():
            extra = sorted(set(found) - set(classes["train"]))
            if extra:
                raise errors.UserError(
                    f"folder {root}: class {extra[0]!r} is in split {split!r} but not "
                    f"in 'train', which has {len(classes['train'])} classes; name the "
                    "class folders alike in every split (and none like a split)"
                )
    for split, (place, files) in places.items():
        stray = sorted(name for name in files if "/" not in name)
        if stray:
            raise errors.UserError(
                f"folder {root}: image {place / stray[0]} of split {split!r} lies in "
                f"no class folder; {_LAYOUTS}"
            )
        empty = set(classes[split]) - {name.split("/")[0] for name in files}
        if empty:
            raise errors.UserError(
                f"folder {place}: {len(empty)} of {len(classes[split])} class folders "
                f"hold no image: {errors.some(list(empty))}; put images there or "
                f"remove them; {_LAYOUTS}"
            )
    return tuple(names)


def _order(name: str) -> tuple[bytes, str]:
    data = name.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(data, digest_size=8).digest(), name


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
