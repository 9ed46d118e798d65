"""Learning-rate schedules and optimizers, with decay and freezing decided by name.

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
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax import errors, tree

# Which leaves decay: {name: ((regex, multiplier of weight_decay), ...)}. The paper's
# code decays everything it is given; big_vision decays the kernels alone.
DECAY: dict[str, tree.Rules[float]] = {
    "all": ((r".*", 1.0),),
    "kernels": ((r"kernel$", 1.0), (r".*", 0.0)),
}

TRAINED, FROZEN = "trained", "frozen"
# Leaves that stack one array a layer on their first axis.
STACKED = r"^blocks/"
ACCUMULATOR_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


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


def make_schedule(
    kind: str,
    *,
    peak: float,
    total_steps: int,
    warmup_steps: int = 0,
    cooldown_steps: int = 0,
    end: float = 0.0,
    timescale: float = 10_000,
    drop_at: tuple[float, ...] = (),
) -> optax.Schedule:
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

    def schedule(step: jax.Array | int) -> jax.Array:
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

    return schedule


def _adam(
    *, beta1: float, beta2: float, epsilon: float, accumulator_dtype: Any, **unused: Any
) -> optax.GradientTransformation:
    del unused
    return optax.scale_by_adam(
        b1=beta1, b2=beta2, eps=epsilon, mu_dtype=accumulator_dtype
    )


def _sgd(
    *, momentum: float, nesterov: bool, accumulator_dtype: Any, **unused: Any
) -> optax.GradientTransformation:
    del unused
    return optax.trace(momentum, nesterov, accumulator_dtype)


def _by_layer(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Treats each layer of a stacked leaf as a leaf of its own."""

    def each(function: Callable[..., Any]) -> Callable[..., Any]:
        def mapped(params: Any, *rest: Any) -> Any:
            if not jax.tree.leaves(params):  # no leaf is stacked
                return function(params, *rest)
            return jax.vmap(function)(params, *rest)

        return mapped

    def labels(params: Any) -> Any:
        return tree.map_named(
            lambda name, _: "layers" if re.search(STACKED, name) else "leaf", params
        )

    layers = optax.GradientTransformation(each(tx.init), each(tx.update))
    return optax.partition({"layers": layers, "leaf": tx}, labels)


def _adafactor(
    *,
    beta1: float,
    beta2: float,
    accumulator_dtype: Any,
    factor_from: int,
    update_clip: float,
    **unused: Any,
) -> optax.GradientTransformation:
    """The variant of "Scaling Vision Transformers" (arXiv 2106.04560, appendix C).

    As big_vision's `scale_by_adafactor`: no rate relative to the parameters' size, and
    the first moment is a plain average of the scaled gradients. There is one difference
    to it with stacked layers: those are scaled one by one, as if they were not stacked.
    """
    del unused

    def decay(step: jax.Array, exponent: float) -> jax.Array:
        return jnp.minimum(beta2, 1.0 - (step + 1.0) ** -exponent)

    scale = optax.scale_by_factored_rms(
        decay_rate=0.8,
        min_dim_size_to_factor=factor_from,
        epsilon=1e-30,
        decay_rate_fn=decay,
    )
    if update_clip:
        scale = optax.chain(scale, optax.clip_by_block_rms(update_clip))
    average = optax.ema(beta1, debias=False, accumulator_dtype=accumulator_dtype)
    return optax.chain(_by_layer(scale), average)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adafactor": _adafactor,
    "adam": _adam,
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


def _scale_by_name(rules: tree.Rules[float]) -> optax.GradientTransformation:
    """Multiplies the update of every leaf by the multiplier of its name."""

    def scale(name: str, update: jax.Array) -> jax.Array:
        factor = tree.first_match(rules, name, "learning-rate rules")
        return update if factor == 1.0 else factor * update

    return optax.stateless(lambda updates, _: tree.map_named(scale, updates))


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
    clip_norm: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    momentum: float = 0.9,
    nesterov: bool = False,
    factor_from: int = 32,
    update_clip: float = 0.0,
    accumulator_dtype: str = "float32",
) -> optax.GradientTransformation:
    """Returns clipping, then the optimizer's direction, decay, and the learning rate.

    Args:
        name: a key of `OPTIMIZERS`.
        schedule: the learning rate by update; see `make_schedule`.
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
        clip_norm: largest global norm of the gradients of trained leaves; 0 is off.
        beta1: of Adam; of Adafactor's average of its updates.
        beta2: of Adam; the highest of Adafactor, whose t-th is 1 - t^-0.8 before.
        epsilon: of Adam, outside the square root.
        momentum: of SGD.
        nesterov: of SGD.
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
    multipliers = (*lr_rules, (r".*", 1.0))
    scaled = _add_decay(weight_decay, decay_rules), _scale_by_name(multipliers)
    trained = optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        core(
            beta1=beta1,
            beta2=beta2,
            epsilon=epsilon,
            momentum=momentum,
            nesterov=nesterov,
            factor_from=factor_from,
            update_clip=update_clip,
            accumulator_dtype=dtype,
        ),
        *(scaled if lr_rules_scale_decay else reversed(scaled)),
        optax.scale_by_learning_rate(schedule),
    )

    def labels(params: Any) -> Any:
        names = [leaf for leaf, _ in tree.named_leaves(params)]
        _check_rules(lr_rules, names, "lr_rules")
        _check_rules(decay_rules, names, "decay_rules")
        return tree.map_named(
            lambda leaf, _: TRAINED if tree.first_match(multipliers, leaf) else FROZEN,
            params,
        )

    return optax.partition({TRAINED: trained, FROZEN: optax.set_to_zero()}, labels)
