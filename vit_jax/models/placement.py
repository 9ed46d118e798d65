"""What a run asks of a forward pass: where things live, and what needs no gradient."""

from collections.abc import Callable
from dataclasses import dataclass

import jax

from vit_jax import tree
from vit_jax.types import Params


@dataclass(frozen=True)
class Placement:
    """By default nothing: one device, or what the compiler finds by itself.

    Attributes:
        pin: Applied to the tokens [b, n, d] (or feature maps) at the entry and exit of
            every block (stage), to fix their sharding.
        gather: From one block's parameters, as they enter the model, to those it
            computes with.
        regathers: Whether the backward pass gathers them once more instead of keeping
            them; only where the block is recomputed, that is with remat.
        frozen: How many blocks, from the first, are not trained: they keep nothing for
            a backward pass unless something below them is.
    """

    pin: Callable[[jax.Array], jax.Array] = tree.same
    gather: Callable[[Params], Params] = tree.same
    regathers: bool = False
    frozen: int = 0


NOWHERE = Placement()
