"""What a run is, on a screen: its parameters and a line about its length."""

import logging

import clu.parameter_overview
import jax

from vit_jax import cli, experiment, models, tree

ROWS = 8  # of the summary


def rows(params: object) -> list[tuple[str, str, str]]:
    """Returns parameters by the first word of their names, the largest `ROWS`.

    Texts: the word, how many parameters there are, in how many arrays.
    """
    sizes: dict[str, list[int]] = {}
    for name, leaf in tree.named_leaves(params):
        sizes.setdefault(name.split("/")[0], []).append(leaf.size)
    ordered = sorted(sizes.items(), key=lambda item: -sum(item[1]))
    if len(ordered) > ROWS:
        rest = [size for _, some in ordered[ROWS - 1 :] for size in some]
        names = [name for name, _ in ordered[ROWS - 1 :]]
        ordered = [*ordered[: ROWS - 1], (f"{len(names)} others", rest)]
    return [(name, f"{sum(some):,}", str(len(some))) for name, some in ordered]


def summary(params: object) -> str:
    """Returns `rows` as one text."""
    found = rows(params)
    width = max(len(name) for name, _, _ in found)
    lines = (f"  {name.ljust(width)} {n:>15} in {some}" for name, n, some in found)
    return "\n".join(lines)


def log(exp: experiment.Experiment, *, parameters: bool) -> None:
    """Tells what is trained: tables on a terminal, else lines in the log.

    Args:
        exp: the run.
        parameters: list every leaf, in place of a summary.
    """
    heads = "parameters", "how many"
    if parameters or not cli.is_live():
        logging.info(overview(exp, parameters=parameters))
        return
    from vit_jax.cli import tables

    tables.log("", [(*heads, "arrays"), *rows(exp.state.params)])
    if exp.tuning is not None:
        tables.log("what is trained", [(*heads, "rate"), *exp.tuning.rows()])
    logging.info(_line(exp))


def overview(exp: experiment.Experiment, *, parameters: bool) -> str:
    """Returns the table of parameters and one line about the run; see `log`."""
    table = f"parameters, and in how many arrays:\n{summary(exp.state.params)}"
    if parameters:
        table = clu.parameter_overview.get_parameter_overview(
            exp.state.params, include_stats=False
        )
    if exp.tuning is not None:
        table += f"\nwhat is trained:\n{exp.tuning.table()}"
    return f"{table}\n{_line(exp)}"


def _line(exp: experiment.Experiment) -> str:
    count = models.count_parameters(exp.architecture)
    macs = models.forward_macs(exp.architecture)
    devices = jax.devices()
    begun = "random weights" if exp.start is None else exp.start.path
    return (
        f"{exp.architecture.name}: {count:,} parameters, "
        f"{macs / 1e9:.4g} GMAC an image; {exp.durations.total:,} steps of "
        f"{exp.batch_size} on {len(devices)} x {devices[0].device_kind}, begun with "
        f"{begun}"
    )
