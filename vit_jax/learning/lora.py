"""Low-rank changes of frozen weights (LoRA, arXiv 2106.09685): W + alpha / r * A B.

A run has A and B beside the parameters of its model, below "lora/", and calls the model
with the changed weights, which are made once a step (a microbatch). So every family,
attention, layout and rematerialisation is as it was, and what is trained is what a
merged model computes. The price is the gradients of the changed matrices, from which
those of A and B are: a B/16 step with query and value has 73 % of the FLOPs of one that
trains everything, with all targets as many.

`blocks/attn/query/kernel` [layer, *inputs, *outputs] has `lora/blocks/attn/query/a`
[layer, inputs, rank] and `.../b` [layer, rank, outputs], both in the 2-D view of the
kernel. A starts as in PEFT, uniform in +-1 / sqrt(inputs), B at zero.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax import errors, tree
from vit_jax.types import Params

PREFIX = "lora"
# What `targets` calls kernels of the blocks, by regex.
TARGETS: dict[str, str] = {
    "query": r"^blocks/.*attn/query/kernel$",
    "key": r"^blocks/.*attn/key/kernel$",
    "value": r"^blocks/.*attn/value/kernel$",
    "out": r"^blocks/.*attn/out/kernel$",
    "mlp": r"^blocks/.*(mlp|tokens|channels)/(up|gate|down)/kernel$",
}


@dataclass(frozen=True)
class Lora:
    """Which weights are changed, and how.

    Attributes:
        rank: Of the change.
        alpha: The change is alpha / rank * A B.
        targets: Names of `TARGETS`.
    """

    rank: int
    alpha: float
    targets: Sequence[str] = ()

    @property
    def scale(self) -> float:
        """What A B is multiplied by."""
        return self.alpha / self.rank

    def shapes(self, params: Params) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of what is added to a model's parameters, by name.

        Raises:
            UserError: a target that is unknown or not in this model.
        """
        named = {name: tuple(leaf.shape) for name, leaf in tree.named_leaves(params)}
        found: dict[str, tuple[int, ...]] = {}
        for target in self.targets:
            pattern = errors.lookup(TARGETS, target, "lora.targets")
            kernels = [name for name in named if re.search(pattern, name)]
            if not kernels:
                raise errors.UserError(
                    f"lora.targets: {target!r} is in no block of this model; there are "
                    + ", ".join(t for t, p in TARGETS.items() if _is_in(p, named))
                )
            for name in kernels:
                depth, inputs, outputs = flat(name, named[name])
                a, b = names(name)
                found[a] = depth, inputs, self.rank
                found[b] = depth, self.rank, outputs
        return found

    def new(self, params: Params, key: jax.Array) -> Params:
        """Returns what is added to a model's parameters, at its start."""
        leaves = {}
        for i, (name, shape) in enumerate(sorted(self.shapes(params).items())):
            leaves[name] = jnp.zeros(shape, jnp.float32)
            if name.endswith("/a"):
                limit = 1 / math.sqrt(shape[1])
                own = jax.random.fold_in(key, i)
                leaves[name] = jax.random.uniform(own, shape, minval=-limit) * limit
        return tree.from_named(leaves)

    def merged(self, params: Params) -> Params:
        """Returns the parameters of the model, changed; differentiable."""
        own = {name: leaf for name, leaf in params.items() if name != PREFIX}
        added = dict(tree.named_leaves({PREFIX: params[PREFIX]}))

        def change(name: str, leaf: jax.Array) -> jax.Array:
            a, b = names(name)
            if a not in added:
                return leaf
            return changed(leaf, added[a], added[b], self.scale)

        return tree.map_named(change, own)


def changed(kernel: Any, a: Any, b: Any, scale: float) -> jax.Array:
    """Returns kernels of all layers, changed, in their own type.

    Args:
        kernel: [layer, *inputs, *outputs].
        a: [layer, inputs, rank].
        b: [layer, rank, outputs].
        scale: Of the product.
    """
    product = jnp.einsum("lir,lro->lio", a, b, precision="highest")
    return (kernel + scale * product.reshape(kernel.shape)).astype(kernel.dtype)


def names(kernel: str) -> tuple[str, str]:
    """Returns the names of the A and the B of a kernel."""
    base = f"{PREFIX}/{kernel.removesuffix('/kernel')}"
    return f"{base}/a", f"{base}/b"


def flat(name: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns layers, inputs and outputs of a stacked kernel; both may be several."""
    middle = -1 if name.endswith("/out/kernel") else 2
    return shape[0], math.prod(shape[1:middle]), math.prod(shape[middle:])


def _is_in(pattern: str, named: Mapping[str, Any]) -> bool:
    return any(re.search(pattern, name) for name in named)
