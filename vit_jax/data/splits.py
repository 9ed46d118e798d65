"""Split expressions, as TFDS writes them: `train`, `train[:98%]`, `train+test`.

Bounds from the start are those of TFDS, bit for bit. A bound with a minus sign counts
from the end and is its twin from the start: `-1%` is `99%`, and of 30 examples `-3` is
`27`. (TFDS rounds before it subtracts: its `[-1%:]` of 30 examples is all of them.)
So every example is in exactly one of `[:k]` and `[k:]`, whatever `k` is.
"""

import fractions
import re
from collections.abc import Mapping
from typing import NamedTuple

from vit_jax import errors

_TERM = re.compile(r"^(?P<name>[\w-]+)(\[(?P<start>[^:\[\]]*):(?P<stop>[^:\[\]]*)\])?$")
_BOUND = re.compile(r"^(?P<value>-?\d(_?\d){0,18}(\.\d{1,30})?)(?P<percent>%?)$")
_EXAMPLES = "train, train[:98%], train[10%:20%], train[100:200], train[-500:], a+b"


class Range(NamedTuple):
    """The examples `start <= i < stop` of one named split."""

    split: str
    start: int
    stop: int


def resolve(expression: str, known: Mapping[str, int], dataset: str) -> list[Range]:
    """Turns a split expression into ranges of the dataset's own splits.

    Percentages are rounded to the closest example as TFDS does by default, `a+b` reads
    b after a, and `all` is every split in turn.

    Args:
        expression: The expression.
        known: Number of examples of each split of the dataset.
        dataset: The dataset's name, for messages.

    Raises:
        errors.UserError: the expression is malformed, names an unknown split, has a
            bound outside the split, or a term that selects no example or some of
            another's.
    """
    ranges: list[Range] = []
    for term in (term.strip() for term in expression.split("+")):
        parts = _resolve_term(term, expression, known, dataset)
        if sum(part.stop - part.start for part in parts) == 0:
            of = "" if term == expression.strip() else f" by {term!r}"
            raise errors.UserError(
                f"split {expression!r} of {dataset} selects no example{of}; "
                f"its splits: {_listing(known)}"
            )
        ranges.extend(parts)
    _check_disjoint(ranges, expression, dataset)
    return ranges


def _check_disjoint(ranges: list[Range], expression: str, dataset: str) -> None:
    """An example that is read twice would count twice in every figure."""
    ordered = sorted(ranges)
    for one, other in zip(ordered, ordered[1:]):
        if one.split == other.split and other.start < one.stop:
            twice = min(one.stop, other.stop)
            raise errors.UserError(
                f"split {expression!r} of {dataset} selects examples {other.start} to "
                f"{twice - 1} of {one.split!r} twice; want terms that do not overlap"
            )


def count(expression: str, known: Mapping[str, int], dataset: str) -> int:
    """Returns the number of examples that `resolve` selects."""
    ranges = resolve(expression, known, dataset)
    return sum(part.stop - part.start for part in ranges)


def _resolve_term(
    term: str, expression: str, known: Mapping[str, int], dataset: str
) -> list[Range]:
    match = _TERM.match(term)
    if match is None:
        raise errors.UserError(
            f"split {expression!r} of {dataset} cannot be read at {term!r}; "
            f"wanted something like: {_EXAMPLES}"
        )
    name = match["name"]
    if name == "all" and name not in known:
        if match["start"] is None:
            return [Range(split, 0, size) for split, size in known.items()]
        if len(known) > 1:
            raise errors.UserError(
                f"split {expression!r} of {dataset}: all cannot be sliced; "
                f"slice its splits: {_listing(known)}"
            )
        name = next(iter(known))
    if name not in known:
        raise errors.UserError(
            f"split {name!r} is not a split of {dataset}; known splits: "
            f"{_listing(known)}.{errors.suggest(name, known)}"
        )
    if match["start"] is None:
        return [Range(name, 0, known[name])]
    return [_slice(name, match["start"], match["stop"], expression, known[name])]


def _slice(name: str, start: str, stop: str, expression: str, size: int) -> Range:
    bounds, units = [], set()
    for text, default in ((start.strip(), 0), (stop.strip(), size)):
        if not text:
            bounds.append(default)
            continue
        match = _BOUND.match(text)
        if match is None or ("." in text and not match["percent"]):
            raise errors.UserError(
                f"split {expression!r}: bound {text!r} is neither a whole number nor a "
                f"percentage; wanted something like: {_EXAMPLES}"
            )
        units.add(match["percent"])
        limit = 100 if match["percent"] else size
        # Exact, so that -33.3 % is the float that 66.7 % is, with its rounding.
        value = fractions.Fraction(match["value"])
        if abs(value) > limit:
            raise errors.UserError(
                f"split {expression!r}: bound {text} lies outside split {name!r}, "
                f"which has {size} examples"
            )
        if text.startswith("-"):
            value += limit
        percent = bool(match["percent"])
        bounds.append(round(float(value) * size / 100.0) if percent else int(value))
    if not units:
        raise errors.UserError(
            f"split {expression!r}: [:] has no bound; wanted something like {_EXAMPLES}"
        )
    if len(units) > 1:
        raise errors.UserError(
            f"split {expression!r} mixes a percentage and a number of examples; "
            f"give both bounds of {name!r} ({size} examples) in one unit"
        )
    return Range(name, bounds[0], max(bounds))


def _listing(known: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({size} examples)" for name, size in known.items())
