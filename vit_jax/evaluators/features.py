"""Features of a whole split, in the order of the dataset."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vit_jax import errors
from vit_jax.evaluators import batches


def _rows(outputs: dict[str, jax.Array], batch: dict[str, jax.Array]) -> Any:
    if batch["label"].ndim != 1:
        raise errors.UserError(
            "few-shot evaluation wants one label an image; these have several"
        )
    return batch | {"features": outputs["features"].astype(np.float32)}


def collect(
    forward: batches.Forward,
    params: Any,
    *,
    source: Any,
    transform: Any,
    batch_size: int,
    mesh: Mesh,
    between: Callable[[], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns features float32 [n, d] and integer labels [n] of a split.

    Every process holds all of them. Images that could not be read are left out. The
    rest is as `batches.run` takes it.

    Raises:
        UserError: labels that are not single classes, features that are not finite.
    """
    parts = batches.run(
        forward,
        params,
        batches.reduced(_rows, mesh),
        source=source,
        transform=transform,
        batch_size=batch_size,
        mesh=mesh,
        between=between,
    )
    rows: dict[str, list[np.ndarray]] = {}
    for part in parts:
        good = part.pop("mask") > 0
        for name, values in part.items():
            rows.setdefault(name, []).append(values[good])
    whole = {name: np.concatenate(values) for name, values in rows.items()}
    order = np.argsort(whole["index"])
    features, labels = whole["features"][order], whole["label"][order]
    if not np.isfinite(features).all():
        raise errors.UserError(
            "the features are not finite: the checkpoint is damaged, or the model "
            "overflows; try model.compute_dtype=float32"
        )
    return features, labels
