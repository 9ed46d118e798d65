"""Learning-rate schedules, for the step on the devices and for the log on the host."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from vit_jax import errors

# Rates that are computed at once.
STRETCH = 2**20


@dataclass(frozen=True)
class Schedule:
    """A learning rate as a function of the number of updates done.

    Attributes:
        kind: a key of `SCHEDULES`.
        rate: from updates to rates; traceable.
    """

    kind: str
    rate: Callable[[ArrayLike], jax.Array]

    def __call__(self, step: ArrayLike) -> jax.Array:
        """Returns the rate after `step` updates."""
        return self.rate(step)


def _constant(steps: jax.Array, progress: jax.Array, **unused: float) -> jax.Array:
    del steps, unused
    return jnp.ones_like(progress)


def _linear(
    steps: jax.Array, progress: jax.Array, *, end_ratio: float, **unused: float
) -> jax.Array:
    del steps, unused
    return end_ratio + (1.0 - end_ratio) * (1.0 - progress)


def _cosine(steps: jax.Array, progress: jax.Array, **unused: float) -> jax.Array:
    del steps, unused
    return 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def _rsqrt(
    steps: jax.Array, progress: jax.Array, *, timescale: float, **unused: float
) -> jax.Array:
    del progress, unused
    return jax.lax.rsqrt(1.0 + steps / timescale)


def _stairs(
    steps: jax.Array,
    progress: jax.Array,
    *,
    step: jax.Array,
    drops: tuple[int, ...],
    **unused: float,
) -> jax.Array:
    del steps, unused
    rate = jnp.ones_like(progress)
    for drop in drops:
        rate = jnp.where(step >= drop, 0.1 * rate, rate)
    return rate


# Multiplier of the peak, from the steps and the fraction of the way since warmup.
SCHEDULES: dict[str, Callable[..., jax.Array]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "rsqrt": _rsqrt,
    "stairs": _stairs,
}


def make(
    kind: str,
    *,
    peak: float,
    total_steps: int,
    warmup_steps: int = 0,
    cooldown_steps: int = 0,
    end: float = 0.0,
    timescale: float = 10_000,
    drop_at: tuple[float, ...] = (),
) -> Schedule:
    """Returns the learning rate as a function of the number of updates done.

    The published convention (the paper's Table 3 and the code released with it): the
    decay runs between warmup and cooldown and is multiplied by min(1, step / warmup),
    so with warmup the very first update has rate 0; cooldown multiplies by a straight
    line that reaches 0 at `total_steps`.

    Args:
        kind: a key of `SCHEDULES`.
        peak: the highest rate.
        total_steps: the length of the run.
        warmup_steps: 0 starts at the peak.
        cooldown_steps: 0 does not cool down.
        end: where `linear` ends (1e-5 in the paper's code); unused by the others.
        timescale: steps after which `rsqrt` has fallen to peak / sqrt(2).
        drop_at: shares of the run after which `stairs` falls to a tenth, each.

    Raises:
        UserError: unknown kind, warmup and cooldown longer than the run, or shares
            that do not rise from above 0 to below 1.
    """
    shape = errors.lookup(SCHEDULES, kind, "schedule")
    bounds = (0, *drop_at, 1)
    if any(low >= high for low, high in zip(bounds, bounds[1:])):
        raise errors.UserError(
            f"optimizer.drop_at={drop_at}: want shares of the run that rise, between "
            "0 and 1, as in (0.33, 0.67, 0.89)"
        )
    drops = tuple(round(share * total_steps) for share in drop_at)
    decay_steps = total_steps - warmup_steps - cooldown_steps
    if min(warmup_steps, cooldown_steps) < 0 or decay_steps < 0:
        raise errors.UserError(
            f"schedule: {warmup_steps} warmup and {cooldown_steps} cooldown steps do "
            f"not fit into {total_steps} steps; shorten them or train longer"
        )
    end_ratio = end / peak if peak else 0.0

    def schedule(step: ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        since = jnp.maximum(step - warmup_steps, 0.0)
        progress = jnp.minimum(since / max(decay_steps, 1), 1.0)
        rate = peak * shape(
            since,
            progress,
            end_ratio=end_ratio,
            timescale=timescale,
            step=step,
            drops=drops,
        )
        if warmup_steps:
            rate = rate * jnp.minimum(step / warmup_steps, 1.0)
        if cooldown_steps:
            rate = rate * jnp.clip((total_steps - step) / cooldown_steps, 0.0, 1.0)
        return rate

    return Schedule(kind, schedule)


def scale_by_rate(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Returns optax's `scale_by_learning_rate`, by the step where `update` is told it.

    The two differ once a step was left out: the state, and the count in it, stay as
    they were then, and a run that counts steps would end before its schedule does.
    Without `step` it is the count that decides.
    """
    scale = optax.scale_by_learning_rate(schedule)

    def update(
        updates: optax.Updates,
        state: Any,  # ScaleByScheduleState
        params: optax.Params | None = None,
        *,
        step: jax.Array | None = None,
        **unused: Any,
    ) -> tuple[optax.Updates, Any]:
        del unused
        at = state if step is None else optax.ScaleByScheduleState(step)
        scaled, _ = scale.update(updates, at, params)
        count = optax.safe_increment(state.count)
        return scaled, optax.ScaleByScheduleState(count)

    return optax.GradientTransformationExtraArgs(scale.init, update)


class Rates:
    """The rates of a schedule by update, 0 the first, as numbers of the host.

    Bit for bit those that a compiled step uses: the same program gives them, on the
    same kind of device, a stretch of a million at a time. NumPy would not: a compiler
    rounds divisions, products with sums and cosines in its own way. The first stretch
    is there when this is made, before the loop; the host never waits for a rate behind
    the step that is under way.

    Args:
        schedule: from `make`.
        total: of the run; no rate is wanted from there on.
    """

    def __init__(self, schedule: Schedule, total: int):
        self._schedule = jax.jit(schedule.rate)
        self._length = min(total, STRETCH)
        self._first, self._rates = 0, self._stretch(0)

    def __getitem__(self, update: int) -> float:
        """The rate of an update, exactly."""
        first = update // self._length * self._length
        if first != self._first:
            self._first, self._rates = first, self._stretch(first)
        return float(self._rates[update - first])

    def _stretch(self, first: int) -> np.ndarray:
        updates = np.arange(first, first + self._length, dtype=np.int32)
        return jax.device_get(self._schedule(jax.device_put(updates)))
