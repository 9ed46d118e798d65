"""The table of dialects, and which one a file is in."""

import logging
import re
from collections.abc import Iterable

from vit_jax import errors
from vit_jax.interop import bit, google, huggingface, mixer, timm
from vit_jax.interop.dialect import Dialect
from vit_jax.interop.rules import listed

# The first whose marker is found is taken.
DIALECTS: dict[str, Dialect] = {
    **google.DIALECTS,
    **bit.DIALECTS,
    "mixer": Dialect(tuple(mixer.MIXER), mixer.MARKER, family="mixer"),
    "mixer_old": Dialect(tuple(mixer.MIXER_OLD), mixer.MARKER_OLD, family="mixer"),
    **timm.DIALECTS,
    **huggingface.DIALECTS,
}

# What stands before the weights' names in a file of a whole training state.
PREFIXES = ("opt/target/", "params/")


def select(names: Iterable[str], subtree: str = "") -> tuple[str, list[str]]:
    """Returns the prefix of the weights' names and the names that have it.

    What else such a file holds (optimizer, counters, other models) is logged, not read.

    Args:
        names: All of a file's.
        subtree: Of which model, where a file holds several: "img".

    Raises:
        errors.UserError: there is no such subtree.
    """
    names = list(names)
    starts = [p for p in PREFIXES if any(name.startswith(p) for name in names)]
    prefix = starts[0] if starts else ""
    if subtree:
        prefix += f"{subtree.strip('/')}/"
    chosen = [name for name in names if name.startswith(prefix)]
    if not chosen:
        known = sorted(
            {name.removeprefix(*starts[:1] or [""]).split("/")[0] for name in names}
        )
        raise errors.UserError(
            f"holds nothing under {prefix!r}; at the top are: "
            f"{', '.join(known[:10])[:300]}."
        )
    rest = sorted(set(names) - set(chosen))
    if rest:
        logging.info(
            "%d tensors outside %r are not these weights and are not read: %s",
            *(len(rest), prefix, ", ".join(rest[:3])),
        )
    return prefix, chosen


def recognise(names: Iterable[str]) -> str:
    """Returns the dialect that weights of these names are in.

    Raises:
        errors.UserError: none; says so if a part of them would be in one.
    """
    names = list(names)
    found = _recognise(names)
    if found is not None:
        return found
    parts = {}
    for name in names:
        head, slash, rest = name.partition("/")
        if slash:
            parts.setdefault(head, []).append(rest)
    models = [part for part in sorted(parts) if _recognise(parts[part])]
    if models:
        raise errors.UserError(
            f"it holds several models: {', '.join(models[:8])}.\n"
            f"Say which after a colon: FILE.npz:{models[0]}"
        )
    raise errors.UserError(
        f"its {len(names)} tensors are of no layout we know "
        f"({', '.join(DIALECTS)}):\n{listed(sorted(names))}"
    )


def _recognise(names: list[str]) -> str | None:
    for dialect, entry in DIALECTS.items():
        if any(re.fullmatch(entry.marker, name) for name in names):
            return dialect
    return None
