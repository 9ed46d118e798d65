"""Weights of other codes: one table of names a dialect, used in both directions."""

from vit_jax.interop.dialects import DIALECTS
from vit_jax.interop.outputs import fitting
from vit_jax.interop.posemb import at_size, resample_posemb
from vit_jax.interop.source import Tensors
from vit_jax.interop.stem import with_channels
from vit_jax.interop.weights import (
    Weights,
    check_shapes,
    grid_option,
    inside,
    is_weights,
    locate,
    read,
    write,
)

__all__ = [
    "DIALECTS",
    "Tensors",
    "Weights",
    "at_size",
    "check_shapes",
    "fitting",
    "grid_option",
    "inside",
    "is_weights",
    "locate",
    "read",
    "resample_posemb",
    "with_channels",
    "write",
]
