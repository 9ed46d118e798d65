"""One run, from its configuration to its last evaluation; the same call resumes it."""

import collections
import dataclasses
import logging
import signal
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clu.parameter_overview
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vit_jax import (
    checkpoint,
    errors,
    evaluators,
    experiment,
    hardware,
    labels,
    measuring,
    metrics,
    models,
    planning,
    pretrained,
    tree,
    validation,
    watchdog,
)
from vit_jax import mesh as mesh_lib
from vit_jax import workdir as workdir_lib
from vit_jax.data import catalog, loader
from vit_jax.evaluators import available
from vit_jax.step import TrainState

IN_FLIGHT = 2  # steps the host may run ahead of the device
PROFILED_STEPS = 5


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
            prediction=exp.prediction,
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
    with pretrained.open_weights(exp.config["init_from"]) as weights:
        params, report = pretrained.adapt(
            weights.leaves,
            weights.architecture,
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


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT (the first of it) in a list.

    One of several processes leaves signals to JAX, which tells all the others.
    """
    received: list[int] = []
    previous = {}

    def handler(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    alone = jax.process_count() == 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT) if alone else ():
            previous[number] = signal.signal(number, handler)
    except ValueError:  # not in the main thread, as when a notebook runs in one
        logging.info("no signal handler outside the main thread")
    try:
        yield received
    finally:
        for number, action in previous.items():
            signal.signal(number, action)


def _stop_now(received: list[int], step: int) -> bool:
    """Whether this step is the last; all processes agree on it."""
    if jax.process_count() == 1:
        return bool(received)
    return multihost_utils.reached_preemption_sync_point(step)


class Health:
    """Keeps the last losses on the device and stops a run that is not finite."""

    def __init__(self, names: list[str]):
        self._names = names
        self._recent: list[tuple[int, dict[str, jax.Array]]] = []

    def add(self, step: int, values: dict[str, jax.Array]) -> None:
        """Remembers a step's `loss` and `grad_squares` without reading them."""
        kept = {name: values[name] for name in ("loss", "grad_squares")}
        self._recent.append((step, kept))

    def check(self) -> None:
        """Reads what was added; raises `NonFiniteError` at the first bad step."""
        recent, self._recent = self._recent, []
        for step, values in jax.device_get(recent):
            bad = ~np.isfinite(values["grad_squares"])
            if np.isfinite(values["loss"]) and not bad.any():
                continue
            named = [self._names[i] for i in np.flatnonzero(bad)]
            leaves = ", ".join(named[:5]) or "none"
            more = f" and {len(named) - 5} more" if len(named) > 5 else ""
            raise errors.NonFiniteError(
                f"step {step}: loss {values['loss']}; leaves with a non-finite "
                f"gradient: {leaves}{more}.\nNothing of it was saved: the newest "
                "checkpoint is from before. Lower optimizer.lr, set "
                "optimizer.clip_norm, or use model.compute_dtype=float32"
            )


class Run:
    """The loop's companions: what is written, evaluated and saved, and when."""

    def __init__(
        self,
        exp: experiment.Experiment,
        workdir: Path,
        checkpoints: checkpoint.Checkpoints,
        evaluations: list[Evaluation],
        start: int,
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
            peak_flops=_peak_flops(),
        )
        names = [name for name, _ in tree.named_leaves(exp.state.params)]
        self.health = Health(names)
        self.evaluations = evaluations

    def log(self, step: int, values: dict[str, jax.Array]) -> None:
        """Writes the metrics of a finished step and one progress line."""
        read = jax.device_get({k: v for k, v in values.items() if v.ndim == 0})
        named = {name: float(value) for name, value in read.items()}
        named["learning_rate"] = float(self.exp.schedule(step - 1))
        named |= self.clock.tick(step)
        memory = hardware.device_memory(jax.local_devices()[0])
        named["memory_bytes"] = memory or hardware.host_memory()  # a CPU cannot say
        self.writer.write(step, named)
        if jax.process_index() == 0:
            logging.info(metrics.progress_line(step, self.total, named))

    def evaluate(
        self, step: int, state: TrainState, *, skip: Collection[str] = ()
    ) -> None:
        """Runs the evaluators that are due and writes their figures."""
        params = state.params if state.ema is None else state.ema
        for evaluation in self.evaluations:
            if evaluation.name in skip or not due(step, evaluation.every, self.total):
                continue
            with self.clock.paused():
                figures = evaluation.run(params)
            named = {f"{evaluation.name}/{k}": v for k, v in figures.items()}
            self.writer.write(step, named)
            shown = metrics.figures_line(named)
            logging.info("step %d/%d | %s", step, self.total, shown)

    def save(self, step: int, state: TrainState) -> None:
        """Starts writing a checkpoint, after a look at what is being saved."""
        self.health.check()
        with self.clock.paused():
            self.checkpoints.save(state, self.describe(step))

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
        )


