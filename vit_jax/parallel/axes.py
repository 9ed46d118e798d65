"""What the dimensions of every leaf are, and which parts of a mesh they are cut over.

Two tables. `LEAVES` gives each dimension of each leaf a logical name. The rules of a
layout say which mesh axis cuts which of those: see `layouts.LAYOUTS`, where another
layout is one more row.
"""

import logging
import math
import re
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh, NamedSharding

from vit_jax import tree
from vit_jax.parallel import mesh as mesh_lib

# Rows of (logical axis, mesh axis). A mesh axis cuts at most one dimension of a leaf:
# the first row wins whose logical axis the leaf has. Rows that meet in one dimension
# cut it over both.
Rules = Sequence[tuple[str, str]]

# Of leaves that stay whole in every layout and whose rank says nothing.
WHOLE: tuple[str, ...] = ()

_CONVOLUTION = ("kernel_rows", "kernel_columns", "channels")

# Leaf name -> logical axes. First match wins. The optimizer's moments carry the same
# names behind a prefix, so the rows serve them too. Vectors (biases, norms, tokens)
# have axes of their own: "features" is a width, too, but cutting a vector saves nothing
# and costs a collective. So do the map head and the MLPs over tokens, whose heads and
# hidden widths no tensor axis cuts.
LEAVES: tree.Rules[tuple[str, ...]] = (
    (r"/v_(row|col)/", WHOLE),  # Adafactor's: small, and without the leaf's dimensions
    (r"/count$", WHOLE),  # of updates, one a layer
    # Low-rank changes of the blocks' weights: small, and needed whole everywhere.
    (r"lora/.*/a$", ("layer", "changed_inputs", "rank")),
    (r"lora/.*/b$", ("layer", "rank", "changed_outputs")),
    # The head that pools by attention.
    (r"map/attn/(query|key|value)/kernel$", ("embed", "pool_heads", "head_width")),
    (r"map/attn/(query|key|value)/bias$", ("pool_heads", "head_width")),
    (r"map/attn/out/kernel$", ("pool_heads", "head_width", "embed")),
    (r"map/mlp/up/kernel$", ("embed", "pool_hidden")),
    (r"map/mlp/down/kernel$", ("pool_hidden", "embed")),
    (r"map/(attn/out|mlp/up|mlp/down)/bias$", ("features",)),
    (r"map/probe$", ("broadcast", "positions", "features")),
    # The blocks. Nothing may cut "layer": scan slices it.
    (r"attn/(query|key|value)/kernel$", ("layer", "embed", "heads", "head_width")),
    (r"attn/(query|key|value)/bias$", ("layer", "heads", "head_width")),
    (r"attn/out/kernel$", ("layer", "heads", "head_width", "embed")),
    (r"attn/(query|key)_norm/(scale|bias)$", ("layer", "features")),
    (r"attn/frequencies$", ("layer", "broadcast", "heads", "features")),
    (r"attn/relative$", ("layer", "offsets", "offset_heads", "head_width")),
    (r"(mlp|channels)/(up|gate)/kernel$", ("layer", "embed", "hidden")),
    (r"(mlp|channels)/(up|gate)/bias$", ("layer", "hidden_bias")),
    (r"(mlp|channels)/down/kernel$", ("layer", "hidden", "embed")),
    (r"tokens/up/kernel$", ("layer", "tokens", "token_hidden")),
    (r"tokens/down/kernel$", ("layer", "token_hidden", "tokens")),
    (
        r"blocks/.*(norm\d/(scale|bias)|(out|up|down)/bias|scale\d)$",
        ("layer", "features"),
    ),
    (r"blocks/posemb$", ("layer", "broadcast", "positions", "embed")),
    (r"blocks/posemb/(row|column|prefix)$", ("layer", "positions", "features")),
    # What comes before and after them.
    (r"posemb$", ("broadcast", "positions", "embed")),
    (r"posemb/(row|column|prefix)$", ("positions", "features")),
    (r"(vertical|horizontal)/relative$", ("head_width", "offsets")),
    (r"relative$", ("offsets", "offset_heads", "head_width")),
    (r"(cls|registers|mask_token)$", ("broadcast", "positions", "features")),
    (r"patch_embed/kernel$", (*_CONVOLUTION, "embed")),
    (r"pre_logits/kernel$", ("embed", "representation")),
    (r"patch_head/kernel$", ("embed", "targets")),
    (r"(head|head_dist)/kernel$", ("embed", "classes")),
    (r"(patch_embed|pre_logits|patch_head|head|head_dist)/bias$", ("features",)),
    (r"norm\w*/(scale|bias)$", ("features",)),
    # ResNets.
    (r"conv\w*/kernel$", (*_CONVOLUTION, "filters")),
    (r"qkv/kernel$", ("channels", "filters")),
)
LOGICAL = frozenset(name for _, names in LEAVES for name in names)


