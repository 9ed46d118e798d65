"""The training step: `state, batch -> state, metrics`, pure and jit-able."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from vit_jax.types import (
    Augmentation,
    Batch,
    LossFn,
    Metrics,
    Params,
    TrainState,
    Verdict,
)


def step_key(seed: int, step: jax.Array | int) -> jax.Array:
    """Returns the key of a step: its randomness is a function of (seed, step)."""
    return jax.random.fold_in(jax.random.key(seed), step)


def init_state(
    params: Params, tx: optax.GradientTransformation, *, ema: bool
) -> TrainState:
    """Returns the state before the first step."""
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), average)


def accumulate(
    loss_fn: LossFn,
    params: Params,
    batch: Batch,
    key: jax.Array,
    frozen: Sequence[Params],
    microbatches: int,
    scatter: Callable[[Params], Params],
) -> tuple[Params, Metrics]:
    """Returns mean gradients and metrics of equal parts of a batch.

    Part i holds rows i, i + microbatches, ...: with rows sharded in contiguous blocks
    each part stays spread over all devices and nothing moves between them.

    Args:
        loss_fn: As in `make_train_step`.
        params: What the gradients are of.
        batch: Arrays [b, ...]; `microbatches` divides b.
        key: Of what is random; each part has one of its own.
        frozen: What else `loss_fn` reads.
        microbatches: How many parts.
        scatter: Is applied to the gradients of each part.
    """

    def grad_fn(params: Params, rows: Batch, key: jax.Array) -> tuple[Params, Metrics]:
        grad = jax.grad(loss_fn, has_aux=True)
        grads, metrics = grad(params, rows, key, *frozen)
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


def _if_taken(taken: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    """Returns `new` where its update is taken, else `old` with the new step."""
    kept = dataclasses.replace(old, step=new.step)
    return jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, kept)


def verdict(skip_bad_steps: int, skip_spikes: float) -> Verdict | None:
    """Returns what decides whether a step is taken: loss and gradients are finite.

    Args:
        skip_bad_steps: 0: None, every step is taken.
        skip_spikes: A loss is no spike, either: see `spikes.none`. 0: any will do.
    """

    def is_sound(loss: jax.Array, norm: jax.Array, opt_state: Any) -> jax.Array:
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        if not skip_spikes:
            return finite
        from vit_jax.learning import spikes  # which few runs watch

        return finite & spikes.none(opt_state, loss, skip_spikes)

    return is_sound if skip_bad_steps else None


def make_train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    seed: int,
    microbatches: int = 1,
    ema_decay: float = 0.0,
    ema_warmup: bool = False,
    augmentations: Sequence[Augmentation] = (),
    verdict: Verdict | None = None,
    gather: Callable[[Params], Params] = lambda params: params,
    scatter: Callable[[Params], Params] = lambda grads: grads,
    gather_frozen: Callable[[Sequence[Params]], Sequence[Params]] = tuple,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns the pure step function.

    It is called with the state, a batch, and what else `loss_fn` reads.

    Args:
        loss_fn: `(params, batch, key, *frozen) -> (loss, metrics)`, a mean over the
            batch; only `params` are trained.
        tx: The optimizer.
        seed: The seed of all randomness in the step (augmentation, dropout).
        microbatches: How many parts of a batch gradients are accumulated over; they
            must divide it.
        ema_decay: The factor of the Polyak average in `state.ema`; unused without one.
        ema_warmup: That factor is (1 + n) / (10 + n) after n steps where it is less.
        augmentations: Random changes of the whole batch, one after the other, before it
            is cut in microbatches. Each has a key of its own.
        verdict: Says of the loss, the global norm of the gradients (before clipping)
            and the optimizer's state whether the step's update is taken. Where it is
            not, parameters, optimizer state and average stay as they were, to the bit;
            the step counts, so that the next one has other data and its own learning
            rate. None: every update is taken.
        gather: Goes, once a step, from stored parameters to those of `loss_fn`.
        scatter: Goes from gradients of those to the ones the optimizer reads.
        gather_frozen: What `gather` is, of the parameters of frozen models.

    The metrics hold `loss`, those of `loss_fn`, `grad_norm` (global, before clipping)
    and `grad_squares` [leaves]: the squared norm of each leaf's gradient, whose
    non-finite entries name the leaves where a run went wrong. With a verdict also
    `skipped`, 1 where the update was not taken, else 0.
    """
    tx = optax.with_extra_args_support(tx)

    def train_step(
        state: TrainState, batch: Batch, *frozen: Params
    ) -> tuple[TrainState, Metrics]:
        count = max(1, len(augmentations))
        first, loss_key, *more = jax.random.split(step_key(seed, state.step), count + 1)
        for augment, key in zip(augmentations, (first, *more)):
            batch = augment(batch, key)
        grads, metrics = accumulate(
            *(loss_fn, gather(state.params), batch, loss_key),
            *(gather_frozen(frozen), microbatches, scatter),
        )
        squares = jnp.stack(
            [jnp.sum(jnp.square(g.astype(jnp.float32))) for g in jax.tree.leaves(grads)]
        )
        # Where every update is taken the optimizer counts the same steps by itself.
        told = {}
        if verdict is not None:
            told = {"step": state.step, "loss": metrics["loss"]}
        updates, opt_state = tx.update(grads, state.opt_state, state.params, **told)
        params = cast(Params, optax.apply_updates(state.params, updates))
        ema = state.ema
        if ema is not None:
            weight: Any = 1.0 - ema_decay
            if ema_warmup:
                done = state.step + 1
                weight = jnp.maximum(weight, 9.0 / (10.0 + done))
            ema = cast(Params, optax.incremental_update(params, ema, weight))
        metrics |= {"grad_norm": jnp.sqrt(squares.sum()), "grad_squares": squares}
        new = TrainState(state.step + 1, params, opt_state, ema)
        if verdict is not None:
            judged = metrics["loss"], metrics["grad_norm"], state.opt_state
            taken = verdict(*judged)
            metrics["skipped"] = 1.0 - taken.astype(jnp.float32)
            new = _if_taken(taken, new, state)
        return new, metrics

    return train_step
