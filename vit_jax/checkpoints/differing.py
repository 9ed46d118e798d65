"""How the leaves of a checkpoint differ from those of the run that reads it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.checkpoints import disk


def lines(folder: Path, leaves: Mapping[str, Any], there: Sequence[str]) -> list[str]:
    """Returns a line for each leaf whose name, shape or type on disk is not the run's.

    Args:
        folder: Of the checkpoint.
        leaves: Of the run, by name, with the item in front.
        there: The items on disk.
    """
    wanted = {name.partition("/")[0] for name in leaves}
    stored = {
        f"{item}/{name}": leaf
        for item in there
        if item in wanted
        for name, leaf in disk.shapes(folder, item).items()
    }
    ours, theirs = (
        {
            name: (tuple(leaf.shape), np.dtype(leaf.dtype).name)
            for name, leaf in some.items()
        }
        for some in (leaves, stored)
    )
    return [
        f"{name}: checkpoint {_shape(theirs.get(name), ours.get(name))}, "
        f"this run {_shape(ours.get(name), theirs.get(name))}"
        for name in ours | theirs
        if theirs.get(name) != ours.get(name)
    ]


def _shape(one: Any, other: Any) -> str:
    """A shape, or a type where that is what differs."""
    if one is None:
        return "has none"
    return str(one[other is not None and one[0] == other[0]])
