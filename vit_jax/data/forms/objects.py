"""Datasets that a user's own code makes: `py:module:function`, `train.run(source=)`.

Anything with `__len__` and `__getitem__` will do: dicts, or pairs of an image and a
label; images as arrays, encoded bytes or Pillow's. How many classes there are is said
by the object (`num_classes`, `label_names`, or `classes` as torchvision has them), by
`data.class_names`, or by `catalog.DatasetInfo`. Threads read it at the same time.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.data import decode, sources, splits
from vit_jax.data.forms import files, labelling, picking, table
from vit_jax.settings import naming


class Objects:
    """Splits that a user's code made."""

    def __init__(
        self,
        name: str,
        members: Mapping[str, Any],
        columns: naming.Columns,
        *,
        num_classes: int = 0,
        label_names: Sequence[str] | None = None,
        multi_label: bool | None = None,
        numeric: bool | None = None,
    ):
        """Looks at the first example of each.

        Args:
            name: Of the dataset.
            members: Of each split, an object with `__len__` and `__getitem__`.
            columns: Of the images and labels, where examples are dicts.
            num_classes: 0 where the objects say it.
            label_names: None where the objects say them, or nobody.
            multi_label: None where the first label shows it.
            numeric: Whether labels are numbers and no classes; None where the column
                says it.

        Raises:
            errors.UserError: a stream, no example, no number of classes, examples that
                are no pairs or dicts.
        """
        self.name, self._members = name, dict(members)
        for split, member in self._members.items():
            table.check_random_access(member, f"{name}:{split}")
        filled = {split: one for split, one in self._members.items() if len(one)}
        if not filled:
            raise errors.UserError(f"{name} holds no example")
        split, first = next(iter(filled.items()))
        example = _first(first, f"{name}:{split}")
        self._keys = _keys(example, columns.plain, f"{name}:{split}")
        label = _pick(example, self._keys)[1]
        self.numeric = columns.numeric if numeric is None else numeric
        if self.numeric:
            num_classes = num_classes or np.size(label)
        shown = isinstance(label, list | tuple) or np.ndim(label) > 0
        several = shown if multi_label is None else multi_label
        self.multi_label = several and not self.numeric
        names = labelling.read_names(columns.names) if columns.names else label_names
        names = names if names is not None else _said(first, ("label_names", "classes"))
        self.label_names = None if names is None else tuple(map(str, names))
        count = num_classes or len(self.label_names or ())
        self.num_classes = count or int(_said(first, ("num_classes",)) or 0)
        if not self.num_classes and np.ndim(label) == 1:
            self.num_classes = _vector_width(label)
        if not self.num_classes:
            raise errors.UserError(
                f"{name}: nothing says how many classes there are; give the object "
                "`num_classes`, `label_names` or `classes`, or a file of their names "
                "as --config.data.class_names=FILE"
            )

    def counts(self) -> dict[str, int]:
        """Returns the number of examples of each split."""
        return {split: len(member) for split, member in self._members.items()}

    def holds(self) -> bool:
        """Returns whether it is still the same: nobody can tell."""
        return True

    def open(self, ranges: Sequence[splits.Range]) -> "ObjectSource":
        """Returns the examples of ranges of splits; see `ObjectSource`."""
        return ObjectSource(self, self._members, self._keys, ranges)


class ObjectSource:
    """Examples of a user's own objects, their labels by number."""

    image_shape = None

    def __init__(
        self,
        made: Objects,
        members: Mapping[str, Any],
        keys: tuple[Any, Any],
        ranges: Sequence[splits.Range],
    ):
        """Takes what `splits.resolve` returned for the counts."""
        self.num_classes, self.label_names = made.num_classes, made.label_names
        self._members, self._keys, self._name = members, keys, made.name
        self._multi, self._numeric = made.multi_label, made.numeric
        self._ids = {name: at for at, name in enumerate(made.label_names or ())}
        self._ranges = sources.Ranges(ranges)

    def __len__(self) -> int:
        return len(self._ranges)

    def __getitem__(self, index: int) -> sources.Example:
        """Asks the user's object.

        Raises:
            errors.UserError: a label that is none of the classes, another kind of
                example.
        """
        split, at = self._ranges.locate(index)
        example = self._members[split][at]
        try:
            image, label = _pick(example, self._keys)
        except (KeyError, IndexError, TypeError) as error:
            raise errors.UserError(
                f"{self.name(index)}: got {_shape(example)}; wanted one as the first"
            ) from error
        return {"image": _image(image), "label": self._label(label, index)}

    def name(self, index: int) -> str:
        """Returns "name:split:index", for reports."""
        split, at = self._ranges.locate(index)
        return f"{self._name}:{split}:{at}"

    def _label(self, label: Any, index: int) -> Any:
        if self._numeric:
            return np.array(label, np.float32).reshape(-1)
        if isinstance(label, str):
            label = self._number(label, index)
        if not self._multi:
            return label if type(label) is int else np.asarray(label)[()]
        array = np.asarray(label)
        if array.size and array.dtype.kind in "fb":
            return array.astype(np.float32)
        hot = np.zeros(self.num_classes, np.float32)
        for one in array.reshape(-1).tolist():
            number = self._number(one, index) if isinstance(one, str) else one
            if not 0 <= number < self.num_classes:
                raise errors.UserError(
                    f"{self.name(index)}: label {number} is out of range; wanted "
                    f"classes in 0..{self.num_classes - 1}"
                )
            hot[number] = 1
        return hot

    def _number(self, label: str, index: int) -> int:
        if label not in self._ids:
            raise errors.UserError(
                f"{self.name(index)}: label {label!r} is none of the "
                f"{self.num_classes} classes.{errors.suggest(label, self._ids)}"
            )
        return self._ids[label]


