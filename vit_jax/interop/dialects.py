"""The table of dialects: how to recognise, read and write each."""

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from vit_jax import errors
from vit_jax.interop import google
from vit_jax.interop.rules import Rule, listed

Leaves = dict[str, np.ndarray]


def _same(leaves: Leaves) -> Leaves:
    return leaves


@dataclass(frozen=True)
class Dialect:
    """Names of another code's parameters.

    Attributes:
        rules: Between our leaf names and theirs.
        marker: A regex that one of a file's names matches and no other dialect's.
        prefix: Put before their names when they are written.
        loaded: Applied to our leaves after the rules.
        saved: Its inverse, before the rules.
    """

    rules: list[Rule]
    marker: str
    prefix: str = ""
    loaded: Callable[[Leaves], Leaves] = _same
    saved: Callable[[Leaves], Leaves] = _same


_BIG_VISION = {
    "prefix": "params/",
    "loaded": google.add_class_position,
    "saved": google.fold_class_position,
}
# The first whose marker is found is taken.
DIALECTS: dict[str, Dialect] = {
    "google_old": Dialect(
        google.GOOGLE_OLD,
        r"Transformer/encoderblock_\d+/MultiHeadDotProductAttention_1/.*",
    ),
    "google": Dialect(google.GOOGLE, r"Transformer/posembed_input/pos_embedding"),
    "big_vision_scan": Dialect(
        google.BIG_VISION_SCAN,
        r"Transformer/encoderblock/MultiHeadDotProductAttention_0/.*",
        **_BIG_VISION,
    ),
    "big_vision": Dialect(google.BIG_VISION, r"pos_embedding", **_BIG_VISION),
}

# What stands before the weights' names in a file of a whole training state.
PREFIXES = ("opt/target/", "params/")


def select(names: Iterable[str]) -> tuple[str, list[str]]:
    """Returns the prefix of the weights' names and the names that have it.

    What else such a file holds (optimizer, counters) is logged, not read.
    """
    names = list(names)
    for prefix in PREFIXES:
        chosen = [name for name in names if name.startswith(prefix)]
        if not chosen:
            continue
        rest = sorted(set(names) - set(chosen))
        if rest:
            logging.info(
                "%d tensors outside %r are not weights and are not read: %s",
                *(len(rest), prefix, ", ".join(rest[:3])),
            )
        return prefix, chosen
    return "", names


def recognise(names: Iterable[str]) -> str:
    """Returns the dialect that weights of these names are in.

    Raises:
        errors.UserError: none.
    """
    names = list(names)
    for dialect, entry in DIALECTS.items():
        if any(re.fullmatch(entry.marker, name) for name in names):
            return dialect
    raise errors.UserError(
        f"its {len(names)} tensors are of no layout we know "
        f"({', '.join(DIALECTS)}):\n{listed(sorted(names))}"
    )
