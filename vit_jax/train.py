"""One run, from its configuration to its last evaluation; the same call resumes it."""

import collections
import contextlib
import dataclasses
import logging
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vit_jax import cli, errors, evaluators, experiment, models, tree, weights
from vit_jax.checkpoints import checkpoint
from vit_jax.data import catalog, labels, loader
from vit_jax.evaluators import available
from vit_jax.learning import schedules
from vit_jax.parallel import hardware, memory
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.runs import (
    extension,
    measuring,
    metrics,
    overview,
    profiling,
    recent,
    stopping,
    watchdog,
)
from vit_jax.runs import workdir as workdir_lib
from vit_jax.settings import validation
from vit_jax.types import TrainState

IN_FLIGHT = 2  # steps the host may run ahead of the device


@dataclass
class Evaluation:
    """A named evaluator and how often it runs, in steps (0: only at the end)."""

    name: str
    every: int
    run: evaluators.Evaluator


def due(step: int, every: int, total: int) -> bool:
    """Whether something that happens `every` steps, and at the end, happens now."""
    return step == total or (every > 0 and step > 0 and step % every == 0)


def make_evaluations(exp: experiment.Experiment) -> list[Evaluation]:
    """Opens the datasets of `config.evals` and returns their evaluators."""
    data = exp.config["data"]
    result = []
    for name, options in exp.config["evals"].items():
        every = validation.duration(
            f"evals.{name}.every",
            options["every"],
            batch_size=exp.config["batch_size"],
            num_examples=catalog.num_examples(exp.info, data["train_split"]),
            total_steps=exp.durations.total,
        )
        run_ = evaluators.make(
            options,
            dataset=options["dataset"] or data["dataset"],
            data_dir=data["data_dir"],
            forward=exp.forward,
            preprocessing=exp.preprocessing,
            num_classes=exp.architecture.num_classes,
            batch_size=exp.config["batch_size"] // exp.config["microbatches"],
            mesh=exp.mesh,
            loss=exp.config["loss"],
            prediction=exp.evaluation,
            outputs=labels.Side(
                f"this run on {exp.info.name}",
                exp.architecture.num_classes,
                exp.info.label_names,
            ),
            mode=exp.config["labels"],
        )
        result.append(Evaluation(name, every or exp.durations.eval_every, run_))
    return result


def _with_available(exp: experiment.Experiment) -> experiment.Experiment:
    """Without the optional evaluations whose data is not there."""
    data = exp.config["data"]
    evals = available.available(
        exp.config["evals"], dataset=data["dataset"], data_dir=data["data_dir"]
    )
    return dataclasses.replace(exp, config=exp.config | {"evals": evals})


def _changed_evals(exp: experiment.Experiment, workdir: Path) -> set[str]:
    """Which evaluations are others than the workdir's; the same on every process.

    None of them goes on, and rewrites what the others read, before all have seen it.
    """
    evals = exp.config["evals"]
    seen = workdir_lib.changed_evals(workdir, evals)
    changed = available.on_any_process([name in seen for name in evals])
    return {name for name, is_changed in zip(evals, changed) if is_changed}


def _start(exp: experiment.Experiment) -> TrainState:
    """The state before the first step: from `init_from`, or from scratch."""
    state = exp.init()
    if not exp.config["init_from"]:
        return state
    with weights.pretrained.open_weights(exp.config["init_from"]) as opened:
        params, report = weights.adapting.adapt(
            opened.leaves,
            opened.architecture,
            exp.architecture,
            exp.state.params,
            keep_head=exp.config["keep_head"],
            head_order=exp.head_order,
            place=lambda array, like: mesh_lib.place(array, like.sharding),
            fresh=dict(tree.named_leaves(state.params)),
        )
    logging.info("weights of %s:\n%s", exp.config["init_from"], report)
    ema = None if state.ema is None else jax.tree.map(lambda x: x.copy(), params)
    return TrainState(state.step, params, state.opt_state, ema)


