"""What a workdir says of the run in it, and whether it may go on, and how far."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from vit_jax import errors, experiment, weights
from vit_jax.checkpoints import checkpoint
from vit_jax.runs import workdir as workdir_lib

if TYPE_CHECKING:
    from vit_jax.weights.files import Weights

COMPARED = 2**20  # steps at a time


def check(exp: experiment.Experiment, stored: Mapping[str, Any], reached: int) -> None:
    """Raises `UserError` unless the steps done are those of the new length, too.

    Args:
        exp: the run as it is asked for now.
        stored: the configuration it was started with; only `total` may differ.
        reached: steps done, 0: none that was saved.
    """
    before, schedule = experiment.schedule_of(stored, exp.info)
    now = exp.durations
    what = (
        f"total={before.written!r} when this run started, {now.written!r} in this call"
    )
    if now.total < reached:
        raise errors.UserError(
            f"{what}: {reached} steps are done, {now.total} are fewer; want "
            "at least as many, or another --workdir"
        )
    for start in range(0, reached, COMPARED):
        steps = jnp.arange(start, min(start + COMPARED, reached))
        old, new = (np.asarray(f(steps)) for f in (schedule, exp.schedule))
        if different := np.flatnonzero(old != new).tolist():
            step = start + different[0]
            raise errors.UserError(
                f"{what}: with optimizer.schedule="
                f"{exp.schedule.kind!r} the {reached} steps done "
                f"would have had other rates, from step {step + 1} on "
                f"({old[different[0]]:.6g}, now {new[different[0]]:.6g}).\n"
                "A run can be extended where its rates do not depend on the length: "
                "constant and rsqrt, warmup in steps, before a cooldown. Want the old "
                "total, or a new run from these weights: --config.init_from=WORKDIR "
                "--config.keep_head=True --workdir=ANOTHER"
            )


def began(config: Mapping[str, Any], workdir: Path) -> "Weights | None":
    """Returns what a run that goes on knows of the checkpoint that it started from.

    It does not depend on whether that is still there, or still says the same.
    """
    stored = workdir_lib.read_config(workdir)
    if stored is None or not workdir_lib.began_alike(config, stored):
        return None
    for folder in checkpoint.folders(workdir):
        try:
            return weights.pretrained.describe(folder)
        except errors.UserError:  # a damaged one: an older one will be restored
            continue
    return None


def check_workdir(exp: experiment.Experiment, workdir: Path, reached: int) -> None:
    """Raises `UserError` for a workdir of another run; but `total` may grow."""
    stored = workdir_lib.read_config(workdir)
    if stored is None:
        return
    workdir_lib.check_same(workdir, exp.config, stored, besides=("total",))
    before, _ = experiment.schedule_of(stored, exp.info)
    if before.written != exp.durations.written:
        check(exp, stored, reached)
        logging.info(
            "started for %r, goes on to %r", before.written, exp.durations.written
        )
