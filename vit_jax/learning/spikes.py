"""Steps whose loss is far above that of the steps before: judged inside the step.

The statistics lie in the optimizer's state: they are saved, restored and left as they
were by a step that is not taken, as the moments are, so that a run that was killed
judges every step as one that was not.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

WINDOW = 128  # steps that the averages reach back, and before which nothing is judged


class Spikes(NamedTuple):
    """Of the losses of the steps taken: float32 scalars and how many there were."""

    mean: jax.Array
    variance: jax.Array
    taken: jax.Array  # int32, at most `WINDOW`


def watched(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns the optimizer with the losses' statistics beside its state.

    Plain averages of the first `WINDOW` steps, then exponential ones of that length.
    `update` wants `loss=`.
    """

    def init(params: optax.Params) -> Spikes:
        del params
        zero = jnp.zeros((), jnp.float32)
        return Spikes(zero, zero, jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates,
        state: Any,  # Spikes
        params: optax.Params | None = None,
        *,
        loss: jax.Array,
        **unused: Any,
    ) -> tuple[optax.Updates, Spikes]:
        del params, unused
        count = state.taken + 1
        share = 1.0 / jnp.minimum(count, WINDOW).astype(jnp.float32)
        off = loss.astype(jnp.float32) - state.mean
        mean = state.mean + share * off
        variance = (1.0 - share) * (state.variance + share * off**2)
        return updates, Spikes(mean, variance, jnp.minimum(count, WINDOW))

    # optax hands it what its own `update` is told, which its type leaves out.
    first = optax.GradientTransformationExtraArgs(
        init,
        update,  # pyright: ignore[reportArgumentType]
    )
    return optax.chain(first, tx)


def none(opt_state: Any, loss: jax.Array, deviations: float) -> jax.Array:
    """Returns whether a loss is no spike: True before `WINDOW` steps were taken.

    Args:
        opt_state: of an optimizer that is `watched`, before the step.
        loss: of the step.
        deviations: a spike is so many standard deviations above the mean.
    """
    seen: Spikes = opt_state[0]
    limit = seen.mean + deviations * jnp.sqrt(seen.variance)
    return (seen.taken < WINDOW) | (loss <= limit)
