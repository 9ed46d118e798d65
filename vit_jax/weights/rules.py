"""Tables between our leaf names and another code's, used in both directions.

A rule pairs two templates: `Rule("blocks/norm1/{leaf}", "block_{layer}/LN_0/{leaf}")`.
A field in braces stands for one name between slashes (or a part of it) and must agree
on both sides; `{unit:02}` is a number written with two digits; `{layer}` counts from
0, stands on their side only, and means that our leaf stacks their tensors on a new
first axis.
"""

import functools
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.weights.source import Shape, Tensors

LAYER = "layer"
MAX_LAYERS = 1000


@dataclass(frozen=True)
class Sizes:
    """What functions of rules need to know of the model.

    Attributes:
        heads: Attention heads.
    """

    heads: int = 1


def _load(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    return array


def _save(*arrays: np.ndarray, sizes: Sizes) -> np.ndarray:
    return arrays[0]


@dataclass(frozen=True)
class Rule:
    """One line of a dialect's table.

    A dialect may spell the same leaf in several ways: all are read, the first is
    written.

    Attributes:
        ours: Template of our leaf names; a tuple of them where one tensor of theirs
            holds several of our leaves.
        theirs: Template of their names.
        load: `load(array, sizes)` gives ours from one of theirs (before stacking): an
            array, or for several leaves a tuple in the order of `ours`. It is also
            called with arrays of no content to learn the shapes, so it should only
            reshape, transpose, slice and join, and leave the dtype alone.
        save: Its inverse, `save(*arrays, sizes=sizes)`.
    """

    ours: str | tuple[str, ...]
    theirs: str
    load: Callable[..., Any] = _load
    save: Callable[..., np.ndarray] = _save

    @property
    def leaves(self) -> tuple[str, ...]:
        """`ours` as a tuple."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    @property
    def stacked(self) -> bool:
        """Whether our leaf stacks one of their tensors a layer."""
        return "{layer}" in self.theirs

    def loaded(self, array: np.ndarray, sizes: Sizes) -> tuple[np.ndarray, ...]:
        """Returns `load`'s arrays, one for each of `leaves`."""
        made = self.load(array, sizes)
        return (made,) if isinstance(self.ours, str) else tuple(made)


@functools.cache
def _pattern(template: str) -> re.Pattern:
    parts = re.split(r"\{(\w+)(:\d+)?\}", template)
    regex = re.escape(parts[0])
    for field, digits, text in zip(parts[1::3], parts[2::3], parts[3::3]):
        name = r"\d{1,4}" if field == LAYER else r"[a-z0-9]+"
        name = rf"\d{{{int(digits[1:])}}}" if digits else name
        regex += f"(?P<{field}>{name})" + re.escape(text)
    return re.compile(regex)


def _fill(template: str, fields: dict[str, str]) -> str:
    """Returns the name that a template and its fields make."""
    return re.sub(
        r"\{(\w+)(?::(\d+))?\}",
        lambda found: fields[found[1]].zfill(int(found[2] or 0)),
        template,
    )


def _fields(template: str, name: str) -> dict[str, str] | None:
    """Returns the fields of a name that fits a template; numbers have no zeros."""
    found = _pattern(template).fullmatch(name)
    if found is None:
        return None
    padded = set(re.findall(r"\{(\w+):\d+\}", template))
    return {
        field: str(int(value)) if field in padded else value
        for field, value in found.groupdict().items()
    }


def _empty(shape: Shape) -> np.ndarray:
    """An array of a shape that takes no memory."""
    return np.broadcast_to(np.float32(0), shape)


@dataclass
class _Leaf:
    """Where one of our leaves comes from: element `index` of what `rule` loads."""

    rule: Rule
    index: int
    layers: dict[int, str]


def load(
    rules: Iterable[Rule],
    theirs: Mapping[str, np.ndarray],
    sizes: Sizes = Sizes(),
    ignore: Iterable[str] = (),
) -> Tensors:
    """Returns our leaves, float32, made from theirs when they are read.

    Every tensor of theirs has exactly one place. No value is read to learn the shapes.

    Args:
        rules: The first that fits a name is taken.
        theirs: All of them.
        sizes: For the rules' functions.
        ignore: Regexes of names that are no parameters; such tensors are left out.

    Raises:
        errors.UserError: tensors that no rule claims, two that claim the same leaf,
            layers that are missing or do not have the same shape.
    """
    theirs = _tensors(theirs)
    ignored = [n for n in theirs if any(re.fullmatch(i, n) for i in ignore)]
    if ignored:
        logging.info(
            "%s: %d tensors are not of this model and are not read: %s",
            *(theirs.label, len(ignored), ", ".join(ignored[:3])),
        )
    leaves: dict[str, _Leaf] = {}
    unclaimed = []
    for name in theirs.names:
        if name not in ignored and not _claim(rules, name, leaves):
            unclaimed.append(name)
    if unclaimed:
        raise errors.UserError(
            f"{len(unclaimed)} of its {len(theirs.names)} tensors have no place in our "
            f"models:\n{listed(describe(theirs.shapes, unclaimed))}\n"
            "Such an architecture (or head) is not supported yet; leave them out of "
            "the file if they are not needed."
        )
    shapes = {
        name: _stacked_shape(name, leaf, theirs, sizes) for name, leaf in leaves.items()
    }
    return Tensors(
        shapes,
        lambda name: _stack(leaves[name], shapes[name], theirs, sizes),
        label=theirs.label,
        config=theirs.config,
        close=theirs.close,
    )


def _tensors(arrays: Mapping[str, np.ndarray]) -> Tensors:
    return arrays if isinstance(arrays, Tensors) else Tensors.of(arrays)


def _claim(rules: Iterable[Rule], name: str, leaves: dict[str, _Leaf]) -> bool:
    """Gives a tensor its place among `leaves`; False if no rule fits its name."""
    for rule in rules:
        fields = _fields(rule.theirs, name)
        if fields is None:
            continue
        layer = int(fields.pop(LAYER, 0))
        for index, template in enumerate(rule.leaves):
            ours = _fill(template, fields)
            leaf = leaves.setdefault(ours, _Leaf(rule, index, {}))
            if leaf.rule is not rule or leaf.index != index or layer in leaf.layers:
                raise errors.UserError(
                    f"two tensors claim the leaf {ours!r}, one of them {name!r}."
                )
            leaf.layers[layer] = name
        return True
    return False


def _layer_shape(leaf: _Leaf, name: str, theirs: Tensors, sizes: Sizes) -> Shape:
    shape = theirs.shapes[name]
    try:
        return leaf.rule.loaded(_empty(shape), sizes)[leaf.index].shape
    except (ValueError, IndexError, TypeError) as error:
        raise errors.UserError(
            f"tensor {name} has shape {shape}, which {leaf.rule.leaves[leaf.index]} "
            f"cannot be made of: {str(error)[:150]}"
        ) from None


def _stacked_shape(name: str, leaf: _Leaf, theirs: Tensors, sizes: Sizes) -> Shape:
    if not leaf.rule.stacked:
        return _layer_shape(leaf, leaf.layers[0], theirs, sizes)
    template, depth = leaf.rule.theirs, max(leaf.layers) + 1
    missing = sorted(set(range(min(depth, MAX_LAYERS))) - set(leaf.layers))
    if missing or depth > MAX_LAYERS:
        raise errors.UserError(
            f"{template}: layer {missing[:5] or depth} is missing of {depth}."
        )
    shapes = {_layer_shape(leaf, n, theirs, sizes) for n in leaf.layers.values()}
    if len(shapes) > 1:
        raise errors.UserError(
            f"{template}: the layers have different shapes {sorted(shapes)[:3]}; "
            f"{name} stacks them."
        )
    return (depth, *shapes.pop())


def _stack(leaf: _Leaf, shape: Shape, theirs: Tensors, sizes: Sizes) -> np.ndarray:
    """Makes one leaf, holding besides it one of their tensors at a time."""

    def layer(i: int) -> np.ndarray:
        return leaf.rule.loaded(theirs.read(leaf.layers[i]), sizes)[leaf.index]

    if not leaf.rule.stacked:
        return np.asarray(layer(0), np.float32)
    stacked = np.empty(shape, np.float32)
    for i, out in enumerate(stacked):
        out[...] = layer(i)
    return stacked


def save(
    rules: Iterable[Rule], ours: Mapping[str, np.ndarray], sizes: Sizes = Sizes()
) -> Tensors:
    """Returns their tensors, made from our leaves when they are read; undoes `load`.

    Raises:
        errors.UserError: leaves that the dialect has no name for.
    """
    ours = _tensors(ours)
    groups, unclaimed = {}, []
    for name in ours.names:
        found = _find_ours(rules, name)
        if found is None:
            unclaimed.append(name)
            continue
        rule, names = found
        groups[rule.theirs, names] = rule
        unclaimed += [n for n in names if n not in ours.shapes and n not in unclaimed]
    if unclaimed:
        present = [name for name in unclaimed if name in ours.shapes]
        absent = [f"{name} (missing)" for name in unclaimed if name not in ours.shapes]
        raise errors.UserError(
            f"the dialect has no name for {len(unclaimed)} leaves:\n"
            f"{listed(describe(ours.shapes, present) + absent)}"
        )

    @functools.lru_cache(maxsize=1)  # all layers of a leaf are asked for in a row
    def leaves(names: tuple[str, ...]) -> list[np.ndarray]:
        return [ours.read(name) for name in names]

    shapes, makers = {}, {}
    for (_, names), rule in groups.items():
        empty = [_empty(ours.shapes[name]) for name in names]
        shape = _saved(rule, empty, 0 if rule.stacked else None, sizes).shape
        for theirs, layer in _names_of(rule, names, empty):
            shapes[theirs] = shape
            makers[theirs] = (rule, names, layer)

    def read(theirs: str) -> np.ndarray:
        rule, names, layer = makers[theirs]
        return _saved(rule, leaves(names), layer, sizes)

    return Tensors(shapes, read, label=ours.label, close=ours.close)


def _find_ours(rules: Iterable[Rule], name: str) -> tuple[Rule, tuple[str, ...]] | None:
    """The first rule that says one of our leaves, and all leaves that it takes."""
    for rule in rules:
        for template in rule.leaves:
            fields = _fields(template, name)
            if fields is not None:
                return rule, tuple(_fill(other, fields) for other in rule.leaves)
    return None


def _names_of(
    rule: Rule, names: tuple[str, ...], arrays: list[np.ndarray]
) -> Iterator[tuple[str, int | None]]:
    """Yields their name and the layer of each tensor that a rule writes."""
    fields = _fields(rule.leaves[0], names[0])
    assert fields is not None, f"{names[0]!r} was found by this rule"
    if not rule.stacked:
        yield _fill(rule.theirs, fields), None
        return
    for layer in range(len(arrays[0])):
        yield _fill(rule.theirs, fields | {LAYER: str(layer)}), layer


def _saved(
    rule: Rule, arrays: list[np.ndarray], layer: int | None, sizes: Sizes
) -> np.ndarray:
    if layer is not None:
        arrays = [array[layer] for array in arrays]
    return rule.save(*arrays, sizes=sizes)


def describe(shapes: dict[str, Shape], names: Iterable[str]) -> list[str]:
    """Returns "name shape" of those named."""
    return [f"{name} {shapes[name]}" for name in names]


def listed(lines: list[str], most: int = 5) -> str:
    """Returns at most `most` indented lines, and how many more there are."""
    text = [f"  {line[:120]}" for line in lines[:most]]
    if len(lines) > most:
        text.append(f"  ... and {len(lines) - most} more")
    return "\n".join(text)
