"""The table of dialects, and which one a file is in."""

import itertools
import logging
import re
from collections.abc import Iterable

from vit_jax import errors
from vit_jax.weights.dialect import Dialect
from vit_jax.weights.dialects import (
    bit,
    dinov3,
    google,
    huggingface,
    mixer,
    timm,
    timm_bit,
    torchvision,
    towers,
)
from vit_jax.weights.rules import listed

# The first whose marker is found is taken.
DIALECTS: dict[str, Dialect] = {
    **google.DIALECTS,
    **bit.DIALECTS,
    "mixer": Dialect(tuple(mixer.MIXER), mixer.MARKER, family="mixer"),
    "mixer_old": Dialect(tuple(mixer.MIXER_OLD), mixer.MARKER_OLD, family="mixer"),
    **timm.DIALECTS,
    "timm_bit": timm_bit.DIALECT,
    **towers.DIALECTS,
    "hf_dinov3": dinov3.DIALECT,
    **huggingface.DIALECTS,
    **torchvision.DIALECTS,
}

# What stands before the weights' names in a file of a whole training state.
PREFIXES = ("opt/target/", "params/")
# What PyTorch's programs call a model inside of a training state or of a module; the
# first two wrap a whole module (DataParallel, torch.compile).
WRAPPED = ("module", "_orig_mod")
AVERAGES = ("model_ema", "ema", "ema_model", "state_dict_ema", "ema_state_dict")
MODELS = (
    *(*WRAPPED, *AVERAGES, "model", "state_dict", "model_state_dict", "params", "net"),
    *("network", "backbone", "encoder"),
)
# Two models of one training, of which neither is the other's average for sure.
PAIR = ("teacher", "student")

MAX_STEPS = 12  # that a model is looked for below the top

_MARKER = re.compile("|".join(f"(?:{entry.marker})" for entry in DIALECTS.values()))


def select(
    names: Iterable[str], subtree: str = "", suffix: str = ".npz"
) -> tuple[str, list[str]]:
    """Returns the prefix of the weights' names and the names that have it.

    In a file of a training state it is found where the names of a dialect are: of
    nested dicts ("model/blocks.0...") as of modules ("module.blocks.0..."). Of a model
    and its running average it is the average, as in our own checkpoints and in timm's
    programs. What else such a file holds (optimizer, counters, other models) is
    logged, not read.

    Args:
        names: All of a file's.
        subtree: Of which model, where a file holds several: "img".
        suffix: Of the file, for messages.

    Raises:
        errors.UserError: there is no such subtree, or several models and no telling
            which is meant.
    """
    names = list(names)
    starts = [p for p in PREFIXES if any(name.startswith(p) for name in names)]
    outer = prefix = starts[0] if starts else ""
    if subtree:
        prefix += _subtree([n for n in names if n.startswith(prefix)], prefix, subtree)
    inside = [name for name in names if name.startswith(prefix)]
    asked, prefix = prefix, prefix + _model(inside, prefix, outer, suffix)
    chosen = [name for name in inside if name.startswith(prefix)]
    taken = set(chosen)
    module = prefix[: prefix.rfind("/") + 1]
    beside = [n for n in inside if n.startswith(module) and n not in taken]
    if set(_steps(prefix[len(module) :].removeprefix(asked))) <= set(WRAPPED):
        _check_wrapped(chosen, beside if prefix != asked else [], prefix, suffix)
    _log_rest(logging.WARNING, beside, prefix)
    _log_rest(logging.INFO, sorted({*names} - taken - {*beside}), prefix)
    return prefix, chosen


def _log_rest(level: int, rest: list[str], prefix: str) -> None:
    if rest:
        logging.log(
            level,
            "%d tensors outside %r are not these weights and are not read: %s",
            *(len(rest), prefix, ", ".join(rest[:3])),
        )


def _subtree(names: list[str], prefix: str, subtree: str) -> str:
    """The start of names, after a prefix they share, that is asked for."""
    wanted = subtree.strip("/.")
    for end in ("/", "."):
        if any(name.startswith(f"{prefix}{wanted}{end}") for name in names):
            return f"{wanted}{end}"
    known = sorted({re.split("[/.]", n.removeprefix(prefix))[0] for n in names})
    raise errors.UserError(
        f"holds nothing under {prefix + wanted + '/'!r}; at the top are: "
        f"{', '.join(known[:10])[:300]}."
    )


def _model(names: list[str], prefix: str, outer: str, suffix: str) -> str:
    """Where below a prefix the model is; "" where nothing is known to be one.

    A subtree is asked for below `outer`, which `prefix` starts with.
    """
    starts = _starts(names, len(prefix))
    if not starts or "" in starts:
        return ""
    asked = prefix.removeprefix(outer)
    known = [s for s in starts if set(_steps(s)) <= {*MODELS, *PAIR}]
    if len(starts) == len(known) == 1:
        return starts[0]
    averages = [s for s in known if set(_steps(s)) & set(AVERAGES)]
    raw = [s for s in known if not set(_steps(s)) & {*AVERAGES, *PAIR}]
    if len(averages) == 1 and len(raw) == 1 and len(starts) == 2:
        logging.info(
            "it holds a model %r and its running average %r: the average is read; "
            "FILE%s:%s is the other.",
            *(raw[0], averages[0], suffix, (asked + raw[0])[:-1]),
        )
        return averages[0]
    shown = [asked + _shortest(start, starts) for start in starts]
    raise errors.UserError(
        f"it holds several models: {', '.join(shown[:8])[:500]}.\n"
        f"Say which after a colon: FILE{suffix}:{shown[0]}"
    )


def _starts(names: list[str], at: int) -> list[str]:
    """What stands between a place in names and those that a dialect is known by."""
    found = set()
    for name in names:
        ends = (m.end() for m in re.finditer("[/.]", name) if m.end() > at)
        for place in itertools.islice(itertools.chain([at], ends), MAX_STEPS):
            if _MARKER.fullmatch(name, place):
                found.add(name[at:place])
                break
    return sorted(found)


def _steps(start: str) -> list[str]:
    return re.split("[/.]", start)[:-1]


def _shortest(start: str, starts: list[str]) -> str:
    """As much of a start as no other one has."""
    for end in re.finditer("[/.]", start):
        if not any(o != start and o.startswith(start[: end.end()]) for o in starts):
            return start[: end.start()]
    return start[:-1]


def _check_wrapped(
    chosen: list[str], beside: list[str], prefix: str, suffix: str
) -> None:
    """Raises `UserError` if a wrapper of all names is missing from some."""
    if beside:
        raise errors.UserError(
            f"{len(chosen)} of its tensors are of a model wrapped as {prefix!r} and "
            f"{len(beside)} are not:\n{listed(sorted(beside))}\n"
            f"Name the model to leave them aside: FILE{suffix}:{prefix[:-1]}"
        )


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
