"""What was found as named arrays, each with what its axes are and its unit."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vit_jax.inspection import curves, looking, similarity

COSINE, SHARE, PIXELS = "cosine", "share, sum 1", "pixels"


class Table(NamedTuple):
    """An array, the names of its axes, and the unit of its numbers."""

    values: np.ndarray
    axes: tuple[str, ...]
    unit: str


def of_model(found: looking.Inspection, patch: tuple[int, int]) -> dict[str, Table]:
    """Returns all numbers of an inspection by name.

    Args:
        found: From `looking.inspect`.
        patch: (row, column) of the patch to whose token others are compared.
    """
    filters, tables = found.filters, {}
    tables["filters"] = Table(
        filters.components, ("component", "y", "x", "channel"), "of length 1"
    )
    tables["filters_variance"] = Table(filters.variance, ("component",), SHARE)
    if found.positions is not None:
        for name, values in found.positions.similarity.items():
            key = f"posemb_{name.replace(' ', '_')}"
            tables[key] = Table(values, ("patch", "patch"), COSINE)
    if not found.images:
        return tables
    tables["distance"] = Table(found.distances, ("image", "layer", "head"), PIXELS)
    tables["distance_uniform"] = Table(np.array(found.uniform), (), PIXELS)
    if not found.seen:
        return tables
    arch, seen = found.architecture, found.seen
    near = [
        [similarity.to_patch(block.reshape(*arch.grid, -1), patch) for block in each]
        for each in (one.tokens for one in seen)
    ]
    tables["readout_weights"] = Table(
        np.stack([one.weights for one in seen]), ("image", "token"), SHARE
    )
    tables["attention"] = Table(
        np.stack([one.readout for one in seen]),
        ("image", "layer", "head", "token"),
        SHARE,
    )
    tables["rollout"] = Table(
        np.stack([one.rollout for one in seen]), ("image", "token"), SHARE
    )
    tables["similarity"] = Table(
        np.array(near), ("image", "block", "row", "column"), COSINE
    )
    return tables


def of_runs(runs: Sequence[curves.Run], smooth: float) -> dict[str, Table]:
    """Returns "RUN/FIGURE" of all runs: rows of step, value, and smoothed value."""
    return {
        f"{run.name}/{name}": Table(
            np.stack(
                [curve.steps, curve.values, curves.smoothed(curve.values, smooth)]
            ),
            ("step, value, smoothed value", "line"),
            name,
        )
        for run in runs
        for name, curve in run.curves.items()
    }
