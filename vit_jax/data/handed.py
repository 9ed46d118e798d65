"""A dataset that a program hands over, in the place of one by name."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax import errors
from vit_jax.data import catalog
from vit_jax.data.forms import objects
from vit_jax.settings import naming


def opened(
    source: Any, info: catalog.DatasetInfo | None, columns: naming.Columns
) -> catalog.Opened:
    """Returns what a program hands over as a dataset of its own.

    Args:
        source: Anything with `__len__` and `__getitem__` as split "train", or a dict of
            them by split.
        info: Its name, classes and their names, `splits` counted or empty; None: the
            source says how many classes there are.
        columns: Of the images and labels, where examples are dicts.

    Raises:
        errors.UserError: a stream, no example, no number of classes, other counts.
    """
    name = type(source).__name__ if info is None else info.name
    said: dict[str, Any] = {}
    if info is not None:
        said = {"num_classes": info.num_classes, "label_names": info.label_names}
        said |= {"multi_label": info.multi_label, "numeric": info.numeric or None}
    members = source if isinstance(source, Mapping) else {"train": source}
    found = objects.Objects(f"{catalog.GIVEN}{name}", members, columns, **said)
    if info is not None and info.splits and dict(info.splits) != found.counts():
        raise errors.UserError(
            f"info.splits={dict(info.splits)}, the source has {found.counts()}"
        )
    return found


@contextlib.contextmanager
def known(dataset: catalog.Opened) -> Iterator[None]:
    """Has a dataset's name mean it, from `opened`, in this process and context."""
    catalog.handed_over[dataset.name] = dataset
    try:
        yield
    finally:
        del catalog.handed_over[dataset.name]
