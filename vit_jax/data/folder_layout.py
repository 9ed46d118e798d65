"""Which of the folders of a folder are its splits, and which its classes.

What would leave room for doubt is an error, see `vit_jax.data.folder`.
"""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vit_jax import errors
from vit_jax.data import walking
from vit_jax.data.names import Branch, Names

SPLIT_NAME = re.compile(
    r"(.+[-_.])?(train|training|val|valid|validation|dev|test|testing|eval|evaluation"
    r"|holdout|fold|split)([-_.]?\d+|[-_.].+)?",
    re.IGNORECASE,
)
LAYOUTS = "wanted SPLIT/CLASS/IMAGE or CLASS/IMAGE, images ending in " + ", ".join(
    walking.EXTENSIONS
)


class Layout(NamedTuple):
    """The images of a folder.

    Attributes:
        splits: By name: its folder, relative to the whole, and its images.
        classes: Of all splits.
        said: What a user may not expect.
    """

    splits: dict[str, tuple[str, Names]]
    classes: tuple[str, ...]
    said: list[str]


def of(root: Path, branches: Sequence[Branch]) -> Layout:
    """Returns the layout of a folder.

    Args:
        root: The folder.
        branches: It and all below it.

    Raises:
        errors.UserError: its layout is not one of ours, or a class has no image.
    """
    top = next(branch for branch in branches if not branch.prefix)
    below = {name: _within(branches, name) for name in top.folders}
    direct = [n for n in top.folders if any(b.size for b in below[n] if not b.prefix)]
    deep = [n for n in top.folders if any(b.size for b in below[n] if b.prefix)]
    named = [n for n in deep if SPLIT_NAME.fullmatch(n)]
    if not direct and not deep:
        found = "images beside it" if top.size else "no image"
        raise errors.UserError(
            f"folder {root} has no class folder with images ({found}); {LAYOUTS}"
        )
    if named and direct:
        raise errors.UserError(
            f"folder {root} mixes two layouts: {direct[0]}/ holds images and "
            f"{named[0]}/ holds folders of images; {LAYOUTS}"
        )
    if named:
        # Images beside the splits are in none of them.
        parts = {name: (name, below[name]) for name in deep}
        beside = [f"{name}/" for name in top.folders if name not in deep]
        beside += top.few()
        left = [top, *(b for n in deep for b in branches if _is_in(b, n))]
        count = sum(b.left for b in left) + top.size
        count += len(top.folders) - len(deep)
    else:
        _check_classes(root, direct, below)
        parts, beside = {"train": ("", list(branches))}, []
        left, count = list(branches), sum(b.left for b in branches)
    names = _class_names(root, parts)
    beside += [name for branch in left for name in branch.left_out]
    said = _deeper(root, parts)
    if count:
        said.append(
            f"folder {root}: left out {count} (no images, or of no "
            f"class): {errors.some(beside, count)}"
        )
    said += _missing(root, parts, names)
    splits = {n: (place, Names.of(found)) for n, (place, found) in parts.items()}
    return Layout(splits, names, said)


Parts = dict[str, tuple[str, list[Branch]]]


def _is_in(branch: Branch, name: str) -> bool:
    return branch.prefix.startswith(f"{name}/")


def _within(branches: Sequence[Branch], name: str) -> list[Branch]:
    return [b.within(f"{name}/") for b in branches if _is_in(b, name)]


def _filled(branches: Sequence[Branch]) -> set[str]:
    """The folders directly below that hold images, however deep."""
    return {b.prefix.split("/")[0] for b in branches if b.size and b.prefix}


def _deeper(root: Path, parts: Parts) -> list[str]:
    deep = [b for _, found in parts.values() for b in found if b.prefix.count("/") > 1]
    count = sum(branch.size for branch in deep)
    if not count:
        return []
    few = [name for branch in deep for name in branch.few()]
    return [
        f"folder {root}: of the images {count} lie deeper than "
        f"their class's folder and belong to it: {errors.some(few, count)}"
    ]


def _missing(root: Path, parts: Parts, names: Sequence[str]) -> list[str]:
    said = []
    for split, (_, found) in parts.items():
        if missing := set(names) - _filled(found):
            said.append(
                f"folder {root}: split {split!r} has no image of "
                f"{len(missing)} of {len(names)} classes: "
                f"{errors.some(list(missing))}"
            )
    return said


def _check_classes(
    root: Path, direct: list[str], below: dict[str, list[Branch]]
) -> None:
    """Raises a `UserError` where folders read as classes are plainly something else."""
    if direct:
        return
    inner = set(itertools.chain.from_iterable(map(_filled, below.values())))
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
            f"classes ({errors.some(list(below))}); {LAYOUTS}"
        )


def _class_names(root: Path, parts: Parts) -> tuple[str, ...]:
    """The classes of all splits; one that training lacks, or an empty one, is an error.

    Raises:
        errors.UserError: also an image that lies beside the class folders.
    """
    tops = {n: b for n, (_, found) in parts.items() for b in found if not b.prefix}
    classes = {name: branch.folders for name, branch in tops.items()}
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
    for split, (folder, branches) in parts.items():
        place = root / folder
        if tops[split].size:
            stray = place / tops[split].few()[0]
            raise errors.UserError(
                f"folder {root}: image {stray} of split {split!r} lies in "
                f"no class folder; {LAYOUTS}"
            )
        empty = set(classes[split]) - _filled(branches)
        if empty:
            raise errors.UserError(
                f"folder {place}: {len(empty)} of {len(classes[split])} class folders "
                f"hold no image: {errors.some(list(empty))}; put images there or "
                f"remove them; {LAYOUTS}"
            )
    return tuple(names)
