"""Several datasets as one: `mix:0.7*imagenet2012,0.3*folder:photos@all[:90%]`.

Each part has its share of what is trained on, whatever its size, and goes through its
own epochs. What a part's split is called, or which part of it is meant, follows an `@`;
it is "train" otherwise. Every other split is that of the parts that have it, one after
the other. Classes are joined by their names.
"""

import bisect
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from vit_jax import errors
from vit_jax.data import orders, sources, splits, walking
from vit_jax.settings import naming

TRAIN = "train"
_PART = re.compile(r"\s*(?P<weight>\d+\.?\d*|\.\d+)\*(?P<rest>.*?)\s*", re.DOTALL)
_NEXT = re.compile(r",(?=\s*[\d.]+\*)")
_SPLIT = re.compile(r"(?P<name>.+)@(?P<split>[\w.:%+\[\]-]+)", re.DOTALL)


class Info(Protocol):
    """What is known of one of the datasets: `catalog.DatasetInfo`."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        ...

    @property
    def splits(self) -> dict[str, int]:
        """How many examples each split has."""
        ...

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of the classes."""
        ...

    @property
    def multi_label(self) -> bool:
        """Whether an example may have several."""
        ...


class Part(NamedTuple):
    """One of the datasets."""

    weight: float
    dataset: str
    split: str  # that is trained on
    info: Info


class Mixture:
    """Several datasets whose classes are joined: a `catalog.Opened`."""

    numeric = False  # its classes have names

    def __init__(
        self,
        name: str,
        parts: Sequence[Part],
        open_source: Callable[[str, str], Any],
    ):
        """Takes the parts, and what opens one's split.

        Raises:
            errors.UserError: classes that cannot be joined.
        """
        self.name = name
        self.multi_label = any(part.info.multi_label for part in parts)
        self.label_names = _joined(name, parts)
        self.num_classes = len(self.label_names)
        self._parts, self._open = parts, open_source

    def counts(self) -> dict[str, int]:
        """Returns the number of examples of each split."""
        names = dict.fromkeys([TRAIN])
        for part in self._parts:
            names |= dict.fromkeys(part.info.splits)
        return {
            name: sum(
                splits.count(split, part.info.splits, part.info.name)
                for part, split in self._of(name)
            )
            for name in names
        }

    def _of(self, split: str) -> list[tuple[Part, str]]:
        """The parts of a split, and how it is called there."""
        if split == TRAIN:
            return [(part, part.split) for part in self._parts]
        return [(part, split) for part in self._parts if split in part.info.splits]

    def open(self, ranges: Sequence[splits.Range]) -> "Mixed":
        """Returns the examples of one split.

        Raises:
            errors.UserError: a share of a split, which its parts say themselves.
        """
        [part, *others] = ranges
        if others or (part.start, part.stop) != (0, self.counts()[part.split]):
            raise errors.UserError(
                f"{self.name}: a mixture is not cut; want one whole split, and shares "
                f"of its parts as in mix:0.7*{self._parts[0].dataset}@train[:90%],..."
            )
        members: list[Any] = []
        streams: list[tuple[int, float]] = []
        for of, split in self._of(part.split):
            source = self._open(of.dataset, split)
            streams += _streams(source, of.weight)
            member = _renumbered(source, of.info.label_names, self.label_names)
            if self.multi_label and not of.info.multi_label:
                member = OneHot(member, self.num_classes)
            members.append(member)
        if part.split != TRAIN:
            return Mixed(members, [], self.label_names)
        return Mixed(members, streams, self.label_names)


def _streams(source: Any, weight: float) -> list[tuple[int, float]]:
    """How many examples a part has in epochs of their own, and the weight of those."""
    if not (isinstance(source, orders.Weighted) and source.weights):
        return [(len(source), weight)]
    whole = sum(source.weights)
    shares = (weight * one / whole for one in source.weights)
    return list(zip(source.sizes, shares, strict=True))


def opened(
    dataset: str,
    data_dir: str,
    describe: Callable[..., Info],
    open_source: Callable[..., Any],
) -> Mixture:
    """Returns the mixture of a name; `data_dir` and the functions are the catalog's.

    Raises:
        errors.UserError: a name that cannot be read, or datasets that do not fit.
    """
    said = dataset.removeprefix(naming.MIX)
    parts = []
    for text in _NEXT.split(said):
        match = _PART.fullmatch(text)
        if match is None or not match["rest"] or float(match["weight"]) == 0:
            raise errors.UserError(
                f"dataset={dataset!r} cannot be read at {text!r}; wanted weights and "
                "datasets, as in mix:0.7*imagenet2012,0.3*folder:photos@all[:90%]"
            )
        cut = _SPLIT.fullmatch(match["rest"])
        name, split = (cut["name"], cut["split"]) if cut else (match["rest"], TRAIN)
        parts.append(
            Part(float(match["weight"]), name, split, describe(name, data_dir=data_dir))
        )
    return Mixture(dataset, parts, functools.partial(open_source, data_dir=data_dir))