def open_table(spec: str, columns: naming.Columns, dataset: str) -> Objects:
    """Calls the function that makes a dataset, or a dict of splits.

    Args:
        spec: Behind "py:", "module:function".
        columns: Of the images and labels.
        dataset: The name, for messages.

    Raises:
        errors.UserError: no such module or function, or what it raised.
    """
    module, _, function = spec.partition(":")
    if not module or not function:
        raise errors.UserError(f"{dataset!r}: wanted py:MODULE:FUNCTION")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        found = importlib.import_module(module)
    except Exception as error:  # the user's own code
        raise errors.UserError(
            f"{dataset}: importing {module} failed ({type(error).__name__}: {error}); "
            "wanted a module in this folder or on PYTHONPATH"
        ) from error
    if not callable(make := vars(found).get(function)):
        functions = [name for name, value in vars(found).items() if callable(value)]
        raise errors.UserError(
            f"{dataset}: {module} has no function {function!r}."
            f"{errors.suggest(function, functions)}"
        )
    try:
        made = make()
    except errors.UserError:
        raise
    except Exception as error:  # the user's own code
        raise errors.UserError(
            f"{dataset}: {function}() raised {type(error).__name__}: {error}"
        ) from error
    members = made if isinstance(made, Mapping) else {files.ONLY_SPLIT: made}
    return Objects(dataset, members, columns)


def _first(member: Any, what: str) -> Any:
    try:
        return member[0]
    except NotImplementedError as error:  # torch's streams inherit a __getitem__
        table.check_random_access(iter(()), what)
        raise AssertionError from error


def _keys(example: Any, columns: naming.Columns, what: str) -> tuple[Any, Any]:
    """By which the image and the label are taken from an example."""
    if isinstance(example, Mapping):
        kinds = {str(key): _kind(value) for key, value in example.items()}
        described = {key: type(example[key]).__name__ for key in kinds}
        return picking.choose(kinds, columns, what, described=described)
    if isinstance(example, tuple | list) and len(example) == 2:
        return 0, 1
    raise errors.UserError(
        f"{what}: got {_shape(example)}; wanted dicts, or pairs (image, label)"
    )


def _kind(value: Any) -> str:
    """What a value of an example can be, as `picking.choose` takes it."""
    if isinstance(value, bytes | bytearray) or hasattr(value, "convert"):
        return "image"
    if isinstance(value, Mapping):
        return "image" if "bytes" in value else "other"
    if isinstance(value, str | int | list | tuple) or np.ndim(value) < 2:
        return "label"
    return "image"


def _pick(example: Any, keys: tuple[Any, Any]) -> tuple[Any, Any]:
    return example[keys[0]], example[keys[1]]


def _image(image: Any) -> Any:
    """An image that `decode` opens; the file of one that is a path alone."""
    if isinstance(image, Mapping) and image.get("bytes") is None and image.get("path"):
        image = Path(str(image["path"]))
    if isinstance(image, Path):
        try:
            return image.read_bytes()
        except OSError as error:
            raise decode.BadImage(f"cannot be read: {error.strerror}") from error
    return image


def _said(member: Any, names: tuple[str, ...]) -> Any:
    """What an object says of its classes, by the first of these names it has."""
    for name in names:
        if (found := getattr(member, name, None)) is not None:
            return found
    return None


def _vector_width(label: Any) -> int:
    """The number of classes where a label has one number for each."""
    array = np.asarray(label)
    return len(array) if array.dtype.kind in "fb" else 0


def _shape(example: Any) -> str:
    if isinstance(example, Mapping):
        return f"a dict of {', '.join(map(str, example))}"
    if isinstance(example, tuple | list):
        return f"a {type(example).__name__} of {len(example)}"
    return f"a {type(example).__name__}"
