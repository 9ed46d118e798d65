"""Datasets that a prefix names: Parquet, tar shards, code of one's own and others.

A form opens to something with `counts()`, `open(ranges)`, `num_classes`, `label_names`
and `multi_label`, as `folder.Folder` and `tfds.Info` have them.
"""

from collections.abc import Callable
from typing import Any

from vit_jax.settings import naming

# (what stands behind the colon, columns, the whole name)
Opener = Callable[..., Any]


def _parquet() -> Opener:
    from vit_jax.data.forms import parquet

    return parquet.open_table


def _wds() -> Opener:
    from vit_jax.data.forms import wds

    return wds.open_table


def _predicted() -> Opener:
    from vit_jax.data.forms import predicted

    return predicted.open_table


def _huggingface() -> Opener:
    from vit_jax.data.forms import huggingface

    return huggingface.open_table


def _lists() -> Opener:
    from vit_jax.data.forms import lists

    return lists.open_table


def _objects() -> Opener:
    from vit_jax.data.forms import objects

    return objects.open_table


def _real() -> Opener:
    from vit_jax.data.forms import imagenets

    return imagenets.open_real


def _v2() -> Opener:
    from vit_jax.data.forms import imagenets

    return imagenets.open_v2


def _objectnet() -> Opener:
    from vit_jax.data.forms import imagenets

    return imagenets.open_objectnet


FORMS: dict[str, Callable[[], Opener]] = {
    "parquet": _parquet,
    "predicted": _predicted,
    "wds": _wds,
    "hf": _huggingface,
    "csv": _lists,
    "py": _objects,
    "real": _real,
    "imagenetv2": _v2,
    "objectnet": _objectnet,
}
# Whose opener takes the folder of TFDS, which their images may be in, as a fourth.
_OF_TFDS = ("real",)

_opened: dict[tuple[str, str], Any] = {}  # of this process, the last used last
_KEPT = 8


def opened(dataset: str, data_dir: str = "") -> Any:
    """Returns a dataset by its form, read again only where its files changed.

    A run describes and opens a dataset several times, and a large one takes seconds.

    Args:
        dataset: "FORM:REST", with columns as `naming` has them.
        data_dir: Of TFDS.

    Raises:
        errors.UserError: it cannot be opened.
    """
    key = dataset, data_dir
    known = _opened.pop(key, None)
    if known is None or not known.holds():
        bare, columns = naming.split(dataset)
        form, _, rest = bare.partition(":")
        where = [data_dir] if form in _OF_TFDS else []
        known = FORMS[form]()(rest, columns, bare, *where)
    _opened[key] = known
    for oldest in list(_opened)[:-_KEPT]:
        del _opened[oldest]
    return known
