"""The table of a sweep: a row each point, then mean and deviation over seeds."""

import collections
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SEED = "seed"
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
    keys, names = (
        list(dict.fromkeys(k for r in rows for k in r["values"])),
        _names(rows),
    )
    lines = [
        [
            *(row["values"][key] if key in row["values"] else "" for key in keys),
            *(_cell(row["figures"], name) for name in names),
            f"{row['seconds']:.0f} s",
            " ".join(filter(None, (row["status"], row["error"]))),
        ]
        for row in rows
    ]
    text = _table([*keys, *names, "time", "status"], lines)
    groups = over_seeds(rows)
    if not groups:
        return text
    others = [key for key in keys if key != SEED]
    lines = [
        [
            *(group["values"][key] if key in group["values"] else "" for key in others),
            *(_spread(group["figures"], name) for name in names),
        ]
        for group in groups
    ]
    title = "Mean ± deviation (n - 1) over seeds, and how many"
    return f"{text}\n{title}:\n\n{_table([*others, *names], lines)}"


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


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
