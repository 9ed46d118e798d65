"""What a run is, on a screen: its parameters and a line about its length."""

import clu.parameter_overview
import jax

from vit_jax import experiment, models, tree

ROWS = 8  # of the summary


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
        table += f"\nwhat is trained:\n{exp.tuning.table()}"
    count = models.count_parameters(exp.architecture)
    macs = models.forward_macs(exp.architecture)
    devices = jax.devices()
    return (
        f"{table}\n{exp.architecture.name}: {count:,} parameters, "
        f"{macs / 1e9:.4g} GMAC an image; {exp.durations.total:,} steps of "
        f"{exp.batch_size} on {len(devices)} x {devices[0].device_kind}"
    )