def restore_or_start(
    exp: experiment.Experiment, checkpoints: checkpoint.Checkpoints
) -> tuple[TrainState, int]:
    """Returns the newest state of the workdir, or that before the first step."""
    restored = checkpoints.restore(exp.state)
    if restored is None:
        state, step = _start(exp), 0
    else:
        state, step = restored
        logging.info("resuming at step %d of %d", step, exp.durations.total)
    checkpoints.set_aside_after(step)
    return state, step


def _stop_now(requests: stopping.Requests, step: int) -> bool:
    """Whether this step is the last; all processes agree on it."""
    if jax.process_count() == 1:
        return bool(requests)
    return multihost_utils.reached_preemption_sync_point(step)


class Run:
    """The loop's companions: what is written, evaluated and saved, and when."""

    def __init__(
        self,
        exp: experiment.Experiment,
        workdir: Path,
        checkpoints: checkpoint.Checkpoints,
        evaluations: list[Evaluation],
        start: int,
        watch: watchdog.Watchdog,
    ):
        self.exp, self.workdir, self.checkpoints = exp, workdir, checkpoints
        self.total = exp.durations.total
        self.writer = metrics.Writer(
            workdir, start_step=start, enabled=jax.process_index() == 0
        )
        self.clock = metrics.Clock(
            batch_size=exp.config["batch_size"],
            total_steps=self.total,
            flops_per_image=6 * models.forward_macs(exp.architecture),
            peak_flops=hardware.all_peak_flops(),
        )
        self.rates = schedules.Rates(exp.schedule, self.total)
        names = [name for name, _ in tree.named_leaves(exp.state.params)]
        at = checkpoints.directory / str(start)
        period = checkpoint.describe(at).period if start else {}
        self.recent = recent.Recent(names, period)
        self.evaluations = evaluations
        self.watch = watch
        # Several processes leave signals to JAX, which tells all of them.
        self.requests = stopping.Requests(watch.doing)
        self.listening = (
            self.requests.listening
            if jax.process_count() == 1
            else contextlib.nullcontext
        )
        self.saved = start

    def log(self, step: int, values: dict[str, jax.Array], *, due: bool) -> None:
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
        if jax.process_index() == 0:
            logging.info(metrics.progress_line(step, self.total, named))

    def _when(self, step: int) -> dict[str, float]:
        data = self.exp.config["data"]
        examples = catalog.num_examples(self.exp.info, data["train_split"])
        epoch = step * self.exp.config["batch_size"] / examples
        return {"epoch": epoch, metrics.WALL_TIME: round(time.time(), 3)}

    def evaluate(
        self, step: int, state: TrainState, *, skip: Collection[str] = ()
    ) -> None:
        """Runs the evaluators that are due and writes their figures."""
        params = state.params if state.ema is None else state.ema
        for evaluation in self.evaluations:
            if evaluation.name in skip or not due(step, evaluation.every, self.total):
                continue
            jax.block_until_ready(state.step)  # the steps' own time is theirs
            doing = self.watch.busy(f"evaluating {evaluation.name}")
            with doing, self.clock.paused(), self.requests.interruptible():
                figures = evaluation.run(params)
            named = {f"{evaluation.name}/{k}": v for k, v in figures.items()}
            self.writer.write(step, named | self._when(step))
            shown = metrics.figures_line(named)
            logging.info("step %d/%d | %s", step, self.total, shown)

    def save(self, step: int, state: TrainState) -> None:
        """Starts writing a checkpoint, after a look at what is being saved."""
        if step == self.saved:
            return
        self.recent.read(step)
        with self.watch.busy("saving"), self.clock.paused():
            self.checkpoints.save(state, self.describe(step))
        self.saved = step

    def preempted(self, step: int) -> errors.Preempted:
        """What ends a run that was asked to stop."""
        return errors.Preempted(
            f"asked to stop; saved step {step} of {self.total}. "
            "Run the same command again to go on from there"
        )

    def summary(self, *, corrupt: int) -> str:
        """One line at the end of the run."""
        figures = self.clock.summary()
        rate = f"{figures['images_per_second']:,.0f} images/s, " if figures else ""
        bad = f", {corrupt} unreadable images replaced" if corrupt else ""
        return f"done: {self.total} steps, {rate}everything in {self.workdir}{bad}"

    def describe(self, step: int) -> checkpoint.Description:
        """What is stored beside the arrays."""
        return checkpoint.Description(
            architecture=self.exp.architecture,
            preprocessing=self.exp.preprocessing,
            label_names=self.exp.info.label_names,
            config=self.exp.config,
            step=step,
            versions=checkpoint.versions(),
            period=self.recent.state(),
        )


