"""How models look when they are printed."""

import math

import jax
from flax import nnx

from vit_jax.models.architecture import Architecture, size_text


class Shown:
    """Makes `print(model)` one line; `flax.nnx.display(model)` shows all of it."""

    architecture: Architecture

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(self)))
        count = sum(math.prod(leaf.shape) for leaf in leaves)
        what = summary(self.architecture)
        return f"{type(self).__name__}({what}, {count:,} parameters)"

    __str__ = __repr__  # Flax has its own


def summary(arch: Architecture) -> str:
    """Name, image size and outputs of an architecture."""
    outputs = f"{arch.num_classes:,} classes" if arch.num_classes else "features"
    return f"{arch.name}, {size_text(arch.image_size)} pixels, {outputs}"
