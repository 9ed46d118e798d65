"""A folder of images: `split/class/*.jpg`, or `class/*.jpg` for one split, "train"."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from vit_jax import errors
from vit_jax.data import decode, sources, splits

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
_LAYOUTS = (
    f"wanted SPLIT/CLASS/IMAGE or CLASS/IMAGE, images ending in {', '.join(EXTENSIONS)}"
)


class Folder:
    """The images of a folder: which splits and classes there are, and their files.

    Files come sorted by class, so every split is put in a pseudo-random order that
    depends on nothing but the files' names; split expressions cut that order.
    """

    def __init__(self, root: Path):
        """Lists the folder.

        Raises:
          errors.UserError: there is no such folder, or its layout is not one of ours.
        """
        self.root = root
        if not root.is_dir():
            raise errors.UserError(f"folder {root} does not exist; {_LAYOUTS}")
        children = _subfolders(root)
        flat = [name for name in children if _images(root / name)]
        deep = [name for name in children if _holds_classes(root / name)]
        if flat and deep:
            raise errors.UserError(
                f"folder {root} mixes two layouts: {flat[0]}/ holds images and "
                f"{deep[0]}/ holds folders of images; {_LAYOUTS}"
            )
        if not flat and not deep:
            found = "images beside it" if _images(root) else "no image"
            raise errors.UserError(
                f"folder {root} has no class folder with images ({found}); {_LAYOUTS}"
            )
        places = {"train": root} if flat else {name: root / name for name in deep}
        self.class_names = _class_names(root, places)
        self._files = {name: _list(place) for name, place in places.items()}
        self._places = places

    def counts(self) -> dict[str, int]:
        """Returns the number of images of each split."""
        return {split: len(files) for split, files in self._files.items()}

    def files(self, part: splits.Range) -> list[tuple[Path, str]]:
        """Returns (path, class name) of the images of a range of a split."""
        place = self._places[part.split]
        return [
            (place / name, name.split("/")[0])
            for name in self._files[part.split][part.start : part.stop]
        ]


def _subfolders(place: Path) -> list[str]:
    with os.scandir(place) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and entry.is_dir()
        )


def _images(place: Path) -> list[str]:
    with os.scandir(place) as entries:
        return [
            entry.name
            for entry in entries
            if entry.name.lower().endswith(EXTENSIONS)
            and not entry.name.startswith(".")
            and entry.is_file()
        ]


def _holds_classes(place: Path) -> bool:
    return any(_images(place / name) for name in _subfolders(place))


def _class_names(root: Path, places: dict[str, Path]) -> tuple[str, ...]:
    """The classes of all splits; a class that training lacks is a mistake."""
    classes = {split: _subfolders(place) for split, place in places.items()}
    names = sorted({name for found in classes.values() for name in found})
    if "train" in classes:
        for split, found in classes.items():
            extra = sorted(set(found) - set(classes["train"]))
            if extra:
                raise errors.UserError(
                    f"folder {root}: class {extra[0]!r} is in split {split!r} but not "
                    f"in 'train', which has {len(classes['train'])} classes; name the "
                    "class folders alike in every split"
                )
    for split, place in places.items():
        stray = _images(place)
        if stray:
            raise errors.UserError(
                f"folder {root}: image {place / stray[0]} of split {split!r} lies in "
                f"no class folder; {_LAYOUTS}"
            )
    return tuple(names)


def _list(place: Path) -> list[str]:
    names = [
        f"{folder}/{image}"
        for folder in _subfolders(place)
        for image in _images(place / folder)
    ]
    return sorted(names, key=_order)


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
        ids = {name: number for number, name in enumerate(folder.class_names)}
        self._examples = [
            (str(path), ids[name])
            for part in ranges
            for path, name in folder.files(part)
        ]

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> sources.Example:
        """Reads one file.

        Raises:
          decode.BadImage: the file cannot be read.
        """
        path, label = self._examples[index]
        try:
            with open(path, "rb") as file:
                return {"image": file.read(), "label": label}
        except OSError as error:
            raise decode.BadImage(f"cannot be read: {error.strerror}") from error

    def name(self, index: int) -> str:
        """Returns the path of the file."""
        return self._examples[index][0]
