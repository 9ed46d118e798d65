"""A run's evaluations: what measures it, how often, and whose figures still hold."""

from dataclasses import dataclass
from pathlib import Path

from vit_jax import evaluators, experiment
from vit_jax.data import catalog, labels
from vit_jax.evaluators import available
from vit_jax.runs import workdir as workdir_lib
from vit_jax.settings import validation


@dataclass
class Evaluation:
    """A named evaluator and how often it runs, in steps (0: only at the end)."""

    name: str
    every: int
    run: evaluators.Evaluator


def make(exp: experiment.Experiment) -> list[Evaluation]:
    """Opens the datasets of `config.evals` and returns their evaluators."""
    data = exp.config["data"]
    context = evaluators.Context(
        datasets=evaluators.Datasets(data["dataset"], data["data_dir"]),
        forward=exp.forward,
        preprocessing=exp.preprocessing,
        outputs=labels.Side(
            f"this run on {exp.info.name}",
            exp.architecture.num_classes,
            exp.info.label_names,
        ),
        batch_size=exp.config["batch_size"] // exp.config["microbatches"],
        mesh=exp.mesh,
        loss=exp.config["loss"],
        evaluation=exp.evaluation,
        mode=exp.config["labels"],
    )
    result = []
    for name, options in exp.config["evals"].items():
        every = validation.duration(
            f"evals.{name}.every",
            options["every"],
            batch_size=exp.config["batch_size"],
            num_examples=catalog.num_examples(exp.info, data["train_split"]),
            total_steps=exp.durations.total,
        )
        run_ = evaluators.make(options, context)
        result.append(Evaluation(name, every or exp.durations.eval_every, run_))
    return result


def changed(exp: experiment.Experiment, workdir: Path) -> set[str]:
    """Which evaluations are others than the workdir's; the same on every process.

    None of them goes on, and rewrites what the others read, before all have seen it.
    """
    evals = exp.config["evals"]
    seen = workdir_lib.changed_evals(workdir, evals)
    changed = available.on_any_process([name in seen for name in evals])
    return {name for name, is_changed in zip(evals, changed) if is_changed}
