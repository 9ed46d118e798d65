"""What a run starts with: its state, restored or new, and its training images."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from vit_jax import errors, experiment, tree, weights
from vit_jax.checkpoints import manager
from vit_jax.data import catalog
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.runs import workdir as workdir_lib
from vit_jax.types import Params, TrainState

if TYPE_CHECKING:
    from vit_jax.data.loader import TrainLoader
    from vit_jax.runs import keeping


def begin(exp: experiment.Experiment) -> TrainState:
    """Returns the state before the first step: from `init_from`, or from scratch."""
    state, like = exp.init(), exp.state.params
    if exp.start is None:
        return state
    if exp.tuning is not None:  # what it adds is in no checkpoint of another run
        like = {name: like[name] for name in exp.tuning.model}
    path = weights.pretrained.agreed(exp.start.path)
    with weights.pretrained.open_weights(path) as opened:
        params, report = weights.adapting.adapt(
            opened.leaves,
            opened.architecture,
            exp.architecture,
            like,
            keep_head=exp.start.keep_head,
            head_order=exp.start.head_order,
            place=lambda array, like: mesh_lib.place(array, like.sharding),
            fresh=dict(tree.named_leaves(state.params)),
        )
    if exp.tuning is not None:
        exp.tuning.check_new([text.split()[0] for text in report.made_new])
    logging.info("weights of %s:\n%s", exp.start.path, report)
    params = state.params | params
    ema = None if state.ema is None else jax.tree.map(lambda x: x.copy(), params)
    return TrainState(state.step, params, state.opt_state, ema)


def frozen(exp: experiment.Experiment) -> list[Params]:
    """Returns what the step is called with beside its state and batch, read anew."""
    return [weights.frozen.load(one) for one in exp.frozen]


def restore_or_start(
    exp: experiment.Experiment, checkpoints: manager.Checkpoints
) -> tuple[TrainState, int]:
    """Returns the newest state of the workdir, or that before the first step."""
    restored = checkpoints.restore(exp.state)
    if restored is None:
        state, step = begin(exp), 0
    else:
        state, step = restored
        logging.info("resuming at step %d of %d", step, exp.durations.total)
    checkpoints.set_aside_after(step)
    return state, step


def best(
    exp: experiment.Experiment, checkpoints: manager.Checkpoints, reached: int
) -> "keeping.Best | None":
    """Returns which checkpoint of a run is the best; None: it is to keep none as such.

    Args:
        exp: the run.
        checkpoints: of its workdir.
        reached: steps done.

    Raises:
        UserError: no such figure, or a damaged record.
    """
    if not exp.keep_best and not exp.stop_after:
        return None
    from vit_jax.runs import keeping  # which few runs have

    return keeping.Best(exp, checkpoints, reached)


def _try_digits(exp: experiment.Experiment) -> str:
    """Flags that run a recipe where its data are not: on the digits in the package."""
    words = [
        "--config.data.dataset=digits --config.data.train_split=train",
        "--config.batch_size=16 --config.total='20 steps' --config.optimizer.warmup=5%",
        *(f"--config.evals.{one.name}.split=test" for one in exp.evals),
        "--workdir=workdirs/try",
    ]
    return "Or see this model run, on the bundled digits: add " + " ".join(words)


def train_source(exp: experiment.Experiment) -> Any:
    """Opens the training split.

    Raises:
        UserError: it is not there; with what shows the model without it. Or it cannot
            be read as the run wants it.
    """
    from vit_jax.data import beforehand  # which loads when a run is made

    data = exp.data
    try:
        source = catalog.open_source(
            data.dataset, data.train_split, data_dir=data.data_dir
        )
    except errors.UserError as error:
        if exp.info.prepared or data.dataset != "imagenet2012":
            raise
        raise errors.UserError(f"{error}\n{_try_digits(exp)}") from error
    beforehand.check(source, exp.train_transform, data, exp.info, exp.batch_size)
    return source


def batch_after(workdir: Path) -> Callable[[int], int]:
    """Returns from the number of steps done to the batch of the next one."""
    if not (workdir / workdir_lib.ROLLBACKS).exists():
        return int
    from vit_jax.runs import bad_steps  # which few runs have

    return bad_steps.batch_after(workdir)


def train_batches(exp: experiment.Experiment, source: Any) -> "TrainLoader":
    """Returns the loader of this process's part of the training batches."""
    from vit_jax.data import loader

    data = exp.data
    return loader.train_loader(
        source,
        exp.train_transform,
        batch_size=exp.batch_size,
        seed=exp.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        rows=mesh_lib.local_rows(exp.mesh, exp.batch_size),
        repeats=data.repeats,
        balance=data.balance,
        threads=data.threads,
        cache=data.cache,
        max_corrupt=data.max_corrupt,
        read_timeout=data.read_timeout,
        damaged=data.damaged,
        sharding=mesh_lib.batch_sharding(exp.mesh),
    )
