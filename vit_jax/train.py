"""One run, from its configuration to its last evaluation; the same call resumes it."""

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from vit_jax import cli, errors, experiment
from vit_jax.checkpoints import manager
from vit_jax.data import catalog
from vit_jax.host import files
from vit_jax.parallel import memory
from vit_jax.runs import (
    companions,
    evaluations,
    extension,
    overview,
    phases,
    profiling,
    starting,
    stopping,
    watchdog,
)
from vit_jax.runs import workdir as workdir_lib
from vit_jax.settings import durations, naming, recipe, sections, validation
from vit_jax.types import Batch, Params, TrainState


def _loop(
    run_: companions.Run,
    state: TrainState,
    batches: Iterator[Batch],
    tracing: profiling.Trace,
    frozen: Sequence[Params],
) -> None:
    """Takes the steps of a run, from where it stands to its end.

    The order of a turn is an invariant:

    1. The device gets the next step first, so that it is busy during all the rest.
    2. The previous step's figures are read only then, when the device is past it. The
       host waits nowhere else: the guard refuses any transfer that nobody asked for.
    3. Figures are on disk before the checkpoint that is past them, and a checkpoint
       before its evaluations: a run that ends in between misses nothing when it goes
       on: it makes up for the evaluations first.
    4. A request to stop is looked for once a turn, by all processes at the same step,
       and answered with a checkpoint. An evaluation that it cuts short is made again.
    """
    exp = run_.exp
    requests = run_.requests
    guard = jax.transfer_guard("disallow")
    explained = memory.explained(exp.batch_size, exp.microbatches)
    with requests.listening(), run_.shown(), tracing, guard, explained:
        if run_.start:  # it may have stopped between saving and evaluating
            done = workdir_lib.figures_at(run_.workdir, run_.start)
            run_.evaluate(run_.start, state, done=done)
            if run_.ends(run_.start, state):
                return
        requests.phases.enter(phases.FIRST_STEP)
        for step in range(run_.start + 1, run_.total + 1):
            tracing.before(step - run_.start)
            try:
                batch = run_.next_batch(batches)
            except stopping.Interrupted:
                raise run_.preempted(step - 1, state) from None
            state, values = exp.train_step(state, batch, *frozen)
            run_.started(step, values)
            run_.log()  # the previous step: the device is busy with this one
            run_.log_later(step, values)
            stop = requests.turn()
            if stop and step < run_.total:
                raise run_.preempted(step, state)
            if stop or run_.due(step, exp.durations.save_every):
                run_.save(step, state)
            run_.evaluate(step, state)
            if run_.ends(step, state):
                return


def _prepare(
    exp: experiment.Experiment,
    checkpoints: manager.Checkpoints,
    source: Any,
    during: phases.Phases,
    *,
    anew: bool,
) -> tuple[experiment.Experiment, TrainState, int, Any, list[Params]]:
    """Compiles, restores or starts, and opens the batches: what takes time and memory.

    Raises:
        UserError: what does not fit into memory, or cannot be read.
    """
    from vit_jax.runs import compiling  # which loads when a run is made

    with memory.explained(exp.batch_size, exp.microbatches):
        with during.within(phases.COMPILE):
            exp = compiling.compiled(exp, anew=anew)
        state, start = starting.restore_or_start(exp, checkpoints)
        batches = starting.train_batches(exp, source)
        return exp, state, start, batches, starting.frozen(exp)


def _run_on(
    source: Any,
    info: catalog.DatasetInfo | None,
    config: Mapping[str, Any],
    workdir: str | Path,
    mesh: Mesh,
    options: Mapping[str, Any],
) -> dict[str, float | None]:
    """Trains as `run`, on a dataset that a program hands over."""
    from vit_jax.data import handed

    if durations.trains_nothing(config):
        raise errors.UserError(
            "source= is trained on, and total='0 steps' trains nothing; evaluate on a "
            "dataset by its name, py:MODULE:FUNCTION for instance"
        )
    given = handed.opened(source, info, naming.columns_of(config))
    with handed.known(given):
        return run(naming.with_dataset(config, given.name), workdir, mesh, **options)


def _measured(
    exp: experiment.Experiment, workdir: Path, end: int, changed: Collection[str]
) -> dict[str, float | None] | None:
    """The figures of a run that is at its end; None where some are missing."""
    figures = workdir_lib.figures_at(workdir, end)
    has = figures.keys() - changed
    whole = has >= {one.name for one in exp.evals}
    return workdir_lib.flat(figures) if whole else None


@contextlib.contextmanager
def _alone_in(
    workdir: Path,
    checkpoints: manager.Checkpoints,
    reached: int | None,
    requests: stopping.Requests,
) -> Iterator[None]:
    """Has a workdir for this run alone, which process 0 locks, as it was found."""
    from vit_jax.runs import lock  # which loads when a run is made

    first = jax.process_index() == 0
    locked = lock.held(workdir) if first else contextlib.nullcontext(lambda: None)
    with locked as undo, requests.undoing(undo):
        if checkpoints.latest() != reached:
            raise errors.Preempted(f"{workdir} went on meanwhile. {stopping.AGAIN}")
        yield


