"""From labels as a dataset states them to classes by number, or vectors of them."""

import collections
import csv
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.data import walking
from vit_jax.host import files as host_files
from vit_jax.settings import documents

Names = tuple[str, ...]
MOST_CLASSES = 10**7
_WHOLE = re.compile(r"-?[0-9]{1,18}")
# A column of a file of names that holds them.
_NAME_COLUMNS = ("name", "class", "class_name", "label")


def is_whole(text: str) -> bool:
    """Returns whether a text is a class by its number, and no name."""
    return bool(_WHOLE.fullmatch(text))


class Raw:
    """The labels of one split as they are stated.

    Attributes:
        values: int64 or str [n], one label each; with `offsets`, all labels of all
            examples; or float32 [n, classes], one number for each class.
        offsets: int64 [n + 1], where the labels of each example begin; None: one each.
    """

    def __init__(self, values: np.ndarray, offsets: np.ndarray | None = None):
        """Takes arrays as they are."""
        self.values, self.offsets = values, offsets

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    @property
    def kind(self) -> str:
        """Returns "class", "classes" (several each) or "vector"."""
        if self.values.ndim == 2:
            return "vector"
        return "class" if self.offsets is None else "classes"

    def example(self, place: int) -> int:
        """Returns the example that entry `place` of `values` belongs to."""
        if self.offsets is None:
            return place
        return int(np.searchsorted(self.offsets, place, side="right")) - 1


def raw(values: Sequence[Any], name: Callable[[int], str]) -> Raw:
    """Returns the labels of a split from a sequence of ints, texts, or lists of those.

    Args:
        values: One an example; a list of floats or booleans has one for each class.
        name: Of an example, for messages.

    Raises:
        errors.UserError: anything else, or labels of several kinds.
    """
    for index, value in enumerate(values):
        if value is None:
            raise errors.UserError(f"{name(index)} has no label")
    first = values[0] if len(values) else 0
    if not isinstance(first, list | tuple | np.ndarray):
        return Raw(_flat(values, name))
    for index, value in enumerate(values):
        if not isinstance(value, list | tuple | np.ndarray):
            raise _mixed(name(index), value, "a list, as of the first example")
    inner: Any = next((value[0] for value in values if len(value)), None)
    if isinstance(inner, float | bool | np.floating | np.bool_):
        try:
            return Raw(np.array(list(values), np.float32).reshape(len(values), -1))
        except ValueError as error:
            raise errors.UserError(
                f"{name(0)}: its label is a list of numbers, one for each class, and "
                f"others have lists of other lengths ({error})"
            ) from error
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    flat = [one for value in values for one in value]

    def owner(place: int) -> str:
        return name(int(np.searchsorted(offsets, place, side="right")) - 1)

    return Raw(_flat(flat, owner), offsets)


def raw_numbers(values: Sequence[Any], name: Callable[[int], str]) -> Raw:
    """Returns numbers, or lists of as many each, as labels of a regression.

    Args:
        values: One an example; numbers, texts of them, or lists.
        name: Of an example, for messages.

    Raises:
        errors.UserError: anything else, or a number that is not finite.
    """
    rows: list[np.ndarray] = []
    for index, value in enumerate(values):
        several = isinstance(value, list | tuple | np.ndarray)
        try:
            with np.errstate(over="ignore"):  # inf is refused below
                row = np.array(value if several else [value], np.float32)
        except (TypeError, ValueError):
            row = np.array([np.nan])
        if (
            row.ndim != 1
            or not np.isfinite(row).all()
            or len(row) != len(rows[0] if rows else row)
        ):
            raise _mixed(name(index), value, "a finite number, or as many as the first")
        rows.append(row)
    return Raw(np.stack(rows)) if rows else Raw(np.zeros((0, 1), np.float32))


