"""What a study found: as lines of JSON, and as a table in Markdown."""

import json
import shlex
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vit_jax.commands import sweep_table
from vit_jax.studies.study import BEFORE, DEV, TEST, Study

Row = Mapping[str, Any]
DATA_DIR = "--config.data.data_dir="
WIDTH = 98


class Found(NamedTuple):
    """What is known of a study.

    Attributes:
        figures: Of each seed whose run is done, by the arm and the seed.
        chosen: Each arm's setting; None: not known.
        holds: What the rule says; None: runs are left or failed.
        verdict: Why.
    """

    figures: dict[str, dict[str, float]]
    chosen: dict[str, str | None]
    holds: bool | None
    verdict: str


def found(study: Study, rows: Sequence[Row], chosen: Mapping[str, str | None]) -> Found:
    """Returns what the runs say so far.

    Args:
        study: What is compared.
        rows: What is known of each run.
        chosen: The setting of each arm, as far as it is known.
    """
    figures: dict[str, dict[str, float]] = {arm: {} for arm in study.arms}
    for row in rows:
        value = figure(row, study.figure)
        if row["status"] == "done" and _is(row, TEST) and value is not None:
            figures[row["values"]["arm"]][row["values"]["seed"]] = value
    missing = len(study.arms) * len(study.seeds) - sum(map(len, figures.values()))
    if missing:
        left = "1 run has" if missing == 1 else f"{missing} runs have"
        return Found(figures, dict(chosen), None, f"{left} no {study.figure} yet.")
    verdict = study.verdict({arm: list(of.values()) for arm, of in figures.items()})
    return Found(figures, dict(chosen), verdict.holds, verdict.text)


def figure(row: Row, name: str) -> float | None:
    """Returns a figure of a run; None where it has none of that name."""
    value = row["figures"][name] if name in row["figures"] else None
    return float(value) if isinstance(value, int | float) else None


def lines(rows: Sequence[Row]) -> str:
    """Returns a line of JSON of each run."""
    keys = ("status", "error", "seconds", "cpu_seconds", "figures")
    found = ({**row["values"], **{key: row[key] for key in keys}} for row in rows)
    return "".join(f"{json.dumps(one)}\n" for one in found)


def page(
    name: str, study: Study, rows: Sequence[Row], found: Found, fixed: Sequence[str]
) -> str:
    """Returns the study in Markdown: question, rule, command, table, verdict.

    Args:
        name: Of the study.
        study: What is compared.
        rows: What is known of each run.
        found: What they say.
        fixed: Flags of every run that the command line gave.
    """
    answer = {True: "It holds.", False: "It does not hold.", None: "Not known yet."}
    spent = sum(row["cpu_seconds"] for row in rows)
    given = [f"{DATA_DIR}DIR" if w.startswith(DATA_DIR) else w for w in fixed]
    command = shlex.join(["vit_jax", "studies", "run", name, *given])
    parts = [
        f"# Study: {name}",
        _wrapped(study.question),
        _wrapped(f"Rule, fixed before the first run: {study.rule}"),
        _wrapped(f"**{answer[found.holds]}** {found.verdict}"),
        sweep_table.markdown(table(study, rows, found)).rstrip(),
    ]
    if len(study.settings) > 1:
        parts.append(
            _wrapped(
                f"`{study.dev_figure}` of each setting, in percent, first seed, with "
                f"{_words(study.dev)}:"
            )
        )
        parts.append(sweep_table.markdown(_settings(study, rows)).rstrip())
    if study.before:
        parts.append("Before them:")
        parts.append(sweep_table.markdown(_before(study, rows)).rstrip())
    parts.append(
        _wrapped(
            f"`{study.figure}` in percent, mean ± deviation (n - 1); CPU time of all "
            f"runs {spent / 60:.1f} minutes. Every run is `--config={study.config}` "
            "with these flags:"
        )
    )
    parts.append("\n".join(["```text", *study.flags, "```"]))
    parts.append(f"```sh\n{command}\n```")
    return "\n\n".join(parts) + "\n"


def table(study: Study, rows: Sequence[Row], found: Found) -> list[list[str]]:
    """Returns a line an arm, the headings first; figures in percent."""
    settings = ["setting"] if len(study.settings) > 1 else []
    seeds = [f"seed {seed}" for seed in study.seeds]
    lines = [["arm", *settings, *seeds, "mean", "CPU time of a run", "errors"]]
    for arm, flags in study.arms.items():
        of = found.figures[arm]
        runs = [r for r in rows if r["values"]["arm"] == arm and _is(r, TEST)]
        times = [row["cpu_seconds"] for row in runs if row["status"] == "done"]
        errors = dict.fromkeys(
            row["error"]
            for row in rows
            if row["values"]["arm"] == arm and not _is(row, BEFORE) and row["error"]
        )
        lines.append(
            [
                f"{arm} {_words(flags)}".rstrip(),
                *([found.chosen[arm] or ""] if settings else []),
                *(_percent(of.get(str(seed))) for seed in study.seeds),
                _spread(list(of.values())),
                f"{statistics.fmean(times):.0f} s" if times else "",
                "; ".join(errors),
            ]
        )
    if not any(line[-1] for line in lines[1:]):
        lines = [line[:-1] for line in lines]
    return lines


def _settings(study: Study, rows: Sequence[Row]) -> list[list[str]]:
    known = {
        (row["values"]["arm"], row["values"]["setting"]): row
        for row in rows
        if _is(row, DEV)
    }

    def cell(arm: str, setting: str) -> str:
        row = known.get((arm, setting))
        return "" if row is None else _outcome(row, study.dev_figure)

    lines = [[arm, *(cell(arm, one) for one in study.settings)] for arm in study.arms]
    return [["arm", *study.settings], *lines]


def _before(study: Study, rows: Sequence[Row]) -> list[list[str]]:
    known = {row["values"]["arm"]: row for row in rows if _is(row, BEFORE)}
    lines = []
    for name, run in study.before.items():
        row = known.get(name)
        flags = [f"--config={run.config}", *run.flags]
        lines.append(
            [
                name,
                _words(flags),
                ""
                if row is None
                else f"{_outcome(row, study.figure)} {row['error']}".strip(),
                "" if row is None else f"{row['cpu_seconds']:.0f} s",
            ]
        )
    return [["run", "flags", study.figure, "CPU time"], *lines]


def _outcome(row: Row, name: str) -> str:
    """A figure of a run that is done; of another what became of it."""
    return _percent(figure(row, name)) if row["status"] == "done" else row["status"]


def _is(row: Row, of: str) -> bool:
    return row["values"]["run"] == of


def _words(flags: Sequence[str]) -> str:
    short = (flag.removeprefix("--config.").removeprefix("--") for flag in flags)
    return " ".join(f"`{word}`" for word in short)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{_percent(statistics.fmean(values))}{spread} ({len(values)})"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
