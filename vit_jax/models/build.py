"""From an `Architecture` to a module, and between modules and plain parameters."""

import functools
from typing import TYPE_CHECKING, Any, TypeVar

import jax
from flax import nnx

from vit_jax.models import families
from vit_jax.models.architecture import Architecture
from vit_jax.types import Params

if TYPE_CHECKING:
    from vit_jax.models.model import Model

M = TypeVar("M", bound=nnx.Module)


def create(architecture: Architecture, *, rngs: nnx.Rngs) -> "Model":
    """Returns a model with fresh parameters (the initialisers of the released code)."""
    graphdef, _ = abstract(architecture)
    return merge(graphdef, _initialize(architecture, rngs.params()))


@functools.partial(jax.jit, static_argnums=0)
def _initialize(architecture: Architecture, key: jax.Array) -> Params:
    return split(
        families.family_of(architecture).module(architecture, rngs=nnx.Rngs(key))
    )[1]


def split(model: M) -> tuple[nnx.GraphDef[M], Params]:
    """Returns the static graph definition and the parameters as nested dicts."""
    graphdef, state = nnx.split(model)
    return graphdef, nnx.to_pure_dict(state)


def merge(graphdef: nnx.GraphDef[M], params: Params) -> M:
    """Returns the model of `split`'s two halves; cheap, also inside `jax.jit`."""
    return nnx.merge(graphdef, params)


@functools.cache
def _abstract(architecture: Architecture) -> "tuple[nnx.GraphDef[Model], Any]":
    module = families.family_of(architecture).module
    model = nnx.eval_shape(lambda: module(architecture, rngs=nnx.Rngs(0)))
    return split(model)


def abstract(architecture: Architecture) -> "tuple[nnx.GraphDef[Model], Params]":
    """Returns `split` of the model with `ShapeDtypeStruct`s: no array is made."""
    graphdef, params = _abstract(architecture)
    return graphdef, jax.tree.map(lambda leaf: leaf, params)


def count_parameters(architecture: Architecture) -> int:
    """Returns the number of parameters."""
    _, params = abstract(architecture)
    return sum(leaf.size for leaf in jax.tree.leaves(params))