def _loop(
    run_: Run,
    state: TrainState,
    start: int,
    batches: Iterator[Any],
    tracing: profiling.Trace,
) -> TrainState:
    """Steps from `start` to the end; every value is read when the device is past it."""
    exp, durations = run_.exp, run_.exp.durations
    running: collections.deque[jax.Array] = collections.deque()
    pending: dict[str, Any] | None = None
    with run_.listening(), tracing:
        for step in range(start + 1, durations.total + 1):
            tracing.before(step - start)
            waited = time.perf_counter()
            batch = mesh_lib.to_global(next(batches), exp.mesh)
            run_.clock.waited(time.perf_counter() - waited)
            state, values = exp.train_step(state, batch)
            run_.recent.add(step, values)
            running.append(values["loss"])
            if len(running) > IN_FLIGHT:
                running.popleft().block_until_ready()
                run_.watch.step(step - IN_FLIGHT)
                if len(run_.recent) > recent.LIMIT:
                    run_.recent.read(step - IN_FLIGHT)
            if pending is not None:
                run_.log(**pending)
            logs = due(step, durations.log_every, durations.total)
            pending = None
            if logs or step == start + 1:
                pending = {"step": step, "values": values, "due": logs}
            stop = _stop_now(run_.requests, step)
            if stop or due(step, durations.save_every, durations.total):
                if pending is not None:  # what a checkpoint is past is on disk
                    run_.log(**pending)
                    pending = None
                run_.save(step, state)
            if stop and step < durations.total:
                raise run_.preempted(step)
            try:
                run_.evaluate(step, state)
            except stopping.Interrupted:
                if pending is not None:
                    run_.log(**pending)
                run_.save(step, state)
                raise run_.preempted(step) from None
    return state


def _try_digits(config: Mapping[str, Any]) -> str:
    """Flags that run a recipe where its data are not: on the digits in the package."""
    words = [
        "--config.data.dataset=digits --config.data.train_split=train",
        "--config.batch_size=16 --config.total='20 steps' --config.optimizer.warmup=5%",
        *(f"--config.evals.{name}.split=test" for name in config["evals"]),
        "--workdir=workdirs/try",
    ]
    return "Or see this model run, on the bundled digits: add " + " ".join(words)


def _train_source(exp: experiment.Experiment) -> Any:
    data = exp.config["data"]
    try:
        return catalog.open_source(
            data["dataset"], data["train_split"], data_dir=data["data_dir"]
        )
    except errors.UserError as error:
        if exp.info.prepared or data["dataset"] != "imagenet2012":
            raise
        raise errors.UserError(f"{error}\n{_try_digits(exp.config)}") from error


def _train_batches(exp: experiment.Experiment, source: Any) -> Any:
    data = exp.config["data"]
    return loader.train_loader(
        source,
        exp.train_transform,
        batch_size=exp.config["batch_size"],
        seed=exp.config["seed"],
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        rows=mesh_lib.local_rows(exp.mesh, exp.config["batch_size"]),
        threads=data["threads"],
        cache=data["cache"],
        max_corrupt=data["max_corrupt"],
        sharding=mesh_lib.batch_sharding(exp.mesh),
    )


def _compiled(exp: experiment.Experiment) -> experiment.Experiment:
    """Compiles the step before anything is placed, and refuses one that cannot fit."""
    step, found = memory.compile_step(
        *(exp.train_step, exp.state, exp.batch, exp.mesh),
        layout=exp.layout.name,
        remat=exp.architecture.remat,
        microbatches=exp.config["microbatches"],
    )
    logging.info(memory.describe(found, exp.mesh.devices.flat[0]))
    return dataclasses.replace(exp, train_step=step)


