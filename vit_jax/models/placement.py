"""What a mesh asks of a forward pass: where tokens live, how weights come together."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from vit_jax.types import Params

_policies = jax.checkpoint_policies
REMAT: dict[str, Callable[[Callable], Callable]] = {
    "none": lambda block: block,
    "dots": functools.partial(
        jax.checkpoint, policy=_policies.dots_saveable, prevent_cse=False
    ),
    "dots_nb": functools.partial(
        jax.checkpoint,
        policy=_policies.dots_with_no_batch_dims_saveable,
        prevent_cse=False,
    ),
    "full": functools.partial(jax.checkpoint, prevent_cse=False),
}


def _same(value: Any) -> Any:
    return value


@dataclasses.dataclass(frozen=True)
class Placement:
    """By default nothing: one device, or what the compiler finds by itself.

    Attributes:
        pin: Applied to the tokens [b, n, d] (or feature maps) at the entry and exit of
            every block (stage), to fix their sharding.
        gather: From one block's parameters, as they enter the model, to those it
            computes with.
        again: Whether the backward pass gathers them once more instead of keeping
            them; only where the block is recomputed, that is with remat.
    """

    pin: Callable[[jax.Array], jax.Array] = _same
    gather: Callable[[Params], Params] = _same
    again: bool = False


NOWHERE = Placement()

# (tokens, parameters of a block, what else each block has) -> tokens
Block = Callable[[jax.Array, Params, Any], jax.Array]


def scan_blocks(
    block: Block,
    tokens: jax.Array,
    stacked: Params,
    rest: Any,
    *,
    remat: str,
    unroll: int,
    placement: Placement,
) -> jax.Array:
    """Runs a block once a layer.

    Args:
        block: Pure.
        tokens: [b, n, d].
        stacked: Parameters, each leaf [layer, ...].
        rest: Of the same kind; what is no parameter.
        remat: A name of `REMAT`: what the backward pass computes again.
        unroll: Layers in one turn of the loop; 0: all, a flat program.
        placement: See there.
    """
    gather_inside = placement.again and remat != "none"

    def inner(x: jax.Array, params: Params, rest: Any) -> jax.Array:
        if gather_inside:
            params = placement.gather(params)
        return placement.pin(block(placement.pin(x), params, rest))

    run = REMAT[remat](inner)

    def body(x: jax.Array, layer: tuple[Params, Any]) -> tuple[jax.Array, None]:
        params, rest = layer
        if not gather_inside:
            params = placement.gather(params)
        return run(x, params, rest), None

    depth = jax.tree.leaves(stacked)[0].shape[0]
    return jax.lax.scan(body, tokens, (stacked, rest), unroll=unroll or depth)[0]
