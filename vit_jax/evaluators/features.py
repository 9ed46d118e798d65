"""Features of a whole split, in the order of the dataset."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vit_jax import errors
from vit_jax.evaluators import batches


def _rows(outputs: Any, labels: jax.Array, mask: jax.Array) -> Any:
    if labels.ndim != 1:
        raise errors.UserError(
            "few-shot evaluation wants one label an image; these have several"
        )
    return outputs["features"].astype(np.float32), labels, mask


def collect(
    forward: batches.Forward,
    params: Any,
    *,
    source: Any,
    transform: Any,
    batch_size: int,
    mesh: Mesh,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns features float32 [n, d] and integer labels [n] of a split.

    Every process holds all of them. Images that could not be read are left out.

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
    )
    kept = [(rows[mask > 0], labels[mask > 0]) for rows, labels, mask in parts]
    features, labels = (np.concatenate(column) for column in zip(*kept, strict=True))
    if not np.isfinite(features).all():
        raise errors.UserError(
            "the features are not finite: the checkpoint is damaged, or the model "
            "overflows; try model.compute_dtype=float32"
        )
    return features, labels