def _peak_flops() -> float | None:
    peaks = [hardware.peak_flops(device) for device in jax.devices()]
    return None if None in peaks else sum(peaks)


def _loop(
    run_: Run,
    state: TrainState,
    start: int,
    batches: Iterator[Any],
    watch: watchdog.Watchdog,
    profile: bool,
) -> TrainState:
    """Steps from `start` to the end; every value is read when the device is past it."""
    exp, durations = run_.exp, run_.exp.durations
    running: collections.deque[jax.Array] = collections.deque()
    pending: tuple[int, dict[str, jax.Array]] | None = None
    with _stop_requests() as stop:
        for step in range(start + 1, durations.total + 1):
            _profile(run_.workdir, profile, step - start)
            waited = time.perf_counter()
            batch = mesh_lib.to_global(next(batches), exp.mesh)
            run_.clock.waited(time.perf_counter() - waited)
            state, values = exp.train_step(state, batch)
            run_.health.add(step, values)
            running.append(values["loss"])
            if len(running) > IN_FLIGHT:
                running.popleft().block_until_ready()
                watch.step(step - IN_FLIGHT)
            if pending is not None:
                run_.health.check()
                run_.log(*pending)
            logs = due(step, durations.log_every, durations.total)
            pending = (step, values) if logs or step == start + 1 else None
            stopping = _stop_now(stop, step)
            if stopping or due(step, durations.save_every, durations.total):
                if pending is not None:  # what a checkpoint is past is on disk
                    run_.health.check()
                    run_.log(*pending)
                    pending = None
                with watch.busy("saving"):
                    run_.save(step, state)
            if stopping and step < durations.total:
                raise errors.Preempted(
                    f"asked to stop; saved step {step} of {durations.total}. "
                    "Run the same command again to go on from there"
                )
            with watch.busy("evaluating"):
                run_.evaluate(step, state)
    return state


def _profile(workdir: Path, wanted: bool, done: int) -> None:
    """Traces a few steps after the first ones, for TensorBoard or Perfetto."""
    if wanted and done == IN_FLIGHT + 2:
        jax.profiler.start_trace(workdir / "profile")
    if wanted and done == IN_FLIGHT + 2 + PROFILED_STEPS:
        jax.profiler.stop_trace()
        logging.info("profile of %d steps in %s", PROFILED_STEPS, workdir / "profile")


TRY_CIFAR10 = (
    "Or try this model on CIFAR-10: add --config.data.dataset=cifar10 "
    "--config.batch_size=64 --config.total='5 epochs' --config.optimizer.warmup=5% "
    "--config.evals.val.split=test --workdir=workdirs/try"
)


def _train_source(exp: experiment.Experiment) -> Any:
    data = exp.config["data"]
    try:
        return catalog.open_source(
            data["dataset"], data["train_split"], data_dir=data["data_dir"]
        )
    except errors.UserError as error:
        if exp.info.prepared or data["dataset"] != "imagenet2012":
            raise
        raise errors.UserError(f"{error}\n{TRY_CIFAR10}") from error


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


