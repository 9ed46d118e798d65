"""Split expressions, as TFDS writes them: `train`, `train[:98%]`, `train+test`."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from vit_jax import errors

_TERM = re.compile(r"^(?P<name>[\w-]+)(\[(?P<start>[^:\[\]]*):(?P<stop>[^:\[\]]*)\])?$")
_BOUND = re.compile(r"^(?P<value>-?\d[\d_]*(\.\d+)?)(?P<percent>%?)$")
_EXAMPLES = "train, train[:98%], train[10%:20%], train[100:200], train[-500:], a+b"


class Range(NamedTuple):
    """The examples `start <= i < stop` of one named split."""

    split: str
    start: int
    stop: int


def resolve(expression: str, known: Mapping[str, int], dataset: str) -> list[Range]:
    """Turns a split expression into ranges of the dataset's own splits.

    Percentages are rounded to the closest example as TFDS does by default, a negative
    bound counts from the end, `a+b` reads b after a, and `all` is every split in turn.

    Args:
      expression: the expression.
      known: number of examples of each split of the dataset.
      dataset: the dataset's name, for messages.

    Raises:
      errors.UserError: the expression is malformed, names an unknown split, has a bound
        outside the split, or selects no example.
    """
    ranges = []
    for term in expression.split("+"):
        ranges.extend(_resolve_term(term.strip(), expression, known, dataset))
    if sum(part.stop - part.start for part in ranges) == 0:
        raise errors.UserError(
            f"split {expression!r} of {dataset} selects no example; "
            f"its splits: {_listing(known)}"
        )
    return ranges


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
        value = float(match["value"]) if match["percent"] else int(match["value"])
        limit = 100 if match["percent"] else size
        if abs(value) > limit:
            raise errors.UserError(
                f"split {expression!r}: bound {text} lies outside split {name!r}, "
                f"which has {size} examples"
            )
        bound = round(value * size / 100.0) if match["percent"] else value
        bounds.append(size + bound if bound < 0 else bound)
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
