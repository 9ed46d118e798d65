"""The results of transfer, beside the paper's: as JSON, and as tables."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vit_jax.commands import sweep_table
from vit_jax.commands.transfer import paper

METRIC = "top1"
Row = Mapping[str, Any]


class About(NamedTuple):
    """What tables say of the whole.

    Attributes:
        checkpoint: That is transferred.
        model: As recipes call it.
        seeds: Of the runs on all of the training set; the first one's on the dev split.
        missing: Tasks that are not prepared, and the command that prepares each.
        groups: Of VTAB's tasks, in the order of its table.
    """

    checkpoint: str
    model: str
    seeds: tuple[str, ...]
    missing: Mapping[str, str]
    groups: Mapping[str, str]


def figure(split: str, row: Row) -> float | None:
    """Returns the accuracy of a run on a split; None where there is none."""
    name = f"{split}/{METRIC}"
    return row["figures"][name] if name in row["figures"] else None


def mean(split: str, rows: Sequence[Row]) -> float | None:
    """Returns the mean accuracy of runs; None where one is missing."""
    found = [figure(split, row) for row in rows]
    known = [value for value in found if value is not None]
    return statistics.fmean(known) if known and len(known) == len(rows) else None


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Returns mean and deviation of a sample (n - 1), None of a single one."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {
        "mean": statistics.fmean(values),
        "deviation": deviation,
        "n": len(values),
    }


def result(
    name: str,
    dataset: str,
    settings: Sequence[str],
    dev: Sequence[Row],
    chosen: str | None,
    test: Sequence[Row],
    *,
    about: About,
) -> dict[str, Any]:
    """Returns what is known of a task.

    Args:
        name: Of the task.
        dataset: Its dataset.
        settings: That were tried on the dev split.
        dev: A run of each.
        chosen: The best of them; None: not known yet.
        test: A run a seed with it.
        about: Of the whole.
    """
    rows = [*dev, *test]
    seeds = {row["values"]["seed"]: figure("test", row) for row in test}
    known = {seed: value for seed, value in seeds.items() if value is not None}
    references = paper.references(name, about.model, about.groups)
    return {
        "task": name,
        "dataset": dataset,
        "dev": dict(zip(settings, (figure("dev", row) for row in dev), strict=True)),
        "chosen": chosen,
        "test": spread(list(known.values())) if known else None,
        "seeds": known,
        "paper": {key: round(value / 100, 4) for key, value in references.items()},
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "errors": [row["error"] for row in rows if row["error"]],
    }


def means(results: Sequence[Row], about: About) -> list[dict[str, Any]]:
    """Returns the means of VTAB and of its groups, over the tasks with all seeds.

    Each is first taken of the tasks of one seed, then of the seeds.
    """
    done = {
        one["task"].removeprefix("vtab_"): one["seeds"]
        for one in results
        if one["task"].startswith("vtab_") and len(one["seeds"]) == len(about.seeds)
    }
    found = []
    for group in ["", *dict.fromkeys(about.groups.values())]:
        wanted = [name for name, of in about.groups.items() if group in ("", of)]
        members = [name for name in wanted if name in done]
        if not members:
            continue
        seeds = [
            statistics.fmean(done[name][seed] for name in members)
            for seed in about.seeds
        ]
        name = f"vtab {group}".strip()
        references = paper.references(name, about.model, about.groups)
        found.append(
            {
                "of": name,
                "tasks": len(members),
                "of_tasks": len(wanted),
                "test": spread(seeds),
                "paper": {k: round(v / 100, 4) for k, v in references.items()},
            }
        )
    return found


def record(results: Sequence[Row], about: About) -> dict[str, Any]:
    """Returns what stands in the JSON file beside the runs."""
    return {
        "checkpoint": about.checkpoint,
        "model": about.model,
        "seeds": list(about.seeds),
        "tasks": list(results),
        "means": means(results, about),
        "missing": dict(about.missing),
    }


def lines(results: Sequence[Row], about: About) -> list[list[str]]:
    """Returns the table, its headings first; accuracies in percent."""
    heads = ["task", "dev", "chosen", "test", "the paper's", "time"]
    found = [
        [
            one["task"],
            ", ".join(f"{k} {_percent(v)}" for k, v in one["dev"].items()),
            one["chosen"] or "",
            "; ".join(filter(None, [_spread(one["test"]), *one["errors"]])),
            _paper(one["paper"]),
            f"{one['seconds'] / 60:.1f} min",
        ]
        for one in results
    ]
    found += [
        [
            f"mean of {one['of']}, {one['tasks']} of {one['of_tasks']} tasks",
            *("", ""),
            _spread(one["test"]),
            _paper(one["paper"]),
            "",
        ]
        for one in means(results, about)
    ]
    return [heads, *found]


def page(results: Sequence[Row], about: About) -> str:
    """Returns the tables in Markdown."""
    seeds = len(about.seeds)
    text = [
        f"Transfer of `{about.checkpoint}` ({about.model}): top-1 accuracy in percent, "
        "of each setting on the dev split and, with the best, mean ± deviation (n - 1) "
        f"over {seeds} seed{'s' * (seeds > 1)} on the test split.\n\n",
        sweep_table.markdown(lines(results, about)),
    ]
    if about.missing:
        text.append("\nNot prepared, and left out:\n\n")
        text += [f"- {name}: `{command}`\n" for name, command in about.missing.items()]
    return "".join(text)


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.2f}"


def _spread(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return ""
    deviation = one["deviation"]
    beside = "" if deviation is None else f" ± {100 * deviation:.2f}"
    return f"{_percent(one['mean'])}{beside} ({one['n']})"


def _paper(references: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * x:.2f}" for name, x in references.items())