def _check_start(exp: experiment.Experiment) -> None:
    """Raises `UserError` for an `init_from` that is missing or does not fit."""
    if exp.config["init_from"]:
        with weights.pretrained.open_weights(exp.config["init_from"]) as opened:
            weights.adapting.check_adapt(
                opened.leaves,
                opened.architecture,
                exp.architecture,
                exp.state.params,
                keep_head=exp.config["keep_head"],
            )


def _prepare(
    exp: experiment.Experiment, checkpoints: checkpoint.Checkpoints, source: Any
) -> tuple[experiment.Experiment, TrainState, int, Any]:
    """Compiles, restores or starts, and opens the batches: what takes time and memory.

    Raises:
        UserError: what does not fit into memory, or cannot be read.
    """
    try:
        exp = _compiled(exp)
        state, start = restore_or_start(exp, checkpoints)
        return exp, state, start, _train_batches(exp, source)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        sizes = exp.config["batch_size"], exp.config["microbatches"]
        raise memory.out_of_memory(error, *sizes) from error


def run(
    config: Mapping[str, Any],
    workdir: str | Path,
    mesh: Mesh,
    *,
    profile: bool = False,
    parameters: bool = False,
    stall_timeout: float = 0.0,
) -> dict[str, float]:
    """Trains to the end of `config.total`, or goes on where a run stopped.

    A total of "0 steps" evaluates `config.init_from` and ends: see `measuring`. A run
    that stopped or ended goes on to a larger `total` where its learning rates so far do
    not depend on it.

    Args:
        config: as `configs/base.py` gives it.
        workdir: its config.json, metrics.jsonl, TensorBoard files and checkpoints.
        mesh: from `mesh.make_mesh`.
        profile: trace a few steps into workdir/profile.
        parameters: log every parameter, in place of a summary.
        stall_timeout: seconds without a step after which the process ends with 42;
            0: never. See `watchdog`.

    Returns:
        The figures of the last evaluations, "test/top1" for instance.

    Raises:
        UserError: bad input, before anything expensive starts.
        NonFiniteError: the loss is no number any more.
        Preempted: stopped by SIGTERM, with its state saved.
    """
    validation.check_local(workdir, "workdir")
    if validation.no_steps(config["total"]):
        return measuring.run(config, workdir, mesh)
    workdir = Path(workdir)
    began = extension.began(config, workdir)
    exp = _with_available(experiment.assemble(config, mesh, start=began))
    total = exp.durations.total
    checkpoints = checkpoint.Checkpoints(workdir, keep=exp.config["keep"])
    reached = checkpoints.latest()
    extension.check_workdir(exp, workdir, reached or 0)
    figures = workdir_lib.figures_at(workdir, total)
    changed = _changed_evals(exp, workdir)
    has = figures.keys() - changed
    if reached == total and has >= set(exp.config["evals"]):
        logging.info("done: %s is at step %d of %d already", workdir, total, total)
        if profile:
            logging.warning("no profile: no step is left to trace")
        return workdir_lib.flat(figures)
    if reached is None:
        _check_start(exp)
    source = _train_source(exp)
    evaluations = make_evaluations(exp)
    workdir_lib.forget(workdir, reached or 0, changed)
    with workdir_lib.started(workdir, exp.config):
        logging.info("workdir %s", workdir)
        logging.info(overview.overview(exp, parameters=parameters))
        exp, state, start, batches = _prepare(exp, checkpoints, source)
    watch = watchdog.Watchdog(stall_timeout)
    run_ = Run(exp, workdir, checkpoints, evaluations, start, watch)
    tracing = profiling.Trace(workdir / "profile", profile, total - start)
    try:
        if start:  # it may have stopped between saving and evaluating
            run_.evaluate(start, state, skip=workdir_lib.figures_at(workdir, start))
        _loop(run_, state, start, batches.iterate(start), tracing)
    finally:
        watch.close()
        batches.close()
        run_.writer.close()
        checkpoints.close()
    logging.info(run_.summary(corrupt=len(batches.corrupt)))
    return workdir_lib.flat(workdir_lib.figures_at(workdir, total))


if __name__ == "__main__":
    cli.no_command("vit_jax.train", "python -m vit_jax.main --config=configs/FILE.py")
