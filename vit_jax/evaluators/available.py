"""Which of a run's evaluations there is data for."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vit_jax.data import catalog


def available(
    evals: Mapping[str, Mapping[str, Any]], *, dataset: str, data_dir: str
) -> dict[str, dict[str, Any]]:
    """Leaves out optional evaluations whose data is not prepared, with one line.

    An evaluation that is not optional stays, and fails where its data is opened. All
    processes leave out what any of them lacks, since they evaluate together.

    Args:
        evals: options by name, as in `config.evals`.
        dataset: of the run, for evaluations that name none.
        data_dir: of TFDS, or "".

    Raises:
        UserError: a dataset that is neither prepared nor known: a name misspelt.
    """
    there = [
        not _optional(options)
        or catalog.describe(options["dataset"] or dataset, data_dir=data_dir).prepared
        for options in evals.values()
    ]
    there = [not missing for missing in on_any_process([not one for one in there])]
    left_out = [
        f"{name} ({options['dataset'] or dataset})"
        for (name, options), kept in zip(evals.items(), there)
        if not kept
    ]
    if left_out and jax.process_index() == 0:
        logging.info(
            "evaluations left out, their data is not prepared: %s", ", ".join(left_out)
        )
    return {
        name: dict(options)
        for (name, options), kept in zip(evals.items(), there)
        if kept
    }


def on_any_process(flags: Sequence[bool]) -> list[bool]:
    """Returns each flag as it is where any process has it set.

    All processes call it, with as many flags; none returns before all have come.
    """
    if jax.process_count() == 1:
        return list(flags)
    gathered = multihost_utils.process_allgather(np.array([*flags, False]))
    return [bool(flag) for flag in gathered.any(axis=0)[:-1]]


def _optional(options: Mapping[str, Any]) -> bool:
    return "optional" in options and options["optional"]
