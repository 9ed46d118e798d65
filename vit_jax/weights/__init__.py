"""Weights of other runs and other codes as models of ours.

    from vit_jax import weights
    loaded = weights.pretrained.load("hf://timm/vit_small_patch16_224.augreg_in1k")

The modules named here load when they are first asked for: a run that starts from
scratch needs no dialect, no file format and no download, and imports none of them.
"""

import importlib
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vit_jax.weights import adapting, frozen, loaded, pretrained, starts

__all__ = ["adapting", "frozen", "loaded", "pretrained", "starts"]


def __getattr__(name: str) -> types.ModuleType:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