def _flat(values: Sequence[Any], name: Callable[[int], str]) -> np.ndarray:
    text = bool(len(values)) and isinstance(values[0], str)
    for index, value in enumerate(values):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if isinstance(value, str) != text or not (text or whole):
            wanted = "a text, as of the first" if text else "a class by number or name"
            raise _mixed(name(index), value, wanted)
    try:
        return np.array(values, object if text else np.int64)
    except OverflowError as error:
        most = max(values, key=abs)
        raise errors.UserError(f"label {str(most)[:60]}; want a class") from error


def _mixed(name: str, value: Any, wanted: str) -> errors.UserError:
    return errors.UserError(f"{name}: label {str(value)[:60]!r}; wanted {wanted}")


class Classes:
    """The labels of a split, by number; item i is an int or float32 [classes]."""

    def __init__(self, labels: Raw, num_classes: int):
        """Takes checked labels of whole numbers, or vectors."""
        self._labels, self._num_classes = labels, num_classes

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> int | np.ndarray:
        values, offsets = self._labels.values, self._labels.offsets
        if offsets is None:
            found = values[index]
            return found if values.ndim == 2 else int(found)
        hot = np.zeros(self._num_classes, np.float32)
        hot[values[offsets[index] : offsets[index + 1]]] = 1
        return hot


class Labelling:
    """The classes of a dataset, and the labels of its splits.

    Attributes:
        num_classes: How many there are.
        label_names: Theirs, None where labels are numbers and nobody names them.
        multi_label: Whether an example may have several.
        numeric: Whether they are numbers and no classes.
        splits: The labels of each split.
    """

    def __init__(
        self,
        raws: Mapping[str, Raw],
        *,
        dataset: str,
        name: Callable[[str, int], str],
        declared: Names | None = None,
        names_file: str = "",
        numeric: bool = False,
    ):
        """Numbers the classes.

        Their names are those of `names_file`, else the declared ones, else the labels
        themselves where they are texts, sorted.

        Args:
            raws: The labels of each split.
            dataset: Its name, for messages.
            name: Of an example, by split and index.
            declared: Names of the classes, as the dataset's own features have them.
            names_file: See `read_names`; "" for none.
            numeric: Labels are numbers, vectors as `raw_numbers` returns them.

        Raises:
            errors.UserError: no example, a label that is none of the classes, names
                that are not as many.
        """
        if not sum(map(len, raws.values())):
            raise errors.UserError(f"{dataset} holds no example")
        filled = {split: one for split, one in raws.items() if len(one)}
        kinds = {one.kind: split for split, one in filled.items()}
        if len(kinds) > 1:
            raise errors.UserError(
                f"{dataset}: labels of split {list(kinds.values())[0]!r} are one a "
                f"picture and those of {list(kinds.values())[1]!r} several; wanted one "
                "kind throughout"
            )
        [kind] = kinds
        self._dataset, self._name = dataset, name
        names = read_names(names_file) if names_file else declared
        if names_file and declared and len(names or ()) != len(declared):
            raise errors.UserError(
                f"{names_file} names {len(names or ())} classes, {dataset} has "
                f"{len(declared)}"
            )
        self.numeric = numeric
        self.multi_label = kind != "class" and not numeric
        if kind == "vector":
            numbered, count = filled, self._vector_width(filled)
        elif any(one.values.dtype == object for one in filled.values()):
            names = names or self._distinct(filled)
            numbered, count = self._by_name(filled, names), len(names)
        else:
            numbered, count = filled, self._count(filled, names)
        if names and len(names) != count:
            raise errors.UserError(
                f"{dataset}: {len(names)} names of classes, and labels of {count}"
            )
        self.num_classes, self.label_names = count, names
        self.splits = {
            split: Classes(numbered[split] if split in numbered else one, count)
            for split, one in raws.items()
        }

    def _vector_width(self, raws: Mapping[str, Raw]) -> int:
        widths = {one.values.shape[1] for one in raws.values()}
        if len(widths) > 1:
            raise errors.UserError(
                f"{self._dataset}: labels are vectors of {sorted(widths)} numbers"
            )
        return widths.pop()

    def _distinct(self, raws: Mapping[str, Raw]) -> Names:
        found = {str(value) for one in raws.values() for value in set(one.values)}
        walking.tell_once(
            f"{self._dataset}: classes are the {len(found)} distinct labels, sorted: "
            f"{errors.some(list(found))}"
        )
        return tuple(sorted(found))

    def _by_name(self, raws: Mapping[str, Raw], names: Names) -> dict[str, Raw]:
        ids = {name: number for number, name in enumerate(names)}
        numbered = {}
        for split, one in raws.items():
            unknown = [text for text in set(one.values) if str(text) not in ids]
            if unknown:
                place = int(np.flatnonzero(one.values == unknown[0])[0])
                raise errors.UserError(
                    f"{self._name(split, one.example(place))}: label "
                    f"{str(unknown[0])!r} is none of the {len(names)} classes."
                    f"{errors.suggest(str(unknown[0]), names)} Correct the dataset, or "
                    "data.class_names"
                )
            numbers = np.array([ids[str(value)] for value in one.values], np.int64)
            numbered[split] = Raw(numbers, one.offsets)
        return numbered

    def _count(self, raws: Mapping[str, Raw], names: Names | None) -> int:
        """The number of classes by number; each label is checked."""
        most = max(int(o.values.max()) for o in raws.values() if len(o.values))
        count = len(names) if names else most + 1
        if count > MOST_CLASSES:
            raise errors.UserError(
                f"{self._dataset}: labels go up to {most:,}; want at most "
                f"{MOST_CLASSES:,} classes"
            )
        for split, one in raws.items():
            bad = np.flatnonzero((one.values < 0) | (one.values >= count))
            if len(bad):
                wanted = f"0..{count - 1}" if names else "0 or above"
                raise errors.UserError(
                    f"{self._name(split, one.example(int(bad[0])))}: label "
                    f"{one.values[bad[0]]} is out of range; wanted a class in {wanted}."
                    " Correct the dataset, or data.class_names"
                )
        if not names:
            walking.tell_once(
                f"{self._dataset}: nothing names the classes; labels go up to {most}, "
                f"so there are {count} (data.class_names=FILE says otherwise)"
            )
        return count


