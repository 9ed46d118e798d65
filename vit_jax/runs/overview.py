"""What a run is, on a screen: its parameters and a line about its length."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import clu.parameter_overview
import jax

from vit_jax import experiment, models, tree

if TYPE_CHECKING:
    from vit_jax.learning import rates

ROWS = 8  # of the summary
GROUPS = 24  # of one rate


def summary(params: object) -> str:
    """Returns parameters by the first word of their names, the largest `ROWS`."""
    sizes: dict[str, list[int]] = {}
    for name, leaf in tree.named_leaves(params):
        sizes.setdefault(name.split("/")[0], []).append(leaf.size)
    ordered = sorted(sizes.items(), key=lambda item: -sum(item[1]))
    if len(ordered) > ROWS:
        rest = [size for _, some in ordered[ROWS - 1 :] for size in some]
        names = [name for name, _ in ordered[ROWS - 1 :]]
        ordered = [*ordered[: ROWS - 1], (f"{len(names)} others", rest)]
    width = max(len(name) for name, _ in ordered)
    return "\n".join(
        f"  {name.ljust(width)} {sum(some):>15,} in {len(some)}"
        for name, some in ordered
    )


def groups(some: Sequence["rates.Group"]) -> str:
    """Returns a table of parameters and their shares of the learning rate.

    Of more than `GROUPS` groups, those in the middle are one line.
    """
    rows = [
        (group.name, f"{group.parameters:,}", f"{group.factor:.6g} of the rate")
        if group.factor
        else (group.name, f"{group.parameters:,}", "frozen")
        for group in some
    ]
    if len(rows) > GROUPS:
        left = len(rows) - GROUPS + 1
        middle = GROUPS // 2
        rows[middle : middle + left] = [(f"... {left} more", "", "")]
    width = max(len(name) for name, _, _ in rows)
    lines = [f"  {name.ljust(width)} {n:>15}  {rate}" for name, n, rate in rows]
    return "\n".join(line.rstrip() for line in lines)


def overview(exp: experiment.Experiment, *, parameters: bool) -> str:
    """Returns the table of parameters and one line about the run.

    Args:
        exp: the run.
        parameters: list every leaf, in place of a summary.
    """
    table = f"parameters, and in how many arrays:\n{summary(exp.state.params)}"
    if parameters:
        table = clu.parameter_overview.get_parameter_overview(
            exp.state.params, include_stats=False
        )
    if exp.tuning is not None:
        table += f"\nwhat is trained:\n{groups(exp.tuning.rates.groups())}"
    count = models.count_parameters(exp.architecture)
    macs = models.forward_macs(exp.architecture)
    devices = jax.devices()
    return (
        f"{table}\n{exp.architecture.name}: {count:,} parameters, "
        f"{macs / 1e9:.4g} GMAC an image; {exp.durations.total:,} steps of "
        f"{exp.batch_size} on {len(devices)} x {devices[0].device_kind}"
    )
