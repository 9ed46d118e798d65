"""What a loader reads: random access to examples, by index.

A source is anything with `__len__` and `__getitem__`; Grain sources and Hugging Face
datasets qualify. Ours also know their classes and the names of their examples.
"""

import bisect
import itertools
from collections.abc import Sequence
from typing import Any, Protocol, TypedDict

import numpy as np

from vit_jax import errors
from vit_jax.data import splits


class Example(TypedDict):
    """One example, its image not decoded yet (or uint8 [h, w, 3 or 1])."""

    image: bytes | np.ndarray
    label: int | np.ndarray


class Source(Protocol):
    """Random access to examples.

    Ours have, beyond this protocol: `num_classes` (0 where unknown), `label_names`
    (None where unknown) and `image_shape` (the height, width and channels that all
    images share, None where they differ or nobody knows).
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class ArraySource:
    """Examples in memory: uint8 [n, h, w, 1 or 3] and labels [n] or [n, classes]."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        num_classes: int = 0,
        label_names: Sequence[str] | None = None,
        name: str = "array",
    ):
        """Takes arrays as they are; `num_classes=0` follows from the labels.

        Raises:
            errors.UserError: wrong shapes or types.
        """
        images, labels = np.asarray(images), np.asarray(labels)
        if images.ndim == 3:
            images = images[..., None]
        if (
            images.dtype != np.uint8
            or images.ndim != 4
            or images.shape[3] not in (1, 3)
        ):
            raise errors.UserError(
                f"images of {name}: {images.dtype} {images.shape}; "
                "wanted uint8 [n, height, width, 1 or 3]"
            )
        if len(labels) != len(images) or labels.ndim not in (1, 2):
            raise errors.UserError(
                f"labels of {name}: shape {labels.shape} for {len(images)} images; "
                "wanted [n] class indices or [n, classes]"
            )
        if labels.ndim == 1 and not np.issubdtype(labels.dtype, np.integer):
            raise errors.UserError(
                f"labels of {name} are {labels.dtype}; wanted integers, or [n, classes]"
            )
        self.images, self.labels = images, labels
        self.label_names = None if label_names is None else tuple(label_names)
        self.num_classes = num_classes or self._count_classes()
        self.image_shape = images.shape[1:]
        self._name = name

    def _count_classes(self) -> int:
        if self.label_names is not None:
            return len(self.label_names)
        if self.labels.ndim == 2:
            return self.labels.shape[1]
        return int(self.labels.max()) + 1 if len(self.labels) else 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        label = self.labels[index]
        if self.labels.ndim == 1:
            return {"image": self.images[index], "label": int(label)}
        return {"image": self.images[index], "label": label.astype(np.float32)}

    def name(self, index: int) -> str:
        """Returns "name:index", for reports."""
        return f"{self._name}:{index}"


class Ranges:
    """Consecutive index ranges over the splits of a dataset, laid end to end."""

    def __init__(self, ranges: Sequence[splits.Range]):
        """Takes what `splits.resolve` returned."""
        self.ranges = list(ranges)
        sizes = (part.stop - part.start for part in self.ranges)
        self._ends = list(itertools.accumulate(sizes))

    def __len__(self) -> int:
        return self._ends[-1]

    def locate(self, index: int) -> tuple[str, int]:
        """Returns the split and the place in it of example `index`.

        Raises:
            IndexError: `index` is outside [0, len).
        """
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        if len(self.ranges) == 1:
            return self.ranges[0].split, self.ranges[0].start + index
        at = bisect.bisect_right(self._ends, index)
        part = self.ranges[at]
        return part.split, part.stop - (self._ends[at] - index)


def describe_example(source: Any, index: int) -> str:
    """Returns the name of an example, its index where the source has no names."""
    return source.name(index) if hasattr(source, "name") else f"example {index}"
