"""Optimizers, with weight decay, freezing and rates decided by name.

Weight decay follows the paper's code (Flax's Adam, decoupled):

    p <- p - lr_t * (adam + weight_decay * p)

so it shrinks with the schedule and with the rate. big_vision leaves the rate out of
the second term, p <- p - lr_t * adam - s_t * wd_bv * p with s_t the schedule scaled to
a peak of 1: its figure for the same run is wd_bv = peak * weight_decay (the paper's
0.1 at a rate of 1e-3 is big_vision's 1e-4). An L2 term in the gradient of SGD goes
through the momentum, which sums it to 1 / (1 - momentum) times itself: BiT's 1e-4 at
0.9 decays as 1e-3 does here.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vit_jax import errors, tree
from vit_jax.learning import schedules

# Which leaves decay: {name: ((regex, multiplier of weight_decay), ...)}. The paper's
# code decays everything it is given; big_vision decays the kernels alone.
DECAY: dict[str, tree.Rules[float]] = {
    "all": ((r".*", 1.0),),
    "kernels": ((r"kernel$", 1.0), (r".*", 0.0)),
}

TRAINED, FROZEN = "trained", "frozen"
ACCUMULATOR_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def _adam(
    *, beta1: float, beta2: float, epsilon: float, accumulator_dtype: Any, **unused: Any
) -> optax.GradientTransformation:
    del unused
    return optax.scale_by_adam(
        b1=beta1, b2=beta2, eps=epsilon, mu_dtype=accumulator_dtype
    )


def _sgd(
    *, momentum: float, accumulator_dtype: Any, **unused: Any
) -> optax.GradientTransformation:
    del unused
    return optax.trace(momentum, accumulator_dtype=accumulator_dtype)


def _lazy(name: str) -> Callable[..., optax.GradientTransformation]:
    """A function of `per_layer`, which most runs do not load."""

    def make(**options: Any) -> optax.GradientTransformation:
        from vit_jax.learning import per_layer

        if name == "muon":
            return per_layer.muon(**options)
        return per_layer.adafactor(**options)

    return make


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adafactor": _lazy("adafactor"),
    "adam": _adam,
    "lamb": _adam,  # what makes it LAMB comes after the decay
    "muon": _lazy("muon"),
    "sgd": _sgd,
}


def _add_decay(
    weight_decay: float, rules: tree.Rules[float]
) -> optax.GradientTransformation:
    """Adds `weight_decay * multiplier * param` to the update of every leaf."""

    def decay(name: str, update: jax.Array, param: jax.Array) -> jax.Array:
        factor = weight_decay * tree.first_match(rules, name, "decay rules")
        return update + factor * param if factor else update

    return optax.stateless(lambda updates, p: tree.map_named(decay, updates, p))


def _trusted(
    decay: optax.GradientTransformation,
    weight_decay: float,
    rules: tree.Rules[float],
) -> optax.GradientTransformation:
    """The decay, and LAMB's factor of what it makes of the update."""
    from vit_jax.learning import per_layer  # which most runs do not load

    def decays(name: str) -> bool:
        return weight_decay * tree.first_match(rules, name, "decay rules") != 0

    return optax.chain(decay, per_layer.trust(decays))


# From a leaf's name to its multiplier of the learning rate, or to those of its layers.
Multiplier = Callable[[str], float | np.ndarray]


def _scale_by_name(multiplier: Multiplier) -> optax.GradientTransformation:
    """Multiplies the update of every leaf by the multiplier of its name."""

    def scale(name: str, update: jax.Array) -> jax.Array:
        factor = multiplier(name)
        if np.ndim(factor):
            return update * np.reshape(factor, (-1,) + (1,) * (update.ndim - 1))
        return update if factor == 1.0 else update * factor

    return optax.stateless(lambda updates, _: tree.map_named(scale, updates))


def _without_frozen_layers(
    tx: optax.GradientTransformation, multiplier: Multiplier
) -> optax.GradientTransformation:
    """The same, blind for layers whose multiplier is 0, and without updates of them."""

    def masked(value: float) -> optax.GradientTransformation:
        def mask(name: str, update: jax.Array) -> jax.Array:
            factor = np.asarray(multiplier(name))
            if factor.all():
                return update
            kept = np.reshape(factor > 0, (-1,) + (1,) * (update.ndim - 1))
            return jnp.where(kept, update, value)

        return optax.stateless(lambda updates, _: tree.map_named(mask, updates))

    return optax.chain(masked(0.0), tx, masked(-0.0))


def _check_rules(rules: tree.Rules[float], names: list[str], what: str) -> None:
    """Raises `UserError` for a rule that would be without effect."""
    for pattern, _ in rules:
        try:
            found = any(re.search(pattern, name) for name in names)
        except re.error as error:
            raise errors.UserError(
                f"{what}: {pattern!r} is no regex: {error}"
            ) from error
        if not found:
            shown = ", ".join(names[:12])
            raise errors.UserError(
                f"{what}: {pattern!r} is found in no parameter's name; "
                f"there are {len(names)}: {shown}{', ...' if len(names) > 12 else ''}"
            )