def overview(exp: experiment.Experiment) -> str:
    """The table of parameters and one line about the run."""
    table = clu.parameter_overview.get_parameter_overview(
        exp.state.params, include_stats=False
    )
    count = models.count_parameters(exp.architecture)
    macs = models.forward_macs(exp.architecture)
    devices = jax.devices()
    return (
        f"{table}\n{exp.architecture.name}: {count:,} parameters, "
        f"{macs / 1e9:.4g} GMAC an image; {exp.durations.total:,} steps of "
        f"{exp.config['batch_size']} on {len(devices)} x {devices[0].device_kind}"
    )


def _compiled(exp: experiment.Experiment) -> experiment.Experiment:
    """Compiles the step before anything is placed, and refuses one that cannot fit."""
    step, memory = planning.compile_step(exp)
    logging.info(planning.describe(memory, exp.mesh.devices.flat[0]))
    return dataclasses.replace(exp, train_step=step)


def run(
    config: Mapping[str, Any],
    workdir: str | Path,
    mesh: Mesh,
    *,
    profile: bool = False,
    stall_timeout: float = 0.0,
) -> dict[str, float]:
    """Trains to the end of `config.total`, or goes on where a run stopped.

    A total of "0 steps" evaluates `config.init_from` and ends: see `measuring`.

    Args:
        config: as `configs/base.py` gives it.
        workdir: its config.json, metrics.jsonl, TensorBoard files and checkpoints.
        mesh: from `mesh.make_mesh`.
        profile: trace a few steps into workdir/profile.
        stall_timeout: seconds without a step after which the process ends with 42;
            0: never. See `watchdog`.

    Returns:
        The figures of the last evaluations, "test/top1" for instance.

    Raises:
        UserError: bad input, before anything expensive starts.
        NonFiniteError: the loss is no number any more.
        Preempted: stopped by SIGTERM, with its state saved.
    """
    if validation.no_steps(config["total"]):
        return measuring.run(config, workdir, mesh)
    exp = _with_available(experiment.assemble(config, mesh))
    workdir = Path(workdir)
    total = exp.durations.total
    workdir_lib.check(workdir, exp.config)
    checkpoints = checkpoint.Checkpoints(workdir, keep=exp.config["keep"])
    figures = workdir_lib.figures_at(workdir, total)
    changed = _changed_evals(exp, workdir)
    has = figures.keys() - changed
    if checkpoints.latest() == total and has >= set(exp.config["evals"]):
        logging.info("done: %s is at step %d of %d already", workdir, total, total)
        return workdir_lib.flat(figures)
    logging.info(overview(exp))
    source = _train_source(exp)
    evaluations = make_evaluations(exp)
    workdir_lib.forget(workdir, checkpoints.latest() or 0, changed)
    workdir_lib.write_config(workdir, exp.config)
    try:
        exp = _compiled(exp)
    except errors.UserError:
        if checkpoints.latest() is None:  # so the next try may be another configuration
            workdir_lib.remove_config(workdir)
        raise
    state, start = restore_or_start(exp, checkpoints)
    batches = _train_batches(exp, source)
    run_ = Run(exp, workdir, checkpoints, evaluations, start)
    watch = watchdog.Watchdog(stall_timeout)
    try:
        if start:  # it may have stopped between saving and evaluating
            run_.evaluate(start, state, skip=workdir_lib.figures_at(workdir, start))
        _loop(run_, state, start, batches.iterate(start), watch, profile)
    finally:
        watch.close()
        batches.close()
        run_.writer.close()
        checkpoints.close()
    logging.info(run_.summary(corrupt=len(batches.corrupt)))
    return workdir_lib.flat(workdir_lib.figures_at(workdir, total))
