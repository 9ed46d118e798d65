"""One example at a time: labels checked, unreadable images replaced and counted."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.data import decode, sources

_NAMES_SHOWN = 3
# How many examples may be unreadable before we give up on learning the labels' kind.
_FIRST_EXAMPLES = 16


def _passes(image: Any) -> None:
    """Any image will do that decodes."""


# What is asked of an image before it is decoded.
DAMAGED: dict[str, Callable[[Any], None]] = {"use": _passes, "corrupt": decode.check}


def _is_number(budget: float) -> bool:
    return budget > 1 and float(budget).is_integer()


class CorruptLog:
    """The distinct unreadable examples met so far; too many of them are an error."""

    def __init__(self, source: Any, max_corrupt: float, damaged: str = "use"):
        """Takes the source, for names, and what is too much or damaged.

        Args:
            source: See `sources`.
            max_corrupt: The share of the source that may be unreadable, 0..1; above 1
                a number of examples.
            damaged: What becomes of JPEG files that libjpeg warns of: a key of
                `DAMAGED`.
        """
        if not (0 <= max_corrupt <= 1 or _is_number(max_corrupt)):
            raise errors.UserError(
                f"max_corrupt={max_corrupt!r}; wanted a share of the images, 0..1, or "
                "a number of them, 2 or more"
            )
        self.check = errors.lookup(DAMAGED, damaged, "damaged")
        self._source = source
        share = max_corrupt if max_corrupt > 1 else max_corrupt * len(source)
        # The first one never stops a run, unless none is allowed at all.
        self._limit = max(share, 1.0) if max_corrupt else 0.0
        self._names: dict[int, str] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Returns the names of the unreadable examples, in the order they were met."""
        with self._lock:
            return list(self._names.values())

    def add(self, index: int, reason: Exception) -> None:
        """Counts and logs an example, once.

        Raises:
            errors.UserError: more than the allowed share is unreadable, or all are.
        """
        with self._lock:
            if index not in self._names:
                self._names[index] = sources.describe_example(self._source, index)
                logging.warning("unreadable image %s: %s", self._names[index], reason)
            count = len(self._names)
            if count > self._limit or count == len(self._source):
                shown = ", ".join(list(self._names.values())[:_NAMES_SHOWN])
                raise errors.UserError(
                    f"{count} of {len(self._source)} images cannot be read "
                    f"(max_corrupt allows {self._limit:g}): {shown}"
                    f"{', ...' if count > _NAMES_SHOWN else ''}.\n"
                    f"The last one: {reason}.\n"
                    "Repair or remove them, or raise max_corrupt."
                )


class Reader:
    """Reads examples of a source through a transform; safe to share between threads."""

    def __init__(
        self,
        source: Any,
        transform: Callable[[Any, Any, np.ndarray], Any],
        corrupt: CorruptLog,
    ):
        """Takes any source; one that knows `num_classes` has its labels checked."""
        self.source = source
        self._transform = transform
        self._corrupt = corrupt
        self._size = len(source)
        self._classes = getattr(source, "num_classes", 0) or 0

    def read(self, index: int, uniforms: list[float], out: np.ndarray) -> Any:
        """Writes example `index`, uint8 [h, w, 3], into `out` and returns its label.

        An unreadable image is replaced by the next one that can be read (index + 1,
        + 2, ..., from the start again at the end), and counted.

        Raises:
            errors.UserError: a label out of range, or too many unreadable images.
        """
        while True:
            try:
                return self.read_exactly(index, uniforms, out)
            except (decode.BadImage, OSError) as error:
                self._corrupt.add(index, error)
            index = (index + 1) % self._size

    def read_exactly(self, index: int, uniforms: list[float], out: np.ndarray) -> Any:
        """Reads as `read` does, but an unreadable image raises.

        Raises:
            decode.BadImage: the image cannot be read.
            OSError: the source cannot be read.
            errors.UserError: a label out of range.
        """
        label, image = self._example(index)
        self._apply(image, uniforms, out, index)
        return label

    def read_or_blank(self, index: int, out: np.ndarray) -> tuple[Any, float]:
        """Reads as evaluations do: an unreadable image becomes zeros, counted, mask 0.

        Returns:
            The label (None where the source could not be read) and the mask.
        """
        label = None
        try:
            label, image = self._example(index)
            self._apply(image, (), out, index)
            return label, 1.0
        except (decode.BadImage, OSError) as error:
            self._corrupt.add(index, error)
            out[...] = 0
            return label, 0.0

    def blank_label(self) -> int | np.ndarray:
        """Returns a label of zeros of the kind that the source has."""
        for index in range(min(self._size, _FIRST_EXAMPLES)):
            try:
                return self._example(index)[0] * 0
            except (decode.BadImage, OSError):
                continue
        return 0

    def _example(self, index: int) -> tuple[int | np.ndarray, Any]:
        example = self.source[index]
        try:
            label, image = example["label"], example["image"]
        except (KeyError, TypeError, IndexError) as error:
            raise errors.UserError(
                f"{sources.describe_example(self.source, index)}: got "
                f'{_keys(example)}; wanted a dict with "image" and "label"'
            ) from error
        return self.check_label(label, index), image

    def _apply(self, image: Any, uniforms: Any, out: np.ndarray, index: int) -> None:
        self._corrupt.check(image)
        try:
            self._transform(image, uniforms, out)
        except errors.UserError as error:
            name = sources.describe_example(self.source, index)
            raise errors.UserError(f"{name}: {error}") from error

    def check_label(self, label: Any, index: int) -> int | np.ndarray:
        """Returns an int in [0, classes), or float32 [classes].

        Raises:
            errors.UserError: anything else.
        """
        if type(label) is int:
            if 0 <= label < self._classes or (label >= 0 and not self._classes):
                return label
            raise self._bad_label(label, index)
        array = np.asarray(label)
        if array.ndim == 0 and array.dtype.kind in "iu":
            return self.check_label(int(array), index)
        if array.ndim != 1 or array.dtype.kind not in "iufb":
            raise self._bad_label(label, index)
        if self._classes and len(array) != self._classes:
            raise self._bad_label(f"a vector of {len(array)}", index)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise self._bad_label("a vector with NaN or infinity", index)
        return array.astype(np.float32)

    def _bad_label(self, label: Any, index: int) -> errors.UserError:
        wanted = f"0..{self._classes - 1}" if self._classes else "0 or above"
        return errors.UserError(
            f"{sources.describe_example(self.source, index)}: label {label!r} is "
            f"out of range; wanted a class in {wanted}, or one number for each class. "
            "Correct the dataset, or its number of classes."
        )


def _keys(example: Any) -> str:
    if isinstance(example, dict):
        return f"a dict with {sorted(map(str, example))}"
    return f"a {type(example).__name__}"


def stack_labels(labels: list[Any]) -> np.ndarray:
    """Returns int32 [b] or float32 [b, classes] of checked labels.

    Raises:
        errors.UserError: the source mixes both kinds.
    """
    vectors = sum(isinstance(label, np.ndarray) for label in labels)
    if vectors == 0:
        return np.array(labels, np.int32)
    if vectors < len(labels) or len({len(label) for label in labels}) > 1:
        raise errors.UserError(
            "labels of one batch differ in kind: some are classes and some vectors, or "
            "vectors of different lengths; wanted one kind throughout"
        )
    return np.stack(labels)
