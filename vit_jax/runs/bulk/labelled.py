"""Features with a class each, out of files of `vit_jax features`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vit_jax import errors
from vit_jax.evaluators import features
from vit_jax.runs.bulk import vectors


def read(paths: Sequence[str]) -> features.Labelled:
    """Returns the rows of files, one behind the other, that could be read.

    Args:
        paths: As `vectors.open_vectors` takes them: the parts of several machines.

    Raises:
        errors.UserError: no such file, or twice; rows without a class, other widths.
    """
    found = [vectors.open_vectors(path) for path in paths]
    known: set[Path] = set()
    for one in found:
        if (path := one.path.resolve()) in known:
            raise errors.UserError(f"{one.path} is there twice; want each file once")
        known.add(path)
    if len({one.width for one in found}) > 1:
        widths = ", ".join(f"{one.path} of {one.width}" for one in found)
        raise errors.UserError(
            f"features of several widths: {widths}; want one model's"
        )
    parts = [_of_file(one) for one in found]
    rows, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return features.Labelled(rows, labels, errors.some([str(p) for p in paths]))


def _of_file(found: vectors.Vectors) -> tuple[np.ndarray, np.ndarray]:
    whole = [np.asarray(chunk, np.float32) for chunk in found.chunks()]
    rows = np.concatenate(whole) if whole else np.zeros((0, found.width), np.float32)
    good = np.isfinite(rows).all(axis=1)
    for row in np.flatnonzero(good).tolist():
        label = found.labels[row]
        if type(label) is not int or label < 0:
            has = "no label" if label is None else f"the label {label}"
            raise errors.UserError(
                f"{found.path}: {found.names[row]} has {has}; want one class an image, "
                "as vit_jax features --dataset=NAME writes it (--overwrite, over an "
                "older file)"
            )
    labels = [found.labels[row] for row in np.flatnonzero(good)]
    return rows[good], np.array(labels, np.int64)