def read_names(path: str) -> Names:
    """Returns the names of classes in a text file, one a line, or of a CSV file.

    Of a CSV file of several columns the one called name, class, class_name or label.

    Raises:
        errors.UserError: the file cannot be read, holds no name, or one twice.
    """
    try:
        place = host_files.expanded(path)
        text = host_files.read_whole(place, documents.MOST_BYTES).decode("utf-8-sig")
        rows = (
            list(csv.reader(text.splitlines())) if path.lower().endswith(".csv") else []
        )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise errors.UserError(f"data.class_names={path}: {error}") from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if path.lower().endswith(".csv"):
        names = _names_of_csv(path, [row for row in rows if any(row)])
    counts = collections.Counter(names)
    twice = sorted(name for name in counts if counts[name] > 1)
    if not names or twice:
        what = f"names {twice[0]!r} twice" if twice else "holds no name"
        raise errors.UserError(f"data.class_names={path} {what}")
    return tuple(names)


def _names_of_csv(path: str, rows: list[list[str]]) -> list[str]:
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    found = [name for name in _NAME_COLUMNS if name in header]
    if not found and len(header) > 1:
        raise errors.UserError(
            f"data.class_names={path} has the columns {', '.join(header)}; wanted one "
            f"called {' or '.join(_NAME_COLUMNS)}"
        )
    column = header.index(found[0]) if found else 0
    rows = rows[1 if found else 0 :]
    if short := next((row for row in rows if len(row) <= column), None):
        raise errors.UserError(f"data.class_names={path}: no name in {short}")
    return [row[column].strip() for row in rows]
