"""Names of pytree leaves ("blocks/attn/query/kernel") and tables of rules over them."""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

T = TypeVar("T")
Rules = Sequence[tuple[str, T]]


def same(value: T) -> T:
    """Returns what it is given: the default of a function that may change it."""
    return value


def leaf_name(path: tuple) -> str:
    """Joins a key path of `jax.tree_util` with slashes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Returns `(name, leaf)` of every leaf, in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(leaf_name(path), leaf) for path, leaf in leaves]


def map_named(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Maps `function(name, leaf, *leaves_of_rest)` over the leaves of `tree`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(leaf_name(path), *leaves), tree, *rest
    )


def first_match(rules: Rules[T], name: str, what: str = "rules") -> T:
    """Returns the value of the first rule whose regex is found in `name`.

    Raises:
        ValueError: no rule matches; a table must end with a catch-all if it means one.
    """
    for pattern, value in rules:
        if re.search(pattern, name):
            return value
    patterns = [pattern for pattern, _ in rules]
    raise ValueError(f"{what}: no rule matches leaf {name!r}; rules: {patterns}")


def from_named(named: dict[str, Any]) -> dict[str, Any]:
    """Builds nested dicts from `{"a/b/c": leaf}`; the inverse of `named_leaves`."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree
