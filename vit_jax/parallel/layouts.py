"""How parameters and optimizer state lie on the mesh, and come together for a step.

    dp     every device holds everything; only gradients travel
    zero1  state in shards over the fsdp axis; each weight is gathered once a step, in
           the type that it is used in, and its gradient goes back to the shard
    fsdp   the same, but the weights of a block are gathered when it runs, and again in
           the backward pass where the block is recomputed (`model.remat`)

Without remat the last two are the same program. Leaves outside the blocks are gathered
once in both.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vit_jax import tree
from vit_jax.models.placement import NOWHERE, Placement
from vit_jax.parallel import axes as axes_lib
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.parallel import xla
from vit_jax.types import Params

BLOCKS = "blocks"


@dataclass(frozen=True)
class Kind:
    """What sets the layouts apart.

    Attributes:
        rules: Which logical axes of leaves are cut over which mesh axes.
        regathers: Where a block is recomputed its weights are gathered in the forward
            and in the backward pass.
    """

    rules: axes_lib.Rules
    regathers: bool = False

    @property
    def sharded(self) -> bool:
        """Whether state is cut over the fsdp axis, and so gathered for the step."""
        return any(axis == "fsdp" for _, axis in self.rules)


# The heads of attention and the hidden width of the MLP, whose products then need one
# sum of activations each. In every layout: `mesh.tensor` says how many.
_TENSOR = (("heads", "tensor"), ("hidden", "tensor"), ("hidden_bias", "tensor"))
# One large dimension of every kernel.
_FSDP = (
    *(("hidden", "fsdp"), ("token_hidden", "fsdp"), ("pool_hidden", "fsdp")),
    *(("embed", "fsdp"), ("filters", "fsdp")),
)

AUTO = "auto"  # in the place of a key: what fits is chosen, see `choosing`
# Another layout is a row here, and a word on it at `mesh.layout` in configs/base.py.
LAYOUTS: dict[str, Kind] = {
    "dp": Kind(_TENSOR),
    "zero1": Kind((*_TENSOR, *_FSDP)),
    "fsdp": Kind((*_TENSOR, *_FSDP), regathers=True),
}

# Whether a leaf may be gathered in the type of the activations, because the model casts
# it to that before its first use. ResNets standardise float32 kernels.
CAST: tree.Rules[bool] = (
    (r"^blocks/.*(kernel|posemb.*)$", True),
    (r"^(patch_embed|pre_logits|head|head_dist|patch_head|map/.*)/kernel$", True),
    (r"^posemb", True),
    (r".*", False),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(leaf: jax.Array, stored: NamedSharding, dtype: jnp.dtype) -> jax.Array:
    """The leaf whole along fsdp, in `dtype`; its gradient goes back in shards."""
    axes = [
        tuple(a for a in names if a != "fsdp") for names in _axes(stored, leaf.ndim)
    ]
    whole = NamedSharding(stored.mesh, mesh_lib.partition(axes))
    return jax.lax.with_sharding_constraint(leaf.astype(dtype), whole)


def _gather_forward(
    leaf: jax.Array, stored: NamedSharding, dtype: jnp.dtype
) -> tuple[jax.Array, None]:
    return _gather(leaf, stored, dtype), None


def _gather_backward(
    stored: NamedSharding, dtype: jnp.dtype, _: None, gradient: jax.Array
) -> tuple[jax.Array]:
    del dtype
    gradient = jax.lax.with_sharding_constraint(gradient, stored)
    return (gradient.astype(jnp.float32),)


_gather.defvjp(_gather_forward, _gather_backward)


@dataclass(frozen=True)
class Layout:
    """A layout of a run's state; from `make`.

    Attributes:
        name: Key of `LAYOUTS`.
        state: The sharding of every leaf of the state.
        placement: For the model's calls, with parameters from `enter`.
        enter: From stored parameters to those the model is called with; differentiable.
        gather: Applied once a step, before the microbatches.
        scatter: From the gradients of what `gather` gives to those of the stored.
    """

    name: str
    state: Any
    placement: Placement
    enter: Callable[[Params], Params]
    gather: Callable[[Params], Params]
    scatter: Callable[[Params], Params]


def placed(name: str, abstract: Any, mesh: Mesh) -> Any:
    """Returns shapes with the shardings that a layout gives them.

    Args:
        name: Key of `LAYOUTS`.
        abstract: Shapes, of parameters or of a whole state.
        mesh: From `mesh.make_mesh`.
    """
    shardings = axes_lib.shardings(abstract, mesh, LAYOUTS[name].rules)
    return mesh_lib.with_shardings(abstract, shardings)


def make(
    name: str, abstract: Any, mesh: Mesh, *, dtype: str, microbatches: int = 1
) -> Layout:
    """Returns the layout of a state on a mesh.

    Args:
        name: Key of `LAYOUTS`.
        abstract: The `TrainState` of shapes.
        mesh: From `mesh.make_mesh`.
        dtype: Of the activations.
        microbatches: Of a step. With several "zero1" gathers everything before the
            first, and keeps it.
    """
    kind = LAYOUTS[name]
    sharded = kind.sharded and mesh.shape["fsdp"] > 1
    state = axes_lib.shardings(abstract, mesh, kind.rules)
    if mesh.size == 1:
        return Layout(name, state, NOWHERE, tree.same, tree.same, tree.same)
    pin = _pinned(mesh)
    if not sharded:
        return Layout(name, state, Placement(pin), tree.same, tree.same, tree.same)
    stored = state.params

    def gather_all(params: Params) -> Params:
        return _gather_tree(params, stored, abstract.params, jnp.dtype(dtype))

    def scatter(gradients: Params) -> Params:
        gradients = jax.lax.with_sharding_constraint(gradients, stored)
        return jax.tree.map(lambda g: g.astype(jnp.float32), gradients)

    if microbatches > 1 and not kind.regathers:
        return Layout(name, state, Placement(pin), tree.same, gather_all, scatter)
    enter, gather_block = _by_block(stored, abstract.params, jnp.dtype(dtype))
    placement = Placement(pin, gather_block, kind.regathers)
    return Layout(name, state, placement, enter, tree.same, scatter)


def jit_step(
    train_step: Callable[..., Any],
    layout: Layout,
    mesh: Mesh,
    frozen: Sequence[Params] = (),
) -> Any:
    """Returns a step compiled, to be called as it is; the state is donated.

    Args:
        train_step: `(state, batch, *frozen) -> (state, metrics)`.
        layout: Of the state.
        mesh: Of all devices.
        frozen: Shapes with shardings.
    """
    beside = [jax.tree.map(lambda leaf: leaf.sharding, params) for params in frozen]
    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(layout.state, mesh_lib.batch_sharding(mesh), *beside),
        out_shardings=(layout.state, mesh_lib.replicated(mesh)),
        compiler_options=xla.options(mesh),
    )


def _pinned(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    sharding = mesh_lib.batch_sharding(mesh)
    return lambda x: jax.lax.with_sharding_constraint(x, sharding)


def _by_block(
    stored: Params, shapes: Params, dtype: jnp.dtype
) -> tuple[Callable[[Params], Params], Callable[[Params], Params]]:
    """Functions that gather what is outside the blocks, and one block."""

    def enter(params: Params) -> Params:
        rest = {name: value for name, value in params.items() if name != BLOCKS}
        outside = {name: stored[name] for name in rest}
        rest = _gather_tree(rest, outside, {n: shapes[n] for n in rest}, dtype)
        if BLOCKS not in stored:
            return rest
        # All layers at once: compilers put the view of one behind its gather.
        blocks = jax.tree.map(_as_gathered, params[BLOCKS], stored[BLOCKS])
        return rest | {BLOCKS: blocks}

    if BLOCKS not in stored:
        return enter, tree.same
    one = {BLOCKS: jax.tree.map(_without_layers, stored[BLOCKS])}
    whole = {
        BLOCKS: jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype),
            shapes[BLOCKS],
        )
    }

    def gather_block(params: Params) -> Params:
        return _gather_tree({BLOCKS: params}, one, whole, dtype)[BLOCKS]

    return enter, gather_block


def _without_layers(sharding: NamedSharding) -> NamedSharding:
    return NamedSharding(sharding.mesh, P(*sharding.spec[1:]))


def _gather_tree(
    params: Params, stored: Params, shapes: Params, dtype: jnp.dtype
) -> Params:
    """Gathers every sharded leaf, to its own shape; the others stay as they are."""

    def gather(
        name: str, leaf: jax.Array, sharding: NamedSharding, whole: jax.Array
    ) -> jax.Array:
        if not _over_fsdp(sharding):
            return leaf
        cast = tree.first_match(CAST, name)
        view, where = _merged(whole.shape, sharding)
        gathered = _gather(leaf.reshape(view), where, dtype if cast else leaf.dtype)
        # A partial hides from pyright what a custom_vjp returns.
        return gathered.reshape(whole.shape)  # pyright: ignore[reportAttributeAccessIssue]

    return tree.map_named(gather, params, stored, shapes)


def _axes(sharding: NamedSharding, dimensions: int) -> list[tuple[str, ...]]:
    """The mesh axes of every dimension of an array."""
    names = [(n,) if isinstance(n, str) else tuple(n or ()) for n in sharding.spec]
    return names + [()] * (dimensions - len(names))


def _over_fsdp(sharding: NamedSharding) -> bool:
    return any("fsdp" in names for names in _axes(sharding, len(sharding.spec)))


def _merged(
    shape: tuple[int, ...], sharding: NamedSharding
) -> tuple[tuple[int, ...], NamedSharding]:
    """A view whose last axes are merged as far as the shards allow.

    On TPU the last axis fills lanes of 128. Heads of 64 would travel in half empty
    ones, and the products of their gradients be laid out alike: 8 % of an L/16 step.
    """
    sizes: list[int] = []
    kept: list[tuple[str, ...]] = []
    for size, names in zip(shape, _axes(sharding, len(shape))):
        # What follows a dimension cut by tensor alone lies within its parts.
        if not names and sizes and "fsdp" not in kept[-1]:
            sizes[-1] *= size
        else:
            sizes.append(size)
            kept.append(names)
    return tuple(sizes), NamedSharding(sharding.mesh, mesh_lib.partition(kept))


def _as_gathered(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    """A stacked leaf with the rest of its shape as it is gathered."""
    if not _over_fsdp(sharding):
        return leaf
    view, _ = _merged(leaf.shape[1:], _without_layers(sharding))
    return leaf.reshape(leaf.shape[0], *view)
