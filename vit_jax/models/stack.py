"""Equal blocks one after another: a scan over stacked parameters, and remat.

Every leaf of the blocks is stacked, [layer, ...]. `unroll` says how many layers one
turn of the loop runs, `remat` what the backward pass computes again.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.models.placement import Placement
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

Tapped = dict[str, jax.Array]
# (tokens, parameters of a block, what else each block has, where it leaves what is
# inside, if that is asked for) -> tokens
Block = Callable[[jax.Array, Params, Any, Tapped | None], jax.Array]


def scan_blocks(
    block: Block,
    tokens: jax.Array,
    stacked: Params,
    rest: Any,
    *,
    remat: str,
    unroll: int,
    placement: Placement,
    tapped: bool = False,
) -> tuple[jax.Array, Tapped | None]:
    """Runs a block once a layer.

    Args:
        block: Pure.
        tokens: [b, n, d].
        stacked: Parameters, each leaf [layer, ...].
        rest: Of the same kind; what is no parameter.
        remat: A name of `REMAT`: what the backward pass computes again.
        unroll: Layers in one turn of the loop; 0: all, a flat program.
        placement: See there.
        tapped: Whether what is inside the blocks is returned too.

    Returns:
        The tokens, and if `tapped` what each block left, [layer, ...]: by the names it
        gave, and as "blocks" its tokens.
    """
    gather_inside = placement.regathers and remat != "none"

    def inner(
        x: jax.Array, params: Params, rest: Any
    ) -> tuple[jax.Array, Tapped | None]:
        if gather_inside:
            params = placement.gather(params)
        taps: Tapped | None = {} if tapped else None
        x = placement.pin(block(placement.pin(x), params, rest, taps))
        return x, None if taps is None else {"blocks": x} | taps

    run = REMAT[remat](inner)

    def body(
        x: jax.Array, layer: tuple[Params, Any]
    ) -> tuple[jax.Array, Tapped | None]:
        params, rest = layer
        if not gather_inside:
            params = placement.gather(params)
        return run(x, params, rest)

    depth = jax.tree.leaves(stacked)[0].shape[0]
    if not 0 < placement.frozen < depth:
        return jax.lax.scan(body, tokens, (stacked, rest), unroll=unroll or depth)
    first, last = (
        jax.tree.map(lambda leaf, part=part: leaf[part], (stacked, rest))
        for part in (slice(placement.frozen), slice(placement.frozen, None))
    )
    first = jax.lax.stop_gradient(first[0]), first[1]
    count = placement.frozen
    tokens, below = jax.lax.scan(body, tokens, first, unroll=unroll or count)
    tokens, above = jax.lax.scan(body, tokens, last, unroll=unroll or depth - count)
    return tokens, jax.tree.map(lambda *x: jnp.concatenate(x), below, above)
