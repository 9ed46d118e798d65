"""`predicted:FILE[,confidence=P][,most=N][,balance=B][,labels=soft]`: pseudo-labels.

FILE is what `vit_jax predict --out=FILE` wrote of pictures in files, CSV or Parquet,
their paths as that command was given them: absolute, or from where it is run. What
follows is how "Self-training with Noisy Student" (arXiv 1911.04252) chooses among them:
those of at least a confidence, of each class the N of the highest, and classes equally
often (balance=1, as `orders.balanced`). A label is the best class, or with labels=soft
the probabilities of all: what --top_k left out shares what is missing to 1.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.data import sources, splits, walking
from vit_jax.data.forms import files, labelling, lists, parquet
from vit_jax.host import files as host_files
from vit_jax.settings import naming

SPLIT = "train"
_OPTIONS: dict[str, Callable[[str], Any]] = {
    **{"confidence": float, "most": int, "balance": float, "labels": str}
}
_SPEC = re.compile(rf"(.*?)((?:,(?:{'|'.join(_OPTIONS)})=[^,]*)*)", re.DOTALL)
_WANTED = (
    "predicted:FILE, and behind it any of ,confidence=0.3 ,most=130000 ,balance=1 (0 "
    "to 1) ,labels=soft (or hard)"
)
_MADE = "it is a table that `vit_jax predict --out=FILE` writes"


@dataclass(frozen=True)
class Choice:
    """Which of the predictions are trained on, and as what.

    Attributes:
        confidence: The least probability of the best class.
        most: How many of a class at most, the most confident ones; 0: all.
        balance: How much classes are made equally frequent, 0 to 1.
        labels: "hard" or "soft".
    """

    confidence: float = 0.0
    most: int = 0
    balance: float = 0.0
    labels: str = "hard"


def parse(spec: str) -> tuple[str, Choice]:
    """Returns the file, and what is chosen of it.

    Raises:
        errors.UserError: a value that cannot be.
    """
    match = _SPEC.fullmatch(spec)
    assert match is not None, "both parts take anything"
    pairs = [part.split("=") for part in match[2].split(",")[1:]]
    given = {name: value.strip() for name, value in pairs}
    try:
        choice = Choice(**{name: _OPTIONS[name](text) for name, text in given.items()})
    except ValueError as error:
        raise errors.UserError(f"predicted:{spec}: {error}; want {_WANTED}") from error
    shares = (choice.confidence, choice.balance)
    if (
        not all(0 <= share <= 1 for share in shares)
        or choice.most < ("most" in given)
        or choice.labels not in ("hard", "soft")
        or len(given) < len(pairs)
    ):
        raise errors.UserError(f"predicted:{spec}: want {_WANTED}")
    return match[1], choice


class Predicted:
    """Pictures with what was predicted of them: a `catalog.Opened`.

    Attributes:
        name: Of the dataset.
        num_classes: How many there are.
        label_names: Theirs.
        multi_label: Whether labels are probabilities of all classes.
    """

    numeric = False

    def __init__(
        self,
        name: str,
        images: lists.FileImages,
        found: "Found",
        choice: Choice,
        holds: Callable[[], bool],
    ):
        """Takes pictures, and the classes and probabilities of each, best first."""
        self.name, self.holds = name, holds
        self.multi_label = choice.labels == "soft"
        self.num_classes, self.label_names = found.num_classes, found.names
        self._images, self._found, self._choice = images, found, choice

    def counts(self) -> dict[str, int]:
        """Returns the number of examples of the only split."""
        return {SPLIT: len(self._images)}

    def open(self, ranges: Sequence[splits.Range]) -> "PredictedSource":
        """Returns the examples of ranges of it."""
        rows = [np.arange(part.start, part.stop) for part in ranges]
        chosen = np.concatenate(rows)
        return PredictedSource(self._images, self._found, self._choice, chosen)


class PredictedSource:
    """Examples in the order of their classes.

    Attributes:
        sizes: Of each class that occurs; with `weights` see `orders.Weighted`.
        weights: Of these classes, none where all examples are alike.
    """

    image_shape = None

    def __init__(
        self,
        images: lists.FileImages,
        found: "Found",
        choice: Choice,
        rows: np.ndarray,
    ):
        """Takes all pictures, what was found of them, and which are meant."""
        self.num_classes, self.label_names = found.num_classes, found.names
        self._images, self._found = images, found
        self._soft = choice.labels == "soft"
        best = found.classes[rows, 0]
        self._rows = rows[np.argsort(best, kind="stable")]
        counts = np.unique(best, return_counts=True)[1]
        self.sizes: Sequence[int] = counts.tolist()
        weights = counts ** (1.0 - choice.balance) if choice.balance else counts[:0]
        self.weights: Sequence[float] = weights.tolist()

    def __len__(self) -> int:
        return len(self._rows)

    def label(self, index: int) -> int | np.ndarray:
        """Returns the best class, or float32 [classes] of probabilities."""
        row = self._rows[index]
        classes, shares = self._found.classes[row], self._found.probabilities[row]
        if not self._soft:
            return int(classes[0])
        others = self.num_classes - len(classes)
        rest = max(0.0, 1.0 - float(shares.sum())) / others if others else 0.0
        label = np.full(self.num_classes, rest, np.float32)
        label[classes] = shares
        return label

    def __getitem__(self, index: int) -> sources.Example:
        """Reads one picture.

        Raises:
            decode.BadImage: it cannot be read.
        """
        image = self._images.read(int(self._rows[index]))
        return {"image": image, "label": self.label(index)}

    def name(self, index: int) -> str:
        """Returns the path of the picture."""
        return self._images.name(int(self._rows[index]))


@dataclass(frozen=True)
class Found:
    """What was predicted of n pictures.

    Attributes:
        classes: int64 [n, k], the k best of each, the best one first.
        probabilities: float32 [n, k], theirs.
        names: Of all classes that occur; None: they have no names.
        num_classes: How many there are.
    """

    classes: np.ndarray
    probabilities: np.ndarray
    names: tuple[str, ...] | None
    num_classes: int


def open_table(spec: str, columns: naming.Columns, dataset: str) -> Predicted:
    """Opens a table of predictions.

    Args:
        spec: Behind "predicted:".
        columns: Of which only the file of names is taken.
        dataset: The name, for messages.

    Raises:
        errors.UserError: no such file or column, no picture that is chosen, a picture
            that is not there.
    """
    file, choice = parse(spec)
    if columns.image or columns.label:
        raise errors.UserError(f"{dataset} has its own columns; want #names alone")
    path = host_files.expanded(file)
    mark = files.fingerprint(str(path))
    paths, found = _read(path, columns.names, dataset)
    kept = _chosen(found, choice)
    unread = int((found.classes[:, 0] < 0).sum())
    walking.tell_once(
        f"{dataset}: {len(kept)} of {len(paths)} pictures are trained on; {unread} "
        "could not be read when they were predicted"
    )
    if not len(kept):
        raise errors.UserError(f"{dataset}: no picture is of such a confidence")
    images = lists.FileImages(Path.cwd(), [paths[row] for row in kept])
    lists.check_there(
        {SPLIT: images}, "paths are as predict was given them, absolute or from here"
    )
    rows = (found.classes[kept], found.probabilities[kept])
    chosen = Found(*rows, found.names, found.num_classes)
    return Predicted(
        *(dataset, images, chosen, choice),
        holds=lambda: path.is_file() and files.fingerprint(str(path)) == mark,
    )


def _chosen(found: Found, choice: Choice) -> np.ndarray:
    """The rows that are trained on, in their order."""
    best, sure = found.classes[:, 0], found.probabilities[:, 0]
    kept = np.flatnonzero((best >= 0) & (sure >= choice.confidence))
    if choice.most:
        surest = np.lexsort((-sure[kept], best[kept]))  # first, class by class
        order = kept[surest]
        starts = np.searchsorted(best[order], best[order], side="left")
        kept = np.sort(order[np.arange(len(order)) - starts < choice.most])
    return kept


def _read(path: Path, names_file: str, dataset: str) -> tuple[list[str], Found]:
    """The pictures of a table, and what was predicted of them: -1 where nothing was."""
    paths: list[str] = []
    classes: list[list[int]] = []
    shares: list[list[float]] = []
    called: dict[int, str] = {}
    ends: list[str] = []
    for number, row in enumerate(_rows(path, dataset)):
        ends = ends or _ends(row, path)
        paths.append(row["image"] or "no path")
        if row["error"]:
            classes.append([-1] * len(ends))
            shares.append([0.0] * len(ends))
            continue
        try:
            labels = [int(row[f"label{end}"]) for end in ends]
            shares.append([float(row[f"probability{end}"]) for end in ends])
            names = [row[f"name{end}"] for end in ends]
        except (KeyError, TypeError, ValueError) as error:
            raise errors.UserError(
                f"{path}, row {number + 1}: no classes and probabilities ({error})"
            ) from error
        classes.append(labels)
        called |= dict(zip(labels, names, strict=True))
    if not paths:
        raise errors.UserError(f"{dataset} holds no row; {_MADE}")
    found = np.array(classes, np.int64)
    return paths, _numbered(found, np.array(shares, np.float32), called, names_file)


def _numbered(
    classes: np.ndarray,
    probabilities: np.ndarray,
    called: Mapping[int, str],
    names_file: str,
) -> Found:
    """Classes by their places among those that occur, or that a file names."""
    if min(called, default=0) < 0 or max(called, default=0) >= labelling.MOST_CLASSES:
        raise errors.UserError(
            f"labels {min(called)} to {max(called)}; want 0 and above"
        )
    if names_file:
        names = labelling.read_names(names_file)
        if max(called, default=0) >= len(names):
            raise errors.UserError(
                f"{names_file} names {len(names)} classes, and there is a label "
                f"{max(called)}"
            )
        return Found(classes, probabilities, names, len(names))
    if not all(called.values()):
        return Found(classes, probabilities, None, max(called) + 1)
    known = np.array(sorted(called), np.int64)
    places = np.where(classes < 0, -1, np.searchsorted(known, classes))
    names = tuple(called[number] for number in known.tolist())
    return Found(places, probabilities, names, len(names))


def _ends(row: Mapping[str, Any], path: Path) -> list[str]:
    """What the columns of each class of a row end with: "", "_2", "_3", ..."""
    wanted = {"image", "label", "name", "probability", "error"}
    if lacking := sorted(wanted - row.keys()):
        raise errors.UserError(
            f"{path} has no column {lacking[0]!r}; it has: {', '.join(row)[:200]}. "
            f"{_MADE}, without --logits"
        )
    ends = [""]
    while f"label_{len(ends) + 1}" in row:
        ends.append(f"_{len(ends) + 1}")
    return ends


def _rows(path: Path, dataset: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a table, as strings or as Parquet's types."""
    if path.suffix == ".parquet":
        yield from parquet.rows(path)
        return
    try:
        descriptor = host_files.open_to_read(path)
        with open(
            descriptor, newline="", encoding="utf-8", errors="surrogateescape"
        ) as f:
            yield from csv.DictReader(f)
    except (OSError, csv.Error) as error:
        raise errors.UserError(
            f"{dataset} cannot be read: {error}. {_MADE}; want {_WANTED}"
        ) from error
