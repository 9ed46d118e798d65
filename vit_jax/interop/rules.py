"""Tables between our leaf names and another code's, used in both directions.

A rule pairs two templates: `Rule("blocks/norm1/{leaf}", "block_{layer}/LN_0/{leaf}")`.
A field in braces stands for one name between slashes (or a part of it) and must agree
on both sides; `{layer}` counts from 0, stands on their side only, and means that our
leaf stacks their tensors on a new first axis.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from vit_jax import errors

Function = Callable[[np.ndarray], np.ndarray]
LAYER = "layer"
MAX_LAYERS = 1000


def _same(array: np.ndarray) -> np.ndarray:
    return array


@dataclass(frozen=True)
class Rule:
    """One line of a dialect's table.

    Attributes:
        ours: Template of our leaf names.
        theirs: Template of their names.
        load: From one of their tensors to ours (before stacking).
        save: Its inverse.
    """

    ours: str
    theirs: str
    load: Function = _same
    save: Function = _same

    @property
    def stacked(self) -> bool:
        """Whether our leaf stacks one of their tensors a layer."""
        return "{layer}" in self.theirs


@functools.cache
def _pattern(template: str) -> re.Pattern:
    parts = re.split(r"\{(\w+)\}", template)
    regex = "".join(
        (r"(?P<%s>\d{1,4})" if part == LAYER else r"(?P<%s>[a-z0-9]+)") % part
        if i % 2
        else re.escape(part)
        for i, part in enumerate(parts)
    )
    return re.compile(regex)


def _find(
    rules: Iterable[Rule], side: str, name: str
) -> tuple[Rule, dict[str, str]] | None:
    for rule in rules:
        if found := _pattern(getattr(rule, side)).fullmatch(name):
            return rule, found.groupdict()
    return None


def load(rules: Iterable[Rule], theirs: Mapping[str, np.ndarray]) -> dict:
    """Returns our named leaves, float32; every tensor of theirs is used exactly once.

    Raises:
        errors.UserError: tensors that no rule claims, two that claim the same leaf,
            layers that are missing or do not have the same shape.
    """
    unclaimed, stacks = [], {}
    for name, array in theirs.items():
        found = _find(rules, "theirs", name)
        if found is None:
            unclaimed.append(name)
            continue
        rule, fields = found
        layer = int(fields.pop(LAYER, 0))
        leaf = stacks.setdefault(rule.ours.format(**fields), (rule, {}))
        if leaf[0] is not rule or layer in leaf[1]:
            raise errors.UserError(
                f"two tensors claim the leaf {rule.ours.format(**fields)!r}, one of "
                f"them {name!r}."
            )
        leaf[1][layer] = rule.load(array).astype(np.float32)
    if unclaimed:
        raise errors.UserError(
            f"{len(unclaimed)} of its {len(theirs)} tensors have no place in our "
            f"models:\n{listed(describe(theirs, unclaimed))}\n"
            "Such an architecture (or head) is not supported yet; leave them out of "
            "the file if they are not needed."
        )
    return {name: _stack(name, *leaf) for name, leaf in stacks.items()}


def _stack(name: str, rule: Rule, layers: dict[int, np.ndarray]) -> np.ndarray:
    if not rule.stacked:
        return layers[0]
    depth = max(layers) + 1
    missing = sorted(set(range(min(depth, MAX_LAYERS))) - set(layers))
    if missing or depth > MAX_LAYERS:
        raise errors.UserError(
            f"{rule.theirs}: layer {missing[:5] or depth} is missing of {depth}."
        )
    shapes = {layer.shape for layer in layers.values()}
    if len(shapes) > 1:
        raise errors.UserError(
            f"{rule.theirs}: the layers have different shapes {sorted(shapes)[:3]}; "
            f"{name} stacks them."
        )
    return np.stack([layers[i] for i in range(depth)])


def save(
    rules: Iterable[Rule], ours: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns their named tensors; the inverse of `load`.

    Raises:
        errors.UserError: leaves that the dialect has no name for.
    """
    theirs, unclaimed = {}, []
    for name, leaf in ours.items():
        found = _find(rules, "ours", name)
        if found is None:
            unclaimed.append(name)
            continue
        rule, fields = found
        if not rule.stacked:
            theirs[rule.theirs.format(**fields)] = rule.save(leaf)
            continue
        for i, layer in enumerate(leaf):
            theirs[rule.theirs.format(layer=i, **fields)] = rule.save(layer)
    if unclaimed:
        raise errors.UserError(
            f"the dialect has no name for {len(unclaimed)} leaves:\n"
            f"{listed(describe(ours, unclaimed))}"
        )
    return theirs


def describe(arrays: Mapping[str, np.ndarray], names: Iterable[str]) -> list[str]:
    """Returns "name shape" of the named arrays."""
    return [f"{name} {tuple(arrays[name].shape)}" for name in names]


def listed(lines: list[str], most: int = 5) -> str:
    """Returns at most `most` indented lines, and how many more there are."""
    text = [f"  {line[:120]}" for line in lines[:most]]
    if len(lines) > most:
        text.append(f"  ... and {len(lines) - most} more")
    return "\n".join(text)
