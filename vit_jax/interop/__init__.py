"""Weights of other codes: one table of names a dialect, used in both directions."""

from vit_jax.interop.dialects import DIALECTS
from vit_jax.interop.posemb import resample_posemb
from vit_jax.interop.weights import Weights, check_shapes, infer, read, write

__all__ = [
    "DIALECTS",
    "Weights",
    "check_shapes",
    "infer",
    "read",
    "resample_posemb",
    "write",
]
