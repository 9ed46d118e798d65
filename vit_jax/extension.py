"""Whether a run may go on to another length than it was started with."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vit_jax import errors, experiment

COMPARED = 2**20  # steps at a time


def check(exp: experiment.Experiment, stored: Mapping[str, Any], reached: int) -> None:
    """Raises `UserError` unless the steps done are those of the new length, too.

    Args:
        exp: the run as it is asked for now.
        stored: the configuration it was started with; only `total` may differ.
        reached: steps done, 0: none that was saved.
    """
    total, before = exp.config["total"], stored["total"]
    what = f"total={before!r} when this run started, {total!r} in this call"
    if exp.durations.total < reached:
        raise errors.UserError(
            f"{what}: {reached} steps are done, {exp.durations.total} are fewer; want "
            "at least as many, or another --workdir"
        )
    _, schedule = experiment.schedule_of(stored, exp.info)
    for start in range(0, reached, COMPARED):
        steps = jnp.arange(start, min(start + COMPARED, reached))
        old, new = (np.asarray(f(steps)) for f in (schedule, exp.schedule))
        if different := np.flatnonzero(old != new).tolist():
            step = start + different[0]
            raise errors.UserError(
                f"{what}: with optimizer.schedule="
                f"{exp.config['optimizer']['schedule']!r} the {reached} steps done "
                f"would have had other rates, from step {step + 1} on "
                f"({old[different[0]]:.6g}, now {new[different[0]]:.6g}).\n"
                "A run can be extended where its rates do not depend on the length: "
                "constant and rsqrt, warmup in steps, before a cooldown. Want the old "
                "total, or a new run from these weights: --config.init_from=WORKDIR "
                "--config.keep_head=True --workdir=ANOTHER"
            )
