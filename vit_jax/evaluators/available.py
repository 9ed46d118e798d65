"""Which of a run's evaluations there is data for."""

import logging
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from vit_jax.data import catalog
from vit_jax.settings.sections import EvalSettings


def available(evals: Sequence[EvalSettings], *, data_dir: str) -> list[str]:
    """Leaves out optional evaluations whose data is not prepared, with one line.

    An evaluation that is not optional stays, and fails where its data is opened. All
    processes leave out what any of them lacks, since they evaluate together.

    Args:
        evals: of the run.
        data_dir: of TFDS, or "".

    Returns:
        The names of the others.

    Raises:
        UserError: a dataset that is neither prepared nor known: a name misspelt.
    """
    missing = on_any_process(
        [
            one.optional
            and not catalog.describe(one.dataset, data_dir=data_dir).prepared
            for one in evals
        ]
    )
    left_out = [
        f"{one.name} ({one.dataset})" for one, lacks in zip(evals, missing) if lacks
    ]
    if left_out and jax.process_index() == 0:
        logging.info(
            "evaluations left out, their data is not prepared: %s", ", ".join(left_out)
        )
    return [one.name for one, lacks in zip(evals, missing) if not lacks]


def on_any_process(flags: Sequence[bool]) -> list[bool]:
    """Returns each flag as it is where any process has it set.

    All processes call it, with as many flags; none returns before all have come.
    """
    if jax.process_count() == 1:
        return list(flags)
    gathered = multihost_utils.process_allgather(np.array([*flags, False]))
    return [bool(flag) for flag in gathered.any(axis=0)[:-1]]
