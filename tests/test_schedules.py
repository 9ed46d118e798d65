"""Schedules have their formulas, and the rate in the log is the one of the step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import errors
from vit_jax.learning import schedules

PEAK = 1e-3


@pytest.mark.parametrize(
    "kind, middle, last",
    [
        ("constant", PEAK, PEAK),
        ("linear", 1e-5 + (PEAK - 1e-5) / 2, 1e-5),
        ("cosine", PEAK / 2, 0.0),
        ("rsqrt", PEAK / np.sqrt(1 + 450 / 450), PEAK / np.sqrt(1 + 900 / 450)),
    ],
)
def test_schedules_at_their_corners(kind, middle, last):
    schedule = schedules.make(
        kind, peak=PEAK, total_steps=1000, warmup_steps=100, end=1e-5, timescale=450
    )
    assert schedule(0) == 0.0
    start = schedules.make(kind, peak=PEAK, total_steps=9, end=1e-5)(0)
    assert start == pytest.approx(PEAK)
    assert schedule(50) == pytest.approx(PEAK / 2, rel=1e-5)
    assert schedule(100) == pytest.approx(PEAK, rel=1e-5)
    assert schedule(550) == pytest.approx(middle, rel=1e-5)
    assert schedule(1000) == pytest.approx(last, rel=1e-4, abs=1e-9)


def test_stairs_fall_to_a_tenth_at_their_shares_of_the_run():
    """BiT's ImageNet schedule: a tenth after 30, 60 and 80 of 90 epochs."""
    schedule = schedules.make(
        "stairs",
        peak=1.0,
        total_steps=900,
        warmup_steps=10,
        drop_at=(30 / 90, 60 / 90, 80 / 90),
    )
    assert schedule(5) == pytest.approx(0.5)
    steps = np.array([10, 299, 300, 599, 600, 799, 800, 899])
    expected = [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    np.testing.assert_allclose(schedule(steps), expected, rtol=1e-5)


def test_the_decay_ends_where_the_cooldown_begins():
    schedule = schedules.make(
        "linear", peak=1.0, total_steps=100, cooldown_steps=20, end=0.5
    )
    assert schedule(80) == pytest.approx(0.5)
    assert schedule(90) == pytest.approx(0.25)
    assert schedule(100) == 0.0


def test_choices_that_cannot_be():
    with pytest.raises(errors.UserError, match='Did you mean "cosine"'):
        schedules.make("cosin", peak=1.0, total_steps=5)
    with pytest.raises(errors.UserError, match="do not fit into 5 steps"):
        schedules.make("cosine", peak=1.0, total_steps=5, warmup_steps=6)
    with pytest.raises(errors.UserError, match="shares of the run that rise"):
        schedules.make("stairs", peak=1.0, total_steps=9, drop_at=(0.6, 0.3))


def rates_of_steps(schedule, total):
    """What a compiled optimizer multiplies the update of each step with."""
    tx = optax.scale_by_learning_rate(schedule)
    step, state = jax.jit(tx.update), tx.init(jnp.float32(0))
    rates, gradient = [], jnp.float32(-1)
    for _ in range(total):
        rate, state = step(gradient, state)
        rates.append(float(rate))
    return rates


@pytest.mark.parametrize("kind", schedules.SCHEDULES)
@pytest.mark.parametrize(
    ("peak", "total", "warmup", "cooldown"),
    [(1e-3, 1000, 233, 0), (8e-4, 1000, 111, 340), (0.03, 997, 0, 0)],
)
def test_rates_of_the_host_are_those_of_the_step(
    kind, peak, total, warmup, cooldown, monkeypatch
):
    """Bit for bit, at every step, also where they come in several stretches."""
    schedule = schedules.make(
        kind,
        peak=peak,
        total_steps=total,
        warmup_steps=warmup,
        cooldown_steps=cooldown,
        end=1e-5,
        timescale=450,
        drop_at=(0.3, 0.7) if kind == "stairs" else (),
    )
    monkeypatch.setattr(schedules, "STRETCH", 256)
    rates = schedules.Rates(schedule, total)
    with jax.transfer_guard("disallow"):
        found = [rates[update] for update in range(total)]
    assert found == rates_of_steps(schedule, total)
    assert rates[0] == found[0]
