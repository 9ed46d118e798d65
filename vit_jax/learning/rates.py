"""What of a model is trained, and at which share of the learning rate: by leaf, layer.

Blocks are stacked, so one leaf holds all layers; it has one factor a layer.

Layer decay is that of BEiT (arXiv 2106.08254; `get_num_layer_for_vit` and
`LayerDecayValueAssigner` in its code), MAE and timm (`param_groups_layer_decay`): with
`d` blocks, block i (from 0) learns at decay^(d - i), the stem at decay^(d + 1), all
that comes after the blocks at 1. A ResNet has its stages in the place of blocks.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import errors, tree
from vit_jax.types import Params

# What `freeze` calls parts of a model: the regex of their leaves. "[...]" behind blocks
# or stages takes some of them.
PARTS: dict[str, str] = {
    "all": "",
    "stem": r"^(patch_embed|cls|registers|mask_token|posemb|stem_norm|resnet|root)\b",
    "blocks": r"^(lora/)?blocks/",
    "stages": r"^stage\d+/",
    "attention": r"^blocks/.*attn/",
    "mlp": r"^blocks/.*(mlp|tokens|channels)/",
    "norms": r"norm\w*/(scale|bias)$",
    "biases": r"/bias$",
    "head": r"^(head|head_dist|patch_head)/",
    "lora": r"^lora/",
}
GROUPS = 24  # of the table
_WORD = re.compile(r"([+-]?)([a-z]+)(?:\[(\d*)(:?)(\d*)\])?")
_STAGE = re.compile(r"^stage(\d+)/")


@dataclass(frozen=True)
class Group:
    """Some parameters with one factor of the learning rate.

    Attributes:
        name: What they are, with the blocks if it is not all of them.
        parameters: How many.
        factor: Of the learning rate; 0: frozen.
    """

    name: str
    parameters: int
    factor: float


@dataclass(frozen=True)
class Rates:
    """Factors of the learning rate.

    Attributes:
        shapes: The parameters' shapes.
        factors: By leaf name; float32 [layer] of a stacked leaf whose layers differ, 0
            where nothing is trained.
    """

    shapes: Params
    factors: Mapping[str, float | np.ndarray]

    def of(self, name: str) -> float | np.ndarray:
        """Returns the factor of a leaf, or those of its layers."""
        return self.factors[name]

    def halted(self, params: Params) -> Params:
        """Returns the parameters with no gradient for leaves that are frozen whole."""
        return tree.map_named(
            lambda name, leaf: (
                leaf if np.any(self.factors[name]) else jax.lax.stop_gradient(leaf)
            ),
            params,
        )

    def kept(self, new: Params, old: Params) -> Params:
        """Returns the new values of what is trained, the old ones of what is not."""

        def keep(name: str, new: jax.Array, old: jax.Array) -> jax.Array:
            trained = np.asarray(self.factors[name]) > 0
            if trained.all():
                return new
            mask = np.reshape(trained, trained.shape + (1,) * (new.ndim - trained.ndim))
            return jnp.where(mask, new, old) if trained.any() else old

        return tree.map_named(keep, new, old)

    @property
    def frozen_blocks(self) -> int:
        """How many blocks, from the first, have no parameter that is trained."""
        of_blocks = {
            name: leaf.shape[0]
            for name, leaf in tree.named_leaves(self.shapes)
            if re.search(PARTS["blocks"], name)
        }
        if not of_blocks:
            return 0
        depth = next(iter(of_blocks.values()))
        trained = np.zeros(depth, bool)
        for name in of_blocks:
            trained |= np.broadcast_to(np.asarray(self.factors[name]) > 0, depth)
        return int(np.argmax(trained)) if trained.any() else depth

    def groups(self) -> list[Group]:
        """Returns the parameters in groups of one factor, in the order of the names."""
        sizes: dict[tuple[str, float], int] = {}
        where: dict[tuple[str, float], set[str]] = {}
        layers: dict[tuple[str, float], set[int]] = {}
        depth = 1
        for name, leaf in tree.named_leaves(self.shapes):
            first, _, rest = name.partition("/")
            stacked = re.search(PARTS["blocks"], name)
            count = leaf.shape[0] if stacked else 1
            depth = max(depth, count)
            for layer, factor in enumerate(np.broadcast_to(self.factors[name], count)):
                key = first, float(factor)
                sizes[key] = sizes.get(key, 0) + leaf.size // count
                where.setdefault(key, set()).add(rest.split("/")[0])
                layers.setdefault(key, set()).update([layer] if stacked else [])
        every: dict[str, set[str]] = {first: set() for first, _ in sizes}
        for (first, _), names in where.items():
            every[first] |= names
        return [
            Group(
                key[0] + _slice(layers[key], depth) + _only(where[key], every[key[0]]),
                size,
                key[1],
            )
            for key, size in sizes.items()
        ]


def _slice(layers: set[int], depth: int) -> str:
    """The blocks of a group, "" where it is all or none."""
    if len(layers) in (0, depth):
        return ""
    first, last = min(layers), max(layers)
    if last - first + 1 != len(layers):
        return str(sorted(layers))
    return f"[{first}]" if first == last else f"[{first}:{last + 1}]"


def _only(names: set[str], every: set[str]) -> str:
    return "" if names == every else f" ({', '.join(sorted(names))})"


def rows(some: Sequence[Group]) -> list[tuple[str, str, str]]:
    """Returns parameters, how many, and their shares of the learning rate, as texts.

    Of more than `GROUPS` groups, those in the middle are one line.
    """
    found = [
        (group.name, f"{group.parameters:,}", f"{group.factor:.6g} of the rate")
        if group.factor
        else (group.name, f"{group.parameters:,}", "frozen")
        for group in some
    ]
    if len(found) > GROUPS:
        left = len(found) - GROUPS + 1
        middle = GROUPS // 2
        found[middle : middle + left] = [(f"... {left} more", "", "")]
    return found


def table(some: Sequence[Group]) -> str:
    """Returns `rows` as one text."""
    found = rows(some)
    width = max(len(name) for name, _, _ in found)
    lines = [f"  {name.ljust(width)} {n:>15}  {rate}" for name, n, rate in found]
    return "\n".join(line.rstrip() for line in lines)


def make(
    shapes: Params,
    *,
    layer_decay: float = 1.0,
    freeze: str = "",
    lr_rules: tree.Rules[float] = (),
) -> Rates:
    """Returns the factors of all leaves: the product of what is asked for.

    Args:
        shapes: Parameters, or their shapes.
        layer_decay: See the module.
        freeze: Names of `PARTS`, each after "+" or "-": what is frozen, and what of it
            is trained again, in this order: "stem+blocks[:6]", "all-norms-head".
        lr_rules: `(regex, factor)` over names, first match wins, 1 where none does.

    Raises:
        UserError: a part, blocks or stages that this model does not have.
    """
    named = dict(tree.named_leaves(shapes))
    exponents = _exponents(named) if layer_decay != 1.0 else {}
    frozen = _frozen(named, freeze)
    rules = (*lr_rules, (r".*", 1.0))
    factors: dict[str, float | np.ndarray] = {}
    for name in named:
        decay = layer_decay ** exponents[name] if exponents else np.float64(1)
        product = tree.first_match(rules, name) * decay
        kept = np.where(frozen[name], 0.0, product).astype(np.float32)
        same = kept.ndim == 0 or (kept == kept[0]).all()
        factors[name] = float(kept.flat[0]) if same else kept
    return Rates(shapes, factors)


def _exponents(named: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """The powers of the layer decay by leaf, [layer] of a stacked one."""
    depth = _depth(named)
    if not depth:
        raise errors.UserError(
            "optimizer.layer_decay: this model has neither blocks nor stages; leave it "
            "at 1.0"
        )
    found: dict[str, np.ndarray] = {}
    for name in named:
        power = np.asarray(0.0)
        if re.search(PARTS["stem"], name):
            power = np.asarray(depth + 1.0)
        elif re.search(PARTS["blocks"], name):
            power = np.arange(depth, 0, -1, dtype=np.float64)
        elif stage := _STAGE.match(name):
            power = np.asarray(depth + 1.0 - int(stage[1]))
        found[name] = power
    return found


def _depth(named: Mapping[str, jax.ShapeDtypeStruct]) -> int:
    """The number of blocks, of a ResNet its stages; 0: there are neither."""
    for name, leaf in named.items():
        if re.search(PARTS["blocks"], name):
            return leaf.shape[0]
    return max([int(m[1]) for m in map(_STAGE.match, named) if m], default=0)


def _frozen(
    named: Mapping[str, jax.ShapeDtypeStruct], freeze: str
) -> dict[str, np.ndarray]:
    """Whether each leaf is frozen, [layer] of a stacked one."""
    frozen = {
        name: np.zeros(leaf.shape[:1] if re.search(PARTS["blocks"], name) else (), bool)
        for name, leaf in named.items()
    }
    for sign, part, low, colon, high in _WORD.findall(freeze):
        errors.lookup(PARTS, part, f"optimizer.freeze={freeze!r}: the part")
        chosen = [name for name in named if re.search(PARTS[part], name)]
        if not chosen:
            starts = dict.fromkeys(name.split("/")[0] for name in named)
            raise errors.UserError(
                f"optimizer.freeze={freeze!r}: this model has no {part}; it has "
                f"{', '.join(starts)}"
            )
        numbers = _numbers(low, colon, high, _depth(named), f"{part} in {freeze!r}")
        for name in chosen:
            if stage := _STAGE.match(name):
                if int(stage[1]) - 1 in numbers:
                    frozen[name] = np.asarray(sign != "-")
            elif frozen[name].ndim:
                frozen[name][numbers] = sign != "-"
            else:
                frozen[name] = np.asarray(sign != "-")
    if all(leaf.all() for leaf in frozen.values()):
        raise errors.UserError(
            f"optimizer.freeze={freeze!r} freezes everything; want something left to "
            "train, as in 'all-head'"
        )
    return frozen


def _numbers(low: str, colon: str, high: str, depth: int, what: str) -> Sequence[int]:
    """The layers that "[low:high]" or "[low]" takes; without brackets, all."""
    start = int(low or 0)
    stop = int(high or depth) if colon or not low else start + 1
    if start >= max(stop, 1) or stop > depth > 0:
        raise errors.UserError(
            f"optimizer.freeze: {what} takes {start} to {stop} of {depth}; want some "
            "of them, as in blocks[:6] or blocks[3]"
        )
    return range(start, stop)