def make_optimizer(
    name: str,
    *,
    schedule: optax.Schedule,
    weight_decay: float = 0.0,
    decay_rules: tree.Rules[float] = DECAY["all"],
    lr_rules: tree.Rules[float] = (),
    lr_rules_scale_decay: bool = True,
    multiplier: Multiplier | None = None,
    clip_norm: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    momentum: float = 0.9,
    factor_from: int = 32,
    update_clip: float = 0.0,
    accumulator_dtype: str = "float32",
) -> optax.GradientTransformation:
    """Returns clipping, then the optimizer's direction, decay, and the learning rate.

    Args:
        name: a key of `OPTIMIZERS`.
        schedule: the learning rate by update; see `schedules.make`.
        weight_decay: decoupled and scaled by the rate (module docstring), for every
            optimizer alike.
        decay_rules: `(regex, multiplier of weight_decay)` over leaf names, first match
            wins; two ready tables in `DECAY`, which may end one's own.
        lr_rules: `(regex, multiplier of the rate)`, first match wins, 1 where none
            does. 0 freezes the leaf: no update, no decay, no optimizer state, and its
            gradient does not count in the clipped norm.
        lr_rules_scale_decay: they scale the leaf's decay as well, p <- p - lr_t * m *
            (direction + weight_decay * p), so that m is a rate like any other; False:
            p <- p - lr_t * (m * direction + weight_decay * p), big_vision's `lr_mults`.
        multiplier: In the place of what `lr_rules` say of a leaf, and by layers, see
            `rates`; None: they say it.
        clip_norm: largest global norm of the gradients of trained leaves; 0 is off.
        beta1: of Adam and LAMB; of Adafactor's average of its updates.
        beta2: of Adam and LAMB; the highest of Adafactor, whose t-th is 1 - t^-0.8
            before.
        epsilon: of Adam and LAMB, outside the square root.
        momentum: of SGD and of Muon, which has Adam for what is no matrix.
        factor_from: Adafactor keeps the second moments of a leaf (of one layer, where
            they are stacked) as the outer product of means over its two largest axes
            if both are as long as this: of a query kernel [D, heads, D / heads] the
            first and the last. Of other leaves it keeps them all.
        update_clip: Adafactor's largest root mean square of a leaf's (a layer's)
            update before the average; 0 is off.
        accumulator_dtype: of the momentum or first moment: "float32" or "bfloat16".
            The arithmetic stays float32.

    Raises:
        UserError: unknown optimizer or accumulator type; from `init`: a rule that is
            no regex or is found in no leaf name.
    """
    core = errors.lookup(OPTIMIZERS, name, "optimizer")
    dtype = errors.lookup(ACCUMULATOR_DTYPES, accumulator_dtype, "accumulator_dtype")
    rules = (*lr_rules, (r".*", 1.0))
    factor = multiplier or (lambda leaf: tree.first_match(rules, leaf))
    decayed = _add_decay(weight_decay, decay_rules)
    if name == "lamb":
        decayed = _trusted(decayed, weight_decay, decay_rules)
    scaled = decayed, _scale_by_name(factor)
    trained = optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        core(
            beta1=beta1,
            beta2=beta2,
            epsilon=epsilon,
            momentum=momentum,
            factor_from=factor_from,
            update_clip=update_clip,
            accumulator_dtype=dtype,
        ),
        *(scaled if lr_rules_scale_decay else reversed(scaled)),
        schedules.scale_by_rate(schedule),
    )
    if multiplier is not None:
        trained = _without_frozen_layers(trained, multiplier)

    def labels(params: Any) -> Any:
        names = [leaf for leaf, _ in tree.named_leaves(params)]
        _check_rules(lr_rules, names, "lr_rules")
        _check_rules(decay_rules, names, "decay_rules")
        return tree.map_named(
            lambda leaf, _: TRAINED if np.any(factor(leaf)) else FROZEN, params
        )

    # x + -0.0 is x of every x, where -0.0 + 0.0 is another.
    halted = optax.stateless(
        lambda updates, _: jax.tree.map(lambda x: jnp.full_like(x, -0.0), updates)
    )
    return optax.partition({TRAINED: trained, FROZEN: halted}, labels)


def of_a_run(
    *,
    name: str,
    schedule: str,
    lr: float,
    end: float,
    timescale: float,
    drop_at: Sequence[float],
    decay: str,
    decay_rules: tree.Rules[float],
    lr_rules: tree.Rules[float],
    total_steps: int,
    warmup_steps: int,
    cooldown_steps: int,
    skip_spikes: float,
    multiplier: Multiplier | None = None,
    **options: Any,
) -> tuple[optax.GradientTransformation, schedules.Schedule]:
    """Returns the optimizer and the schedule that keys of a configuration name.

    Args:
        name: a key of `OPTIMIZERS`.
        schedule: a key of `schedules.SCHEDULES`.
        lr: the peak of the schedule.
        end: as `schedules.make` takes it, like the next two.
        timescale: see there.
        drop_at: see there.
        decay: a key of `DECAY`.
        decay_rules: before that table.
        lr_rules: as `make_optimizer` takes them.
        total_steps: the length of the run.
        warmup_steps: of it.
        cooldown_steps: of it.
        skip_spikes: as `step.verdict` takes it; 0: no loss is watched.
        multiplier: as `make_optimizer` takes it.
        **options: of `make_optimizer`.

    Raises:
        UserError: an unknown choice, or a schedule that cannot be.
    """
    rate = schedules.make(
        schedule,
        peak=lr,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        cooldown_steps=cooldown_steps,
        end=end,
        timescale=timescale,
        drop_at=tuple(drop_at),
    )
    table = errors.lookup(DECAY, decay, "optimizer.decay")
    tx = make_optimizer(
        name,
        schedule=rate,
        decay_rules=(*decay_rules, *table),
        lr_rules=tuple(lr_rules),
        multiplier=multiplier,
        **options,
    )
    if skip_spikes:
        from vit_jax.learning import spikes  # which few runs watch

        tx = spikes.watched(tx)
    return tx, rate