def of_leaf(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Returns the logical axis of each dimension of a leaf.

    Args:
        name: As `tree.named_leaves` gives it, of parameters or of a whole state.
        shape: Of the leaf.

    Returns:
        As many names as the leaf has dimensions, or `WHOLE`.

    Raises:
        ValueError: no row of `LEAVES` is for this leaf, or not with these dimensions.
    """
    if not shape:  # counters, and what else has nothing to name
        return WHOLE
    found = next((axes for rule, axes in LEAVES if re.search(rule, name)), None)
    if found is None:
        raise ValueError(
            f"{name} {shape} matches no row of parallel.axes.LEAVES: add one, with the "
            f"names of its {len(shape)} dimensions; there are {sorted(LOGICAL)}"
        )
    if len(found) == len(shape) or found == WHOLE:
        return found
    if shape[-1] == 1:  # where a moment is kept in factors optax keeps a place for it
        return WHOLE
    raise ValueError(
        f"{name} {shape} has {len(shape)} dimensions, its row in parallel.axes.LEAVES "
        f"{len(found)}, {found}: add a row of its own before that one"
    )


def check(rules: Rules) -> None:
    """Raises `ValueError` for rules that name what no leaf or no mesh has.

    And for rules that cut "layer": a scan slices it.
    """
    cuttable = LOGICAL - {"layer"}
    for logical, axis in rules:
        if logical not in cuttable or axis not in mesh_lib.AXES:
            raise ValueError(
                f"({logical!r}, {axis!r}) in the rules of a layout: want one of "
                f"{sorted(cuttable)} and one of {mesh_lib.AXES}"
            )


def shardings(abstract: Any, mesh: Mesh, rules: Rules, *, quiet: bool = False) -> Any:
    """Returns the `NamedSharding` of every leaf of `abstract`.

    A leaf whose dimension a mesh axis does not divide stays whole along that axis and
    is named in the log, unless `quiet`.

    Args:
        abstract: Shapes, of parameters or of a whole state.
        mesh: From `mesh.make_mesh`, or an abstract one.
        rules: Of a layout.
        quiet: Say nothing of what stays whole.

    Raises:
        ValueError: a leaf that `LEAVES` does not know; see `of_leaf` and `check`.
    """
    check(rules)
    whole: dict[str, list[str]] = {}

    def leaf_sharding(name: str, leaf: Any) -> NamedSharding:
        logical = of_leaf(name, leaf.shape)
        cuts: list[tuple[str, ...]] = [()] * leaf.ndim
        used = set()
        for wanted, axis in rules:
            size = mesh.shape[axis]
            if size == 1 or axis in used or wanted not in logical:
                continue
            used.add(axis)
            dimension = logical.index(wanted)
            parts = size * math.prod(mesh.shape[a] for a in cuts[dimension])
            if leaf.shape[dimension] % parts:
                whole.setdefault(axis, []).append(f"{name} {leaf.shape}")
            else:
                cuts[dimension] += (axis,)
        return NamedSharding(mesh, mesh_lib.partition(cuts))

    result = tree.map_named(leaf_sharding, abstract)
    for axis, names in whole.items() if not quiet else ():
        logging.info(
            *("not sharded, %s=%d divides no: %s", axis, mesh.shape[axis]),
            "; ".join(names),
        )
    return result
