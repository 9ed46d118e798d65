"""The training step: `state, batch -> state, metrics`, pure and jit-able."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax.types import Batch, LossFn, Metrics, Params, TrainState


def step_key(seed: int, step: jax.Array | int) -> jax.Array:
    """The key of a step: all of its randomness is a function of (seed, step)."""
    return jax.random.fold_in(jax.random.key(seed), step)


def init_state(
    params: Params, tx: optax.GradientTransformation, *, ema: bool
) -> TrainState:
    """Returns the state before the first step."""
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), average)


def _accumulate(
    loss_fn: LossFn,
    params: Params,
    batch: Batch,
    key: jax.Array,
    microbatches: int,
    scatter: Callable[[Params], Params],
) -> tuple[Params, Metrics]:
    """Mean gradients and metrics of `microbatches` equal parts of the batch.

    `scatter` is applied to the gradients of each part.

    Part i holds rows i, i + microbatches, ...: with rows sharded in contiguous blocks
    each part stays spread over all devices and nothing moves between them.
    """

    def grad_fn(params: Params, rows: Batch, key: jax.Array) -> tuple[Params, Metrics]:
        grads, metrics = jax.grad(loss_fn, has_aux=True)(params, rows, key)
        return scatter(grads), metrics

    if microbatches == 1:
        return grad_fn(params, batch, key)

    def split(x: jax.Array) -> jax.Array:
        parts = x.reshape(x.shape[0] // microbatches, microbatches, *x.shape[1:])
        return jnp.moveaxis(parts, 1, 0)

    def body(total: Any, part: tuple) -> tuple[Any, None]:
        index, rows = part
        result = grad_fn(params, rows, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, result), None

    parts = (jnp.arange(microbatches), jax.tree.map(split, batch))
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(grad_fn, params, first[1], key),
    )
    zeros = scatter(zeros[0]), zeros[1]
    total, _ = jax.lax.scan(body, zeros, parts)
    return jax.tree.map(lambda x: x / microbatches, total)


def make_train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    seed: int,
    microbatches: int = 1,
    ema_decay: float = 0.0,
    augment: Callable[[Batch, jax.Array], Batch] = lambda batch, key: batch,
    gather: Callable[[Params], Params] = lambda params: params,
    scatter: Callable[[Params], Params] = lambda grads: grads,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns the pure step function.

    Args:
        loss_fn: `(params, batch, key) -> (loss, metrics)`, a mean over the batch.
        tx: the optimizer.
        seed: of all randomness in the step (augmentation, dropout).
        microbatches: gradient-accumulation parts of a batch; they must divide it.
        ema_decay: factor of the Polyak average kept in `state.ema`; unused without one.
        augment: random changes of the whole batch, before it is cut in microbatches.
        gather: once a step, from stored parameters to those that `loss_fn` takes.
        scatter: from gradients of those to the ones the optimizer reads.

    The metrics hold `loss`, those of `loss_fn`, `grad_norm` (global, before clipping)
    and `grad_squares` [leaves]: the squared norm of each leaf's gradient, whose
    non-finite entries name the leaves where a run went wrong.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        augment_key, loss_key = jax.random.split(step_key(seed, state.step))
        batch = augment(batch, augment_key)
        grads, metrics = _accumulate(
            loss_fn, gather(state.params), batch, loss_key, microbatches, scatter
        )
        squares = jnp.stack(
            [jnp.sum(jnp.square(g.astype(jnp.float32))) for g in jax.tree.leaves(grads)]
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            ema = optax.incremental_update(params, ema, 1.0 - ema_decay)
        metrics |= {"grad_norm": jnp.sqrt(squares.sum()), "grad_squares": squares}
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    return train_step
