"""What a family of models gives to the table of families: a `Family`."""

import dataclasses
from collections.abc import Callable
from typing import Any

from flax import nnx

from vit_jax.models.architecture import Architecture


@dataclasses.dataclass(frozen=True)
class Family:
    """Models of one kind.

    Attributes:
        architecture: Its subclass of `Architecture`.
        module: The NNX module, made as `module(architecture, rngs=rngs)`.
        macs: Multiply-adds of one image's forward pass.
        parse: From a name to fields of the architecture.
        names: The published ones.
    """

    architecture: type[Architecture]
    module: Callable[..., nnx.Module]
    macs: Callable[[Any], int]
    parse: Callable[[str], dict[str, Any]]
    names: tuple[str, ...]
