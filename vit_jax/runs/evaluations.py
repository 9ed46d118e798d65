"""A run's evaluations: which have data, what measures them, whose figures still hold.

Evaluators load when a run makes its own.
"""

import functools
import logging
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.experimental import multihost_utils

from vit_jax import experiment, models
from vit_jax.data import catalog
from vit_jax.learning import losses, passes, program
from vit_jax.parallel import layouts
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.runs import workdir as workdir_lib
from vit_jax.settings.sections import EvalSettings
from vit_jax.types import Evaluator, Params, TrainState

if TYPE_CHECKING:
    from vit_jax import evaluators


def available(evals: Sequence[EvalSettings], *, data_dir: str) -> list[str]:
    """Leaves out optional evaluations whose data is not prepared, with one line.

    The line has the command that prepares it. An evaluation that is not optional stays,
    and fails where its data is opened. All processes leave out what any of them lacks,
    since they evaluate together.

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
            and not all(
                catalog.describe(name, data_dir=data_dir).prepared
                for name in one.dataset.split(" + ")
            )
            for one in evals
        ]
    )
    lacking = {one.name: one.dataset for one, lacks in zip(evals, missing) if lacks}
    if lacking and jax.process_index() == 0:
        logging.info(
            "evaluations left out, their data is not prepared: %s; to prepare it: %s",
            ", ".join(f"{name} ({dataset})" for name, dataset in lacking.items()),
            how_to_prepare(lacking.values(), data_dir=data_dir),
        )
    return [one.name for one in evals if one.name not in lacking]


def how_to_prepare(datasets: Iterable[str], *, data_dir: str) -> str:
    """Returns the command that prepares datasets, as far as any can.

    Args:
        datasets: as `data.catalog` takes them.
        data_dir: of TFDS, or "".
    """
    names = [n for n in dict.fromkeys(datasets) if n not in catalog.NOT_PREPARABLE]
    where = [f"--data_dir={data_dir}"] if data_dir else []
    return shlex.join(["vit_jax", "prepare", *names, *where])


@dataclass
class Evaluation:
    """A named evaluator and how often it runs, in steps (0: only at the end)."""

    name: str
    every: int
    run: Evaluator


def make(exp: experiment.Experiment, between: Callable[[], None]) -> list[Evaluation]:
    """Opens the datasets of a run's evaluations and returns their evaluators.

    Args:
        exp: the run.
        between: called after every batch, on all processes.
    """
    from vit_jax import evaluators
    from vit_jax.data import labels

    context = evaluators.Context(
        datasets=evaluators.Datasets(exp.data.dataset, exp.data.data_dir),
        forward=exp.forward,
        preprocessing=exp.preprocessing,
        outputs=labels.Side(
            f"this run on {exp.info.name}",
            exp.architecture.num_classes,
            exp.info.label_names,
        ),
        batch_size=exp.batch_size // exp.microbatches,
        mesh=exp.mesh,
        loss=losses.PROBLEMS[losses.problem_of(exp.loss)],
        evaluation=exp.evaluation,
        mode=exp.labels,
        between=between,
        resized=functools.partial(resized, exp),
    )
    result = []
    for one in exp.evals:
        options = {"type": one.kind, "dataset": one.dataset, "split": one.split}
        run_ = evaluators.make(options | dict(one.options), context)
        result.append(Evaluation(one.name, one.every, run_))
    return result


def resized(
    exp: experiment.Experiment, image_size: tuple[int, int]
) -> "evaluators.Resized":
    """Returns the model of a run on images of another size, laid out as in it."""
    from vit_jax.weights import resizing

    def bind(
        architecture: models.Architecture, shapes: Params
    ) -> tuple[passes.Bound, Params]:
        state = TrainState(exp.state.step, shapes, (), None)
        layout = layouts.make(
            *(exp.layout.name, state, exp.mesh),
            dtype=architecture.compute_dtype,
            microbatches=exp.microbatches,
        )
        graphdef, _ = models.abstract(architecture)
        seen = exp.preprocessing
        bound = passes.Bound(graphdef, architecture, seen.mean, seen.std)
        bound = program.outside(bound.laid_out(layout), exp.tuning)
        return bound, mesh_lib.with_shardings(shapes, layout.state.params)

    return resizing.at_size(exp.architecture, exp.state.params, image_size, bind)


def changed(exp: experiment.Experiment, workdir: Path) -> set[str]:
    """Returns which evaluations are not the workdir's; the same on every process.

    None of them goes on, and rewrites what the others read, before all have seen it.
    """
    names = [settings.name for settings in exp.evals]
    seen = workdir_lib.changed_evals(workdir, exp.config)
    changed = on_any_process([name in seen for name in names])
    return {name for name, is_changed in zip(names, changed) if is_changed}


def on_any_process(flags: Sequence[bool]) -> list[bool]:
    """Returns each flag as it is where any process has it set.

    All processes call it, with as many flags; none returns before all have come.
    """
    if jax.process_count() == 1:
        return list(flags)
    gathered = multihost_utils.process_allgather(np.array([*flags, False]))
    return [bool(flag) for flag in gathered.any(axis=0)[:-1]]