def _joined(name: str, parts: Sequence[Part]) -> tuple[str, ...]:
    """All names of classes, each once, in the order of the parts."""
    vectors = [part.dataset for part in parts if part.info.multi_label]
    soft = all(dataset.startswith(naming.PREDICTED) for dataset in vectors)
    if 0 < len(vectors) < len(parts) and not soft:
        several = vectors[0]
        raise errors.UserError(
            f"dataset={name!r}: images of {several} have several labels, others one; "
            "want parts of one kind"
        )
    found = [part.info.label_names for part in parts]
    for part, names in zip(parts, found):
        if names is None:
            raise errors.UserError(
                f"dataset={name!r}: the classes of {part.dataset} have no names by "
                "which they could be joined with the others'; give them in their "
                f"order, a name a line: {part.dataset}#names=FILE"
            )
        if len(set(names)) < len(names) and len(set(found)) > 1:
            twice = next(one for one in names if names.count(one) > 1)
            raise errors.UserError(
                f"dataset={name!r}: {part.dataset} has two classes called {twice!r}; "
                f"tell them apart in a file of names: {part.dataset}#names=FILE"
            )
    if len(set(found)) == 1 and found[0] is not None:
        return found[0]
    common = set.intersection(*(set(names or ()) for names in found))
    walking.tell_once(
        f"{name}: {len(common)} classes are in all parts by their names, and others in "
        f"some: {', '.join(f'{len(names or ())}' for names in found)}"
    )
    return tuple(dict.fromkeys(itertools.chain(*(names or () for names in found))))


def _renumbered(
    source: Any, names: tuple[str, ...] | None, joined: tuple[str, ...]
) -> Any:
    if names is None or names == joined:
        return source
    from vit_jax.data import labels

    places = {name: place for place, name in enumerate(joined)}
    order = np.array([places[name] for name in names])
    return labels.Relabelled(source, order, len(joined))


class OneHot:
    """A source whose classes are vectors, as those that it is mixed with."""

    def __init__(self, source: Any, num_classes: int):
        """Takes a source of ours with one class an example."""
        self.image_shape, self.label_names = source.image_shape, source.label_names
        self._source, self.num_classes = source, num_classes

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> sources.Example:
        """Returns the example, its label 1 at its class.

        Raises:
            decode.BadImage: as the source.
        """
        example = self._source[index]
        label = np.zeros(self.num_classes, np.float32)
        label[example["label"]] = 1
        return example | {"label": label}

    def name(self, index: int) -> str:
        """Returns the source's name of an example."""
        return sources.describe_example(self._source, index)


class Mixed:
    """The examples of several sources, one after the other.

    Attributes:
        sizes: Of what is in epochs of its own: the sources, or parts of them.
        weights: By which these are drawn; none: as they are.
    """

    def __init__(
        self,
        members: Sequence[Any],
        streams: Sequence[tuple[int, float]],
        label_names: tuple[str, ...],
    ):
        """Takes sources of ours whose labels are those of all, sizes and weights."""
        shapes = {member.image_shape for member in members}
        self.image_shape = shapes.pop() if len(shapes) == 1 else None
        self.label_names, self.num_classes = label_names, len(label_names)
        self.sizes = tuple(size for size, _ in streams)
        self.weights = tuple(weight for _, weight in streams)
        self._members = list(members)
        self._ends = list(itertools.accumulate(map(len, members)))

    def __len__(self) -> int:
        return self._ends[-1]

    def _located(self, index: int) -> tuple[Any, int]:
        at = bisect.bisect_right(self._ends, index)
        return self._members[at], index - self._ends[at] + len(self._members[at])

    def __getitem__(self, index: int) -> sources.Example:
        """Returns the example as its source has it, its class one of all.

        Raises:
            decode.BadImage: as the source.
        """
        member, place = self._located(index)
        return member[place]

    def name(self, index: int) -> str:
        """Returns the source's name of an example."""
        return sources.describe_example(*self._located(index))