def _check_writers(exp: experiment.Experiment, workdir: Path, policy: str) -> None:
    from vit_jax.runs import storage, writers  # which load when a run is made

    errors.lookup(storage.POLICIES, policy, "on_storage_error")
    writers.check(exp.writers, workdir)


def _train(
    config: Mapping[str, Any],
    workdir: Path,
    mesh: Mesh,
    limits: watchdog.Limits,
    *,
    profile: bool,
    parameters: bool,
    on_storage_error: str,
) -> dict[str, float | None]:
    """Trains as `run`, to the end or a row of bad steps."""
    from vit_jax.settings import effects  # which loads when a run is made

    began = extension.began(config, workdir)
    exp = experiment.assemble(config, mesh, start=began)
    _check_writers(exp, workdir, on_storage_error)
    exp = exp.evaluating(evaluations.available(exp.evals, data_dir=exp.data.data_dir))
    total = exp.durations.total
    checkpoints = manager.shared(workdir, keep=exp.keep)
    reached = checkpoints.latest()
    extension.check_workdir(exp, workdir, reached or 0)
    changed = evaluations.changed(exp, workdir)
    best = starting.best(exp, checkpoints, reached or 0)
    end = reached if reached and best and best.ended else total
    figures = _measured(exp, workdir, end, changed)
    if reached == end and figures is not None and checkpoints.verifies(end):
        logging.info("done: %s is at step %d of %d already", workdir, end, total)
        if profile:
            logging.warning("no profile: no step is left to trace")
        return figures
    requests = stopping.of_process()
    source = starting.train_source(exp)
    evaluators = evaluations.make(exp, requests.check)
    with _alone_in(workdir, checkpoints, reached, requests):
        workdir_lib.forget(workdir, reached or 0, changed)
        with workdir_lib.started(workdir, exp.config) as undo, requests.undoing(undo):
            logging.info("workdir %s", workdir)
            effects.tell(*validation.beside_defaults(config))
            overview.log(exp, parameters=parameters)
            exp, state, start, batches, frozen = _prepare(
                *(exp, checkpoints, source, requests.phases), anew=reached is None
            )
        watch = watchdog.Watchdog(requests.phases, limits)
        batch_of = starting.batch_after(workdir)
        run_ = companions.Run(
            *(exp, workdir, checkpoints, evaluators, start, requests),
            batch=lambda step: (source, batch_of(step - 1)),
            on_storage_error=on_storage_error,
        )
        tracing = profiling.Trace(workdir / "profile", profile, total - start)
        try:
            _loop(run_, state, batches.iterate(start, batch_of), tracing, frozen)
        finally:
            watch.close()
            batches.close()
            run_.close()
        logging.info(run_.summary(corrupt=batches.corrupt))
    return workdir_lib.flat(workdir_lib.figures_at(workdir, run_.total))


def run(
    config: recipe.Config,
    workdir: str | Path,
    mesh: Mesh,
    *,
    profile: bool = False,
    parameters: bool = False,
    stall_timeout: float = 0.0,
    on_storage_error: str = "stop",
    source: Any = None,
    info: catalog.DatasetInfo | None = None,
) -> dict[str, float | None]:
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
        on_storage_error: what to do where the workdir cannot be written: "stop" with
            an error, or "continue" and try again at the next save, see `storage`.
        source: the dataset, in the place of `config.data.dataset`: see
            `data.handed`. Evaluations that name no dataset find their splits in it.
        info: what it does not say itself, its name and classes for instance.

    Returns:
        The figures of the last evaluations, "test/top1" for instance.

    Raises:
        UserError: bad input, before anything expensive starts.
        NonFiniteError: the loss is no number any more.
        Preempted: stopped by SIGTERM, with its state saved.
    """
    validation.check_workdir(workdir, "workdir", profile=profile)
    config = recipe.plain(config)
    options: dict[str, Any] = {"profile": profile, "parameters": parameters}
    options["on_storage_error"] = on_storage_error
    if source is not None:
        options |= {"stall_timeout": stall_timeout}
        return _run_on(source, info, config, workdir, mesh, options)
    if durations.trains_nothing(config):
        from vit_jax.runs import measuring  # which no training needs

        return measuring.run(config, workdir, mesh)
    workdir = files.folder(workdir)
    limits = watchdog.Limits(step=stall_timeout)
    while True:
        try:
            return _train(config, workdir, mesh, limits, **options)
        except errors.NonFiniteError as error:
            from vit_jax.runs import bad_steps  # which few runs have

            bad_steps.go_back(sections.roll_back(config), workdir, error)


if __name__ == "__main__":
    cli.no_command("vit_jax.train", "python -m vit_jax.main --config=configs/FILE.py")
