"""The best checkpoint of a run while it trains, and its end where none is better."""

import dataclasses
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from vit_jax import errors, experiment
from vit_jax.checkpoints import agreement, best, disk, manager
from vit_jax.evaluators import figures as figures_lib
from vit_jax.learning import losses
from vit_jax.settings.sections import EvalSettings


def _checked(exp: experiment.Experiment) -> tuple[str, str]:
    """The evaluation that decides, and its figure."""
    evaluation, _, figure = exp.keep_best.partition("/")
    if not (evaluation and figure) or exp.stop_after < 0:
        raise errors.UserError(
            f"keep_best={exp.keep_best!r} stop_after={exp.stop_after}: want the figure "
            "of an evaluation, as in keep_best=val/top1, and how many evaluations in a "
            "row may have no better one before the run ends, 0 for any number"
        )
    evals = {one.name: one for one in exp.evals}
    if evaluation not in evals:
        raise errors.UserError(
            f"keep_best={exp.keep_best!r}: the run has no evaluation {evaluation!r}; "
            f"it has {', '.join(evals) or 'none'}.{errors.suggest(evaluation, evals)}"
        )
    known = _deciding(exp, evals[evaluation])
    if known and figure not in known:
        raise _no_figure(exp.keep_best, known)
    return evaluation, figure


def _deciding(exp: experiment.Experiment, one: EvalSettings) -> Sequence[str]:
    """The figures of an evaluation that can say which model is best, where known."""
    told = figures_lib.Told(
        dataset=one.dataset,
        options=one.options,
        classes=exp.architecture.num_classes,
        multi_label=losses.problem_of(exp.loss) == "multi_label",
    )
    return figures_lib.deciding(one.kind, told)


def _no_figure(keep_best: str, known: Collection[str]) -> errors.UserError:
    evaluation, _, figure = keep_best.partition("/")
    return errors.UserError(
        f"keep_best={keep_best!r}: {evaluation} has no figure {figure!r} to choose by; "
        f"it has {errors.shown(', '.join(known))}.{errors.suggest(figure, known)}"
    )


class Best:
    """What the evaluations of a run say of its checkpoints.

    Attributes:
        last: What is known by now; the same on every process.

    Args:
        exp: The run.
        checkpoints: Of its workdir, which then leaves the best one.
        start: Steps done before.

    Raises:
        UserError: no such figure or evaluation, or a damaged record.
    """

    def __init__(
        self, exp: experiment.Experiment, checkpoints: manager.Checkpoints, start: int
    ):
        self._figure, self._stop_after = exp.keep_best, exp.stop_after
        self._evaluation, self._name = _checked(exp)
        self._checkpoints, self._start = checkpoints, start
        self._before: list[best.Judgement] = []
        self._pruning = best.Pruning(exp.keep)
        checkpoints.pruning = {"preservation_policy": self._pruning}
        said = self._read() if jax.process_index() == 0 else None
        problem, last = agreement.told(said)
        if problem:
            raise errors.UserError(problem)
        self.last = best.Judgement(*last)
        self._pruning.bests = [*(one.best for one in self._before), self.last.best]

    def _read(self) -> tuple[str, tuple[Any, ...]]:
        """What is wrong with the record, and the judgement to go on from."""
        workdir = self._checkpoints.workdir
        try:
            figure, told = best.read(workdir)
        except errors.UserError as error:
            return str(error), ()
        if figure not in ("", self._figure):
            logging.warning(
                "%s decided which checkpoint is the best, %s does from now on",
                *(figure, self._figure),
            )
            told = []
        self._before = [one for one in told if one.step <= self._start]
        last = self._before[-1] if self._before else best.START
        there = disk.available(self._checkpoints.directory)
        if last.best and last.best not in there:
            known = [one for one in self._before if one.best in there] or [best.START]
            logging.warning(
                "step %d, the best, is gone; step %d is the best there is",
                *(last.best, known[-1].best),
            )
            last = dataclasses.replace(known[-1], step=last.step, since=last.since)
        return "", dataclasses.astuple(last)

    @property
    def ended(self) -> bool:
        """Whether so many evaluations had nothing better that the run stops."""
        return 0 < self._stop_after <= self.last.since

    def judge(self, name: str, step: int, figures: Mapping[str, Any]) -> bool:
        """Returns whether a step is better than all before; each is judged once.

        Args:
            name: Of the evaluation.
            step: That was evaluated.
            figures: Of it, by their names in it.

        Raises:
            UserError: the figure is none of them.
        """
        if name != self._evaluation or step <= self.last.step:
            return False
        if self._name not in figures:
            raise _no_figure(self._figure, figures)
        found = figures[self._name]
        value = math.nan if found is None else float(found)
        self.last = best.judge(self._figure, self.last, step, value)
        self._before.append(self.last)
        self._pruning.bests.append(self.last.best)
        if jax.process_index() == 0:
            try:
                best.write(self._checkpoints.workdir, self._figure, self._before)
            except OSError as error:  # the next one is whole again
                logging.warning("%s is not written: %s", best.FILE, error)
        return self.last.best == step

    def tidy(self) -> None:
        """Leaves the best checkpoint and the newest alone, all of them written."""
        if jax.process_index() == 0:
            self._pruning.tidy(self._checkpoints.directory)

    def summary(self) -> str:
        """Returns what the end of a run says of its best checkpoint."""
        if self.last.value is None:
            return f", no checkpoint with a finite {self._figure}"
        found = f"{self._figure} {self.last.value:.4g} at step {self.last.best}"
        early = f", stopped after {self.last.since} no better" if self.ended else ""
        return f", best {found}{early} ({self._checkpoints.workdir}{best.NAME})"
