"""The nearest images by the cosine of their features."""

from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.host import files as host_files
from vit_jax.runs.bulk import features, job, journal, reading, vectors
from vit_jax.runs.bulk import inputs as inputs_lib

# That go through the file together.
_QUERIES = 256


def nearest(
    found: vectors.Vectors, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows [q, k] with the highest cosines, and these, best first.

    Of equals the first in the file comes first. Rows that are not finite have no
    neighbours and are none. In memory are a piece of the file and k rows a query.

    Args:
        found: What to look through.
        queries: float [q, width].
        k: How many; fewer where there are no more.
    """
    parts = [
        _nearest(found, _unit(queries[start : start + _QUERIES]), k)
        for start in range(0, len(queries), _QUERIES)
    ]
    best, scores = zip(*parts, strict=True)
    return np.concatenate(best), np.concatenate(scores)


def _nearest(
    found: vectors.Vectors, wanted: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    best = np.empty((len(wanted), 0), np.int64)
    scores = np.empty((len(wanted), 0), np.float32)
    start = 0
    for chunk in found.chunks():
        unit = _unit(chunk)
        good = np.isfinite(unit).all(axis=1)
        rows = start + np.flatnonzero(good)
        start += len(chunk)
        of_chunk = wanted @ unit[good].T
        scores = np.concatenate([scores, of_chunk], axis=1)
        best = np.concatenate([best, np.broadcast_to(rows, of_chunk.shape)], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, order, axis=1)
        best = np.take_along_axis(best, order, axis=1)
    return best, scores


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros is not finite then."""
    rows = np.asarray(rows, np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def run(
    query: str, path: str | Path, *, k: int = 10, checkpoint: str = ""
) -> list[dict[str, Any]]:
    """Returns the neighbours of a query in a file of features.

    Args:
        query: The name of a row of the file, which is no neighbour of itself; an image;
            or a `.npy` of one vector [d] or several [q, d].
        path: As `vectors.open_vectors` takes it.
        k: How many of each.
        checkpoint: For an image: what made the file; "": what it says itself.

    Returns:
        {"query", "rank", "image", "score"}, rank from 1.

    Raises:
        errors.UserError: nothing of that name, features of another width or model.
    """
    if k < 1:
        raise errors.UserError(f"--k={k}; want at least 1")
    found = vectors.open_vectors(path)
    itself = found.names.index(query) if query in found.names else None
    if itself is not None:
        queries = found.row(itself)[None]
    elif query.endswith(".npy"):
        queries = _read_queries(query)
    else:
        queries = _features(query, found, checkpoint)
    if queries.shape[1:] != (found.width,):
        raise errors.UserError(
            f"{query} has vectors of {queries.shape[1:]}, {path} of {found.width}: "
            "want features of one kind"
        )
    if not np.isfinite(_unit(queries)).all():
        raise errors.UserError(f"{query}: its features are zero or not finite")
    best, scores = nearest(found, queries, k + (itself is not None))
    result = []
    for number in range(len(queries)):
        rows = [r for r, row in enumerate(best[number]) if row != itself][:k]
        result += [
            {
                "query": query if len(queries) == 1 else number,
                "rank": rank,
                "image": found.names[best[number, row]],
                "score": float(scores[number, row]),
            }
            for rank, row in enumerate(rows, 1)
        ]
    return result


def _read_queries(path: str) -> np.ndarray:
    try:
        place = host_files.expanded(path)
        host_files.check_plain(place)
        found = np.load(place, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise errors.UserError(f"{path} cannot be read: {error}") from error
    if found.ndim not in (1, 2) or found.dtype.kind != "f":
        raise errors.UserError(
            f"{path}: {found.dtype} {found.shape}; want floats [d] or [q, d]"
        )
    return np.atleast_2d(found)


def _features(image: str, found: vectors.Vectors, checkpoint: str) -> np.ndarray:
    """The features of an image, as those of the file were made."""
    images = inputs_lib.find([image])
    if len(images) != 1:
        raise errors.UserError(f"{image} is {len(images)} images; want one")
    record = journal.read_job(found.path)
    made: dict[str, Any] = {} if record is None else record["job"]
    if record is not None and not checkpoint:
        checkpoint = record["checkpoint"]
    if not checkpoint:
        raise errors.UserError(
            f"nothing beside {found.path} says what made it: want --checkpoint=PATH, "
            f"or its {journal.job_path(found.path).name}"
        )
    ready = job.prepare(checkpoint, batch_size=1)
    for name, ours in ready.description().items():
        if name in ("weights", "preprocessing") and made.get(name, ours) != ours:
            raise errors.UserError(
                f"{found.path} was made with other {name} than {ready.loaded.source} "
                "has: want the --checkpoint that made it"
            )
    task = features.Features(layer=made.get("layer"), tokens=made.get("tokens", False))
    transform = ready.loaded.preprocessing.eval_transform(exif=images.exif)
    read = next(reading.batches(images, transform, batch_size=ready.batch_size))
    if read.problems[0] is not None:
        raise errors.UserError(read.problems[0])
    return np.asarray(ready.compiled(task)(read.images))[:1]
