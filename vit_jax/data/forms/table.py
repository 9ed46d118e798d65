"""What the forms of datasets have in common: images by index, labels known before."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from vit_jax import errors
from vit_jax.data import decode, sources, splits


class Images(Protocol):
    """The images of one split, by index; threads share it."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Any:
        """Returns what `decode.open_image` opens.

        Raises:
            decode.BadImage: the image cannot be read.
            OSError: its file cannot be read.
        """
        ...

    def name(self, index: int) -> str:
        """Returns where it is, for reports."""
        ...


class Labels(Protocol):
    """The labels of a table, as `labelling.Labelling` has them."""

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        ...

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Their names, None where nobody names them."""
        ...

    @property
    def multi_label(self) -> bool:
        """Whether an example may have several."""
        ...

    @property
    def numeric(self) -> bool:
        """Whether they are numbers and no classes."""
        ...

    @property
    def splits(self) -> Mapping[str, Any]:
        """The labels of each split, by index."""
        ...


class Table:
    """A dataset of one of the forms: its splits, classes and images."""

    def __init__(
        self,
        name: str,
        images: Mapping[str, Images],
        labels: Labels,
        *,
        holds: Callable[[], bool] = lambda: True,
    ):
        """Takes images and labels of the same splits.

        Args:
            name: Of the dataset.
            images: Of each split.
            labels: Of each split.
            holds: Whether the files are still those that were read.
        """
        self.name, self._images, self.holds = name, dict(images), holds
        self._labels = labels
        self.num_classes = labels.num_classes
        self.label_names = labels.label_names
        self.multi_label, self.numeric = labels.multi_label, labels.numeric

    def counts(self) -> dict[str, int]:
        """Returns the number of examples of each split."""
        return {split: len(images) for split, images in self._images.items()}

    def open(self, ranges: Sequence[splits.Range]) -> "TableSource":
        """Returns the examples of ranges of splits; see `TableSource`."""
        return TableSource(self, self._images, self._labels, ranges)


class TableSource:
    """Examples of a `Table`: images still encoded, labels by number."""

    image_shape = None

    def __init__(
        self,
        table: Table,
        images: Mapping[str, Images],
        labels: Labels,
        ranges: Sequence[splits.Range],
    ):
        """Takes what `splits.resolve` returned for the table's counts."""
        self.num_classes, self.label_names = table.num_classes, table.label_names
        self._images, self._labels = images, labels.splits
        self._ranges = sources.Ranges(ranges)

    def __len__(self) -> int:
        return len(self._ranges)

    def __getitem__(self, index: int) -> sources.Example:
        """Reads one image.

        Raises:
            decode.BadImage: it cannot be read.
        """
        split, at = self._ranges.locate(index)
        try:
            image = self._images[split].read(at)
        except OSError as error:
            what = error.strerror or str(error) or type(error).__name__
            raise decode.BadImage(f"cannot be read: {what}") from error
        return {"image": image, "label": self._labels[split][at]}

    def name(self, index: int) -> str:
        """Returns where an example is."""
        split, at = self._ranges.locate(index)
        return self._images[split].name(at)


def check_random_access(given: Any, what: str) -> None:
    """Raises `UserError` for a stream, which has no example number n.

    Args:
        given: What a user handed over or a library returned.
        what: Its name, for the message.
    """
    kind = f"{type(given).__module__}.{type(given).__qualname__}"
    try:
        sized = len(given) >= 0 and callable(given.__getitem__)
    except (TypeError, AttributeError, NotImplementedError):
        sized = False
    if not sized:
        raise errors.UserError(
            f"{what} is a stream ({kind}): it has no length or no example by index, so "
            "no order that a resumed run could repeat.\n"
            "Give something with __len__ and __getitem__: without streaming=True in "
            "datasets; tar shards as wds:SHARDS; a tf.data or other stream written "
            "once as Parquet (parquet:GLOB) or as a folder of pictures (folder:PATH)"
        )
