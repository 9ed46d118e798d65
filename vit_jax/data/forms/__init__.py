"""Datasets that a prefix names: Parquet, tar shards, Hugging Face's, code of one's own.

A form opens to something with `counts()`, `open(ranges)`, `num_classes`, `label_names`
and `multi_label`, as `folder.Folder` and `tfds.Info` have them.
"""

from collections.abc import Callable
from typing import Any

from vit_jax.settings import naming

Opener = Callable[[str, naming.Columns, str], Any]


def _parquet() -> Opener:
    from vit_jax.data.forms import parquet

    return parquet.open_table


def _wds() -> Opener:
    from vit_jax.data.forms import wds

    return wds.open_table


def _huggingface() -> Opener:
    from vit_jax.data.forms import huggingface

    return huggingface.open_table


def _lists() -> Opener:
    from vit_jax.data.forms import lists

    return lists.open_table


def _objects() -> Opener:
    from vit_jax.data.forms import objects

    return objects.open_table


FORMS: dict[str, Callable[[], Opener]] = {
    "parquet": _parquet,
    "wds": _wds,
    "hf": _huggingface,
    "csv": _lists,
    "py": _objects,
}

_opened: dict[str, Any] = {}  # of this process, the last used last
_KEPT = 8


def opened(dataset: str) -> Any:
    """Returns a dataset by its form, read again only where its files changed.

    A run describes and opens a dataset several times, and a large one takes seconds.

    Args:
        dataset: "FORM:REST", with columns as `naming` has them.

    Raises:
        errors.UserError: it cannot be opened.
    """
    known = _opened.pop(dataset, None)
    if known is None or not known.holds():
        bare, columns = naming.split(dataset)
        form, _, rest = bare.partition(":")
        known = FORMS[form]()(rest, columns, bare)
    _opened[dataset] = known
    for oldest in list(_opened)[:-_KEPT]:
        del _opened[oldest]
    return known
