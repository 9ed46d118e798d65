"""A run's evaluations: what measures it, how often, and whose figures still hold."""

from dataclasses import dataclass
from pathlib import Path

from vit_jax import evaluators, experiment
from vit_jax.data import labels
from vit_jax.evaluators import available
from vit_jax.runs import workdir as workdir_lib


@dataclass
class Evaluation:
    """A named evaluator and how often it runs, in steps (0: only at the end)."""

    name: str
    every: int
    run: evaluators.Evaluator


def make(exp: experiment.Experiment) -> list[Evaluation]:
    """Opens the datasets of a run's evaluations and returns their evaluators."""
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
        loss=exp.loss,
        evaluation=exp.evaluation,
        mode=exp.labels,
    )
    result = []
    for one in exp.evals:
        options = {"type": one.kind, "dataset": one.dataset, "split": one.split}
        run_ = evaluators.make(options | dict(one.options), context)
        result.append(Evaluation(one.name, one.every, run_))
    return result


def changed(exp: experiment.Experiment, workdir: Path) -> set[str]:
    """Which evaluations are others than the workdir's; the same on every process.

    None of them goes on, and rewrites what the others read, before all have seen it.
    """
    names = [settings.name for settings in exp.evals]
    seen = workdir_lib.changed_evals(workdir, exp.config)
    changed = available.on_any_process([name in seen for name in names])
    return {name for name, is_changed in zip(names, changed) if is_changed}
