"""The examples of some classes of a dataset, and the labels of all its examples."""

import concurrent.futures
import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vit_jax import errors, host
from vit_jax.data import sources, splits
from vit_jax.host import files as host_files
from vit_jax.settings import naming


@runtime_checkable
class Labelled(Protocol):
    """A source that tells a label without reading the image."""

    def label(self, index: int) -> int | np.ndarray:
        """Returns the label of an example."""
        ...


# Of this process, by the source's identity, with the source so that it stays: the last.
_read: dict[int, tuple[Any, np.ndarray]] = {}


def labels_of(source: Any) -> np.ndarray:
    """Returns the labels of all examples: int64 [n], or float32 [n, classes].

    Sources that are not `Labelled` are read from the first example to the last.
    """
    known = _read.get(id(source))
    if known is not None:
        return known[1]
    count = len(source)
    if isinstance(source, Labelled):
        found = [source.label(index) for index in range(count)]
    else:
        logging.info("reading %d examples for their labels", count)
        with concurrent.futures.ThreadPoolExecutor(host.cores()) as pool:
            rows = pool.map(lambda k: source[k]["label"], range(count))
            found = list(rows)
    labels = np.array(found)
    if labels.dtype.kind in "iu":
        labels = labels.astype(np.int64)
    _read.clear()
    _read[id(source)] = source, labels
    return labels


class Subset:
    """Some classes of a dataset, in the order of a list: a `catalog.Opened`."""

    numeric = False

    def __init__(
        self,
        name: str,
        info: Any,
        classes: np.ndarray,
        open_source: Callable[[str], Any],
    ):
        """Takes what is known of the whole, and which classes of it are kept."""
        self.name, self.num_classes = name, len(classes)
        names = info.label_names
        self.label_names = names and tuple(names[number] for number in classes)
        self.multi_label = info.multi_label
        self._classes, self._open, self._splits = classes, open_source, info.splits
        self._kept: dict[str, Selected] = {}

    def _of(self, split: str) -> "Selected":
        if split not in self._kept:
            source = self._open(split)
            self._kept[split] = Selected(source, self._classes, self.label_names)
        return self._kept[split]

    def counts(self) -> dict[str, int]:
        """Returns the number of examples of each split that has any."""
        found = {split: len(self._of(split)) for split in self._splits}
        return {split: count for split, count in found.items() if count}

    def open(self, ranges: Sequence[splits.Range]) -> "Selected":
        """Returns the examples of ranges of what is kept of splits."""
        if len(ranges) > 1:
            raise errors.UserError(f"{self.name}: want one split, not several with +")
        [part] = ranges
        return self._of(part.split).cut(part.start, part.stop)


_opened: dict[str, Subset] = {}  # of this process: describing reads labels


def opened(
    dataset: str,
    data_dir: str,
    describe: Callable[..., Any],
    open_source: Callable[..., Any],
) -> Subset:
    """Returns the subset of a name; `data_dir` and the functions are the catalog's.

    Raises:
        errors.UserError: classes that the dataset does not have.
    """
    if dataset not in _opened:
        bare, columns = naming.split(dataset)
        if bare.startswith(naming.PREDICTED):
            raise errors.UserError(
                f"{dataset}: want classes chosen of the table itself, whose rows are "
                "drawn by class already"
            )
        whole = naming.join(bare, dataclasses.replace(columns, classes=""))
        info = describe(whole, data_dir=data_dir)
        if not info.prepared:
            open_source(whole, next(iter(info.splits)), data_dir=data_dir)
        classes = _classes(columns.classes, info)
        _opened[dataset] = Subset(
            dataset,
            info,
            classes,
            lambda split: open_source(whole, split, data_dir=data_dir),
        )
    return _opened[dataset]


def _classes(said: str, info: Any) -> np.ndarray:
    """The numbers of the classes of a list: names by commas, or a file of them."""
    path = host_files.expanded(said)
    text = path.read_text() if path.is_file() else said.replace(",", "\n")
    wanted = [line.strip() for line in text.splitlines() if line.strip()]
    names = info.label_names or tuple(map(str, range(info.num_classes)))
    places = {name: number for number, name in enumerate(names)}
    unknown = [name for name in wanted if name not in places]
    if unknown or len(set(wanted)) < len(wanted) or not wanted:
        kind = "unknown" if unknown else "repeated"
        raise errors.UserError(
            f"data.classes={said!r}: {kind} classes of {info.name}: "
            f"{errors.some(unknown or wanted)}; want names by commas or a file with a "
            f"name a line, of: {errors.some(list(names))}"
        )
    return np.array([places[name] for name in wanted], np.int64)


class Selected:
    """Some examples of a source, their classes numbered anew."""

    def __init__(
        self,
        source: Any,
        classes: np.ndarray,
        label_names: tuple[str, ...] | None,
        index: np.ndarray | None = None,
    ):
        """Takes a source of ours, the classes that are kept, and which examples."""
        self.image_shape, self.label_names = source.image_shape, label_names
        self.num_classes = len(classes)
        self._source, self._classes = source, classes
        if index is None:
            labels = labels_of(source)
            several = labels.ndim > 1
            kept = labels[:, classes].any(1) if several else np.isin(labels, classes)
            index = np.flatnonzero(kept)
        self._index = index

    def cut(self, start: int, stop: int) -> "Selected":
        """Returns examples start to stop."""
        kept = self._index[start:stop]
        return Selected(self._source, self._classes, self.label_names, kept)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> sources.Example:
        """Returns the example with its class among those that are kept.

        Raises:
            decode.BadImage: as the source.
        """
        example = self._source[int(self._index[index])]
        label = np.asarray(example["label"])
        if label.ndim:
            return example | {"label": label[self._classes]}
        return example | {"label": int(np.flatnonzero(self._classes == label)[0])}

    def name(self, index: int) -> str:
        """Returns the source's name of an example."""
        return sources.describe_example(self._source, int(self._index[index]))
