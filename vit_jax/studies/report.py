"""What a study found: as lines of JSON, and as a table in Markdown."""

import json
import shlex
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vit_jax.commands import sweep_table
from vit_jax.studies import study as study_lib
from vit_jax.studies.study import BEFORE, DEV, TEST, Run, Study

Row = Mapping[str, Any]
DATA_DIR = "--config.data.data_dir="
WIDTH = 98


class Found(NamedTuple):
    """What is known of a study.

    Attributes:
        figures: Of each seed whose run is done, by `Study.rows` and the seed.
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
    figures: dict[str, dict[str, float]] = {name: {} for name in study.rows}
    for row in rows:
        if row["status"] != "done" or not _is(row, TEST):
            continue
        for name, wanted in study.rows.items():
            value = figure(row, wanted.name)
            if row["values"]["arm"] == wanted.arm and value is not None:
                figures[name][row["values"]["seed"]] = value
    lacking = dict.fromkeys(
        (wanted.arm, str(seed), wanted.name)
        for name, wanted in study.rows.items()
        for seed in study.seeds
        if str(seed) not in figures[name]
    )
    if lacking:
        runs = len({lack[:2] for lack in lacking})
        left = "1 run has" if runs == 1 else f"{runs} runs have"
        names = ", ".join(dict.fromkeys(name for *_, name in lacking))
        return Found(figures, dict(chosen), None, f"{left} no {names} yet.")
    verdict = study.verdict({name: list(of.values()) for name, of in figures.items()})
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
    if _chooses(study):
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
    names = dict.fromkeys(wanted.name for wanted in study.rows.values())
    shares = ", ".join(f"`{name}`" for name in names if study_lib.is_share(name))
    parts.append(
        _wrapped(
            f"{shares and f'{shares} in percent, '}mean ± deviation (n - 1); CPU time "
            f"of all runs {spent / 60:.1f} minutes.{_of_every_run(study)}"
        )
    )
    if _share_flags(study):
        parts.append("\n".join(["```text", *study.flags, "```"]))
    parts += [_own(study, arm) for arm in study.arms if _is_own(study, arm)]
    parts.append(f"```sh\n{command}\n```")
    return "\n\n".join(parts) + "\n"


def table(study: Study, rows: Sequence[Row], found: Found) -> list[list[str]]:
    """Returns a line an arm or figure, the headings first; shares are in percent."""
    settings = ["setting"] if _chooses(study) else []
    seeds = [f"seed {seed}" for seed in study.seeds]
    lines = [["arm", *settings, *seeds, "mean", "CPU time of a run", "errors"]]
    for name, (arm, wanted) in study.rows.items():
        of = found.figures[name]
        runs = [r for r in rows if r["values"]["arm"] == arm and _is(r, TEST)]
        times = [row["cpu_seconds"] for row in runs if row["status"] == "done"]
        errors = dict.fromkeys(
            row["error"]
            for row in rows
            if row["values"]["arm"] == arm and not _is(row, BEFORE) and row["error"]
        )
        lines.append(
            [
                _label(study, name),
                *([_setting(study, arm, found)] if settings else []),
                *(_shown(of.get(str(seed)), wanted) for seed in study.seeds),
                _spread(list(of.values()), wanted),
                f"{statistics.fmean(times):.0f} s" if times else "",
                "; ".join(errors),
            ]
        )
    if not any(line[-1] for line in lines[1:]):
        lines = [line[:-1] for line in lines]
    return lines


def _setting(study: Study, arm: str, found: Found) -> str:
    return found.chosen[arm] or "" if len(study.settings_of(arm)) > 1 else ""


def _label(study: Study, name: str) -> str:
    """A name, and what sets it apart: its arm's flags, or which figure it is."""
    if study.figures:
        wanted = study.rows[name].name
        return name if wanted in name else f"{name} `{wanted}`"
    return (
        name if _is_own(study, name) else f"{name} {_arm_words(study, name)}".rstrip()
    )


def _arm_words(study: Study, arm: str) -> str:
    own = study.arms[arm]
    return _words(own.flags if isinstance(own, Run) else own)


def _is_own(study: Study, arm: str) -> bool:
    """Whether what an arm is stands below the table, not beside its name."""
    return bool(study.figures) or isinstance(study.arms[arm], Run)


def _own(study: Study, arm: str) -> str:
    own = study.arms[arm]
    if not isinstance(own, Run):
        return _wrapped(f"{arm}: {_words(own) or 'these alone'}")
    said = f"`python -m {own.module}` " if own.module else ""
    without = " (without them)" if _share_flags(study) else ""
    return _wrapped(
        f"{arm}{without}: {said}{_words([f'--config={own.config}', *own.flags])}"
    )


def _share_flags(study: Study) -> bool:
    """Whether there are arms that have the study's recipe and flags."""
    return not all(isinstance(own, Run) for own in study.arms.values())


def _of_every_run(study: Study) -> str:
    """Introduces the flags that arms share."""
    if not _share_flags(study):
        return ""
    others = any(isinstance(own, Run) for own in study.arms.values())
    but_for = "that is not given below whole " if others else ""
    return f" Every run {but_for}is `--config={study.config}` with these flags:"


def _chooses(study: Study) -> bool:
    return any(len(study.settings_of(arm)) > 1 for arm in study.arms)


def _settings(study: Study, rows: Sequence[Row]) -> list[list[str]]:
    known = {
        (row["values"]["arm"], row["values"]["setting"]): row
        for row in rows
        if _is(row, DEV)
    }

    def cell(arm: str, setting: str) -> str:
        row = known.get((arm, setting))
        return "" if row is None else _outcome(row, study.dev_figure)

    arms = [arm for arm in study.arms if len(study.settings_of(arm)) > 1]
    names = dict.fromkeys(one for arm in arms for one in study.settings_of(arm))
    lines = [[arm, *(cell(arm, one) for one in names)] for arm in arms]
    return [["arm", *names], *lines]


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
    value = figure(row, name)
    return _shown(value, name) if row["status"] == "done" else row["status"]


def _is(row: Row, of: str) -> bool:
    return row["values"]["run"] == of


def _words(flags: Sequence[str]) -> str:
    short = (flag.removeprefix("--config.").removeprefix("--") for flag in flags)
    return " ".join(f"`{word}`" for word in short)


def _shown(value: float | None, name: str) -> str:
    if value is None:
        return ""
    return f"{100 * value:.2f}" if study_lib.is_share(name) else f"{value:.4g}"


def _spread(values: Sequence[float], name: str) -> str:
    if not values:
        return ""
    mean = _shown(statistics.fmean(values), name)
    several = len(values) > 1
    spread = f" ± {_shown(statistics.stdev(values), name)}" if several else ""
    return f"{mean}{spread} ({len(values)})"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
