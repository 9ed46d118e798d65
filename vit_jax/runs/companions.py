"""What accompanies the steps of a run: its figures, evaluations and checkpoints."""

import collections
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from vit_jax import cli, errors, experiment, models, tree
from vit_jax.checkpoints import checkpoint, manager
from vit_jax.data import catalog
from vit_jax.learning import schedules
from vit_jax.parallel import hardware
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.runs import evaluations as evaluations_lib
from vit_jax.runs import metrics, phases, recent, starting, stopping
from vit_jax.runs import workdir as workdir_lib
from vit_jax.types import Batch, Metrics, TrainState

Figures = Mapping[str, float | None]
IN_FLIGHT = 2  # steps the host may run ahead of the device


def due(step: int, every: int, total: int) -> bool:
    """Returns whether what happens `every` steps, and at the end, happens now."""
    return step == total or (every > 0 and step > 0 and step % every == 0)


class Run:
    """The loop's companions: what is written, evaluated and saved, and how.

    Attributes:
        start: steps done before.
        total: steps in all; fewer once it stops early.
        requests: to stop, and the phases of the process.

    Args:
        exp: the run.
        workdir: its folder.
        checkpoints: of the workdir.
        evaluations: all of the run.
        start: steps done before.
        requests: to stop; the same that the evaluations look at.
        batch: from a step to the source and the number of the batch it is taken on.
        on_storage_error: a key of `storage.POLICIES`.
    """

    def __init__(
        self,
        exp: experiment.Experiment,
        workdir: Path,
        checkpoints: manager.Checkpoints,
        evaluations: Sequence[evaluations_lib.Evaluation],
        start: int,
        requests: stopping.Requests,
        batch: Callable[[int], tuple[Any, int]],
        *,
        on_storage_error: str = "stop",
    ):
        from vit_jax.runs import storage  # which loads when a run is made

        self.exp, self.workdir, self.checkpoints = exp, workdir, checkpoints
        self.start, self.total = start, exp.durations.total
        self._storage = storage.of_run(
            *(workdir, exp.config, checkpoints, exp.writers, start),
            policy=on_storage_error,
        )
        self.writer = self._storage.writer
        self.clock = metrics.Clock(
            batch_size=exp.batch_size,
            total_steps=self.total,
            flops_per_image=6 * models.forward_macs(exp.architecture),
            peak_flops=hardware.all_peak_flops(),
        )
        self.rates = schedules.Rates(exp.schedule, self.total)
        names = [name for name, _ in tree.named_leaves(exp.state.params)]
        at = checkpoints.directory / str(start)
        period = checkpoint.describe(at).period if start else {}
        self.recent = recent.Recent(
            *(names, period), bad_in_a_row=exp.skip_bad_steps, tell=self._bad
        )
        self._batch = batch
        self.evaluations = evaluations
        self.best = starting.best(exp, checkpoints, start)
        self.requests, self.phases = requests, requests.phases
        self.phases.mark(start)
        self._examples = catalog.num_examples(exp.info, exp.data.train_split)
        self._saved = start
        self._running: collections.deque[jax.Array] = collections.deque()
        self._pending: dict[str, Any] | None = None
        self._tell: cli.Tell | None = None
        checkpoints.prepare(exp.state)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Shows on a terminal where the run is, in the place of lines in the log."""
        with cli.progress("step", self.total, self.start) as self._tell:
            yield

    def _bad(self, step: int, loss: float, leaves: Sequence[str]) -> str:
        from vit_jax.runs import bad_steps  # which few runs have

        named = bad_steps.examples(self.exp, *self._batch(step))
        return bad_steps.tell(self.workdir, step, loss, leaves, named)

    def due(self, step: int, every: int) -> bool:
        """Returns whether what happens `every` steps, and at the end, happens now."""
        return due(step, every, self.total)

    def next_batch(self, batches: Iterator[Batch]) -> Batch:
        """Takes the next batch and places it on the devices.

        Raises:
            Interrupted: asked to stop, while it waits.
        """
        began = time.perf_counter()
        with self.phases.within(phases.INPUT):
            with self.requests.interruptible(stopping.PATIENCE):
                local = next(batches)
            # Asked for; among several processes JAX does not see that it is.
            with jax.transfer_guard_host_to_device("allow"):
                batch = mesh_lib.to_global(local, self.exp.mesh)
        self.clock.waited(time.perf_counter() - began)
        return batch

    def started(self, step: int, values: Metrics) -> None:
        """Keeps what a step that was just given to the device will yield.

        Waits where the host would be more than `IN_FLIGHT` steps ahead of the device.
        """
        self.recent.add(step, values)
        self._running.append(values["loss"])
        if len(self._running) > IN_FLIGHT:
            self._running.popleft().block_until_ready()
            self.phases.stepped(step - IN_FLIGHT)
            if self._tell is not None:
                self._tell(step - IN_FLIGHT)
            if len(self.recent) > recent.LIMIT:
                self.recent.read(step - IN_FLIGHT)

    def log_later(self, step: int, values: Metrics) -> None:
        """Has the next `log` tell of this step, where there is something to tell."""
        logs = self.due(step, self.exp.durations.log_every)
        if logs or step == self.start + 1:
            self._pending = {"step": step, "values": values, "due": logs}

    def log(self) -> None:
        """Tells of the step that `log_later` was given, if any, and only once."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._log(**pending)

    def _log(self, step: int, values: Metrics, *, due: bool) -> None:
        """Says where a finished step is, and writes its metrics where they are due."""
        self.recent.read(step)
        read = jax.device_get({k: v for k, v in values.items() if v.ndim == 0})
        named = {name: float(value) for name, value in read.items()}
        if due:
            named |= self.recent.means()
        named["learning_rate"] = self.rates[step - 1]
        named |= self.clock.tick(step)
        named["memory_bytes"] = hardware.memory_in_use()
        if due or step == 1:
            self.writer.write(step, named | self._when(step))
        if self._tell is not None:
            self._tell(step, metrics.shown(named))
        elif jax.process_index() == 0:
            logging.info(metrics.progress_line(step, self.total, named))
        if due:
            every = self.exp.durations.save_every or self.total
            following = min(step - step % every + every, self.total)
            self._storage.look(self._saved, following)

    def _when(self, step: int) -> dict[str, float]:
        return {
            "epoch": step * self.exp.batch_size / self._examples,
            metrics.WALL_TIME: round(time.time(), 3),
        }

    def evaluate(
        self, step: int, state: TrainState, *, done: Mapping[str, Figures] = {}
    ) -> None:
        """Runs the evaluators that are due and writes their figures.

        Args:
            step: which it is.
            state: after it.
            done: the figures of those that need not be run.

        Raises:
            Preempted: cut short by a request to stop; the state is saved.
        """
        try:
            self._evaluate(step, state, done)
        except stopping.Interrupted:
            raise self.preempted(step, state) from None

    def _evaluate(
        self, step: int, state: TrainState, done: Mapping[str, Figures]
    ) -> None:
        for evaluation in self.evaluations:
            name = evaluation.name
            if name not in done and not self.due(step, evaluation.every):
                continue
            figures = done[name] if name in done else self._run(evaluation, step, state)
            if self.best is not None and self.best.judge(name, step, figures):
                self.save(step, state)
        if step == self._saved:  # neither are its evaluations made again
            self.phases.mark(step)

    def _run(
        self, evaluation: evaluations_lib.Evaluation, step: int, state: TrainState
    ) -> Figures:
        """Runs an evaluator and writes its figures."""
        jax.block_until_ready(state.step)  # the steps' own time is theirs
        doing = self.phases.within(phases.EVALUATION, evaluation.name)
        moving = jax.transfer_guard("allow")
        with doing, moving, self.clock.paused(), self.requests.interruptible():
            figures = evaluation.run(state.params if state.ema is None else state.ema)
        named = {f"{evaluation.name}/{k}": v for k, v in figures.items()}
        self.writer.write(step, named | self._when(step))
        self.writer.keep()
        logging.info("step %d/%d | %s", step, self.total, metrics.figures_line(named))
        return figures

    def ends(self, step: int, state: TrainState) -> bool:
        """Returns whether a run stops early, after what is due at the end of any."""
        if self.best is None or not self.best.ended or step == self.total:
            return False
        self.total = step
        self.save(step, state)
        self.evaluate(step, state, done=workdir_lib.figures_at(self.workdir, step))
        return True

    def save(self, step: int, state: TrainState) -> None:
        """Starts writing a checkpoint, after a look at what is being saved.

        What it is past is in metrics.jsonl by then. A second call for a step does
        nothing more.
        """
        self.log()
        if step == self._saved:
            return
        self.recent.read(step)
        moving = jax.transfer_guard("allow")
        with self.phases.within(phases.SAVE), moving, self.clock.paused():
            begin = functools.partial(self._begin_save, step, state)
            if not self._storage.saves(step, self._saved, begin):
                return
        self._saved = step
        self.phases.mark(step)

    def _begin_save(self, step: int, state: TrainState) -> None:
        self.writer.keep()
        self.checkpoints.save(state, self.describe(step))

    def preempted(self, step: int, state: TrainState) -> errors.Preempted:
        """Saves, and returns what ends a run that was asked to stop."""
        self.save(step, state)
        self._storage.check()
        done = f"saved step {step} of {self.total}" if step else "before the first step"
        return errors.Preempted(f"asked to stop; {done}. {stopping.AGAIN}")

    def summary(self, *, corrupt: Sequence[str]) -> str:
        """Returns one line for the end of the run, with the images it did not read."""
        figures = self.clock.summary()
        rate = f"{figures['images_per_second']:,.0f} images/s, " if figures else ""
        bad = ""
        if corrupt:
            names = errors.some(corrupt)
            bad = f", {len(corrupt)} unreadable images replaced ({names})"
        skipped = self.recent.left_out
        bad += f", {skipped} bad steps left out" if skipped else ""
        bad += "" if self.best is None else self.best.summary()
        return f"done: {self.total} steps, {rate}everything in {self.workdir}{bad}"

    def close(self) -> None:
        """Waits for what is being written; raises what went wrong with it."""
        self.phases.enter(phases.SAVE, "what is not on disk yet")
        try:
            self.checkpoints.close()
            self._storage.check()
            if self.best is not None:
                self.best.tidy()
            if self.phases.account is not None:
                figures = self.phases.account() | self._when(self._saved)
                self.writer.write(self._saved, figures)
        finally:
            self.writer.close()  # a service may take its time

    def describe(self, step: int) -> checkpoint.Description:
        """Returns what is stored beside the arrays."""
        return checkpoint.Description(
            architecture=self.exp.architecture,
            preprocessing=self.exp.preprocessing,
            label_names=self.exp.info.label_names,
            config=self.exp.config,
            step=step,
            versions=checkpoint.versions(),
            period=self.recent.state(),
        )
