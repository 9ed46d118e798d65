"""The table of a sweep: a row each point, then mean and deviation over seeds."""

import collections
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_jax import errors
from vit_jax.settings import documents

SEED = "seed"
OVER_SEEDS = "Mean ± deviation (n - 1) over seeds, and how many"
# Of an evaluation, what says nothing of how good the run is.
COUNTS = ("examples", "corrupt")

Row = Mapping[str, Any]


def counts(rows: Iterable[Row]) -> dict[str, int]:
    """Returns how many points have each status."""
    return dict(collections.Counter(row["status"] for row in rows))


def told(row: Row) -> str:
    """Returns what became of a point in one line."""
    shown = [f"{name} {_number(x)}" for name, x in _shown(row).items()]
    error = [row["error"]] if row["error"] else []
    return " | ".join([f"{row['status']} in {row['seconds']:.0f} s", *shown, *error])


def over_seeds(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns mean and deviation of each figure, over the points that differ in seed.

    The deviation is that of a sample, n - 1 in the denominator; None of one point.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        if row["status"] == "done" and SEED in row["values"]:
            key = tuple((k, v) for k, v in row["values"].items() if k != SEED)
            groups.setdefault(key, []).append(row)
    found = []
    for key, members in groups.items():
        figures = {}
        for name in _names(members):
            values = [m["figures"][name] for m in members if name in m["figures"]]
            values = [value for value in values if value is not None]
            if values:
                several = len(values) > 1
                deviation = statistics.stdev(values) if several else None
                figures[name] = {
                    "mean": statistics.fmean(values),
                    "deviation": deviation,
                    "n": len(values),
                }
        found.append({"values": dict(key), "figures": figures})
    return found


def page(rows: Sequence[Row]) -> str:
    """Returns the tables in Markdown."""
    text, *more = (markdown(lines) for lines in tables(rows))
    return "".join([text, *(f"\n{OVER_SEEDS}:\n\n{table}" for table in more)])


def tables(rows: Sequence[Row]) -> list[list[list[str]]]:
    """Returns the points, and what they are over seeds where there are any.

    The lines of a table are texts, the first one its headings.
    """
    keys, names = (
        list(dict.fromkeys(k for r in rows for k in r["values"])),
        _names(rows),
    )
    lines = [
        [
            *(str(row["values"][k]) if k in row["values"] else "" for k in keys),
            *(_cell(row["figures"], name) for name in names),
            f"{row['seconds']:.0f} s",
            " ".join(filter(None, (row["status"], row["error"]))),
        ]
        for row in rows
    ]
    found = [[[*keys, *names, "time", "status"], *lines]]
    groups = over_seeds(rows)
    if not groups:
        return found
    others = [key for key in keys if key != SEED]
    lines = [
        [
            *(str(group["values"][k]) if k in group["values"] else "" for k in others),
            *(_spread(group["figures"], name) for name in names),
        ]
        for group in groups
    ]
    return [*found, [[*others, *names], *lines]]


def _names(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in _shown(row)))


def _shown(row: Row) -> dict[str, float | None]:
    return {
        name: value
        for name, value in row["figures"].items()
        if name.split("/")[-1] not in COUNTS and "_seed" not in name
    }


def _number(value: float | None) -> str:
    return "nan" if value is None or math.isnan(value) else f"{value:.4g}"


def _cell(figures: Mapping[str, float | None], name: str) -> str:
    return _number(figures[name]) if name in figures else ""


def _spread(figures: Mapping[str, Mapping[str, Any]], name: str) -> str:
    if name not in figures:
        return ""
    one = figures[name]
    spread = "" if one["deviation"] is None else f" ± {one['deviation']:.2g}"
    return f"{_number(one['mean'])}{spread} ({one['n']})"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown from its lines, the headings first."""
    heads, *rows = lines
    lines = [heads, ["---"] * len(heads), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the points of earlier calls.

    Raises:
        UserError: the file is no record of a sweep.
    """
    texts = dict.fromkeys(("name", "status", "error"), str)
    kinds: documents.Kinds = {"arguments": list, "values": dict, "figures": dict}
    kinds = {**texts, **kinds, "seconds": (int, float), "exit_code": (int, type(None))}
    try:
        record = documents.checked(documents.read_object(path), {"points": list})
        known = [documents.checked(point, kinds) for point in record["points"]]
        # Older versions did not measure it.
        known = [{"cpu_seconds": 0.0, **point} for point in known]
        return [documents.checked(p, {"cpu_seconds": (int, float)}) for p in known]
    except errors.UserError as error:
        named = "" if str(path) in str(error) else f"{path}: "
        raise errors.UserError(f"{named}{error}; want another --workdir") from error
