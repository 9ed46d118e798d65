"""Losses far above those before: what a step knows of them, and leaves out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import errors
from vit_jax.learning import spikes, step
from vit_jax.settings import packaged, validation


def loss_fn(params, batch, key):
    """The batch says what the loss is, and the gradient is 1."""
    loss = batch["loss"].mean() + params["w"] - jax.lax.stop_gradient(params["w"])
    return loss, {"loss": loss}


def taken(losses, *, deviations=3.0):
    """The states after each of the steps, and whether it was left out."""
    tx = spikes.watched(optax.adam(0.1))
    train_step = jax.jit(
        step.make_train_step(
            loss_fn,
            tx,
            seed=0,
            ema_decay=0.9,
            verdict=step.verdict(9, deviations),
        )
    )
    states = [step.init_state({"w": jnp.zeros(())}, tx, ema=True)]
    skipped = []
    for loss in losses:
        state, metrics = train_step(states[-1], {"loss": jnp.full((4,), loss)})
        states.append(state)
        skipped.append(bool(metrics["skipped"]))
    return states[1:], skipped


LOSSES = np.random.default_rng(0).normal(5.0, 0.5, 2 * spikes.WINDOW).astype(np.float32)


def test_statistics_are_plain_ones_of_the_first_window_then_exponential():
    states, skipped = taken(LOSSES, deviations=100.0)
    assert not any(skipped)
    first = states[spikes.WINDOW - 1].opt_state[0]
    whole = LOSSES[: spikes.WINDOW].astype(np.float64)
    np.testing.assert_allclose(first.mean, whole.mean(), rtol=1e-5)
    np.testing.assert_allclose(first.variance, whole.var(), rtol=1e-4)
    mean, variance = whole.mean(), whole.var()
    share = 1 / spikes.WINDOW
    for loss in LOSSES[spikes.WINDOW :].astype(np.float64):
        off = loss - mean
        mean, variance = mean + share * off, (1 - share) * (variance + share * off**2)
    last = states[-1].opt_state[0]
    np.testing.assert_allclose(last.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(last.variance, variance, rtol=1e-4)


def test_a_spike_leaves_the_state_to_the_bit_and_only_after_a_window():
    losses = LOSSES.copy()
    losses[[3, 200, 201, 202]] = 8.0, 8.0, 2.0, np.inf
    states, skipped = taken(losses)
    assert np.flatnonzero(skipped)[-2:].tolist() == [200, 202]
    assert not any(skipped[: spikes.WINDOW])
    for at in (200, 202):
        for before, after in zip(
            jax.tree.leaves((states[at - 1].params, states[at - 1].opt_state)),
            jax.tree.leaves((states[at].params, states[at].opt_state)),
            strict=True,
        ):
            assert np.asarray(before).tobytes() == np.asarray(after).tobytes()
        assert states[at].ema == states[at - 1].ema
        assert states[at].step == states[at - 1].step + 1


def test_what_was_left_out_does_not_count_as_usual():
    """A level that stays is left out for good: the run ends, or goes back."""
    losses = np.concatenate([LOSSES[:150], np.full(50, 50.0, np.float32)])
    _, skipped = taken(losses)
    assert all(skipped[150:])


def test_spikes_without_skipped_steps_are_refused():
    config = packaged.defaults()
    config["optimizer"]["skip_spikes"] = 6.0
    with pytest.raises(errors.UserError, match="skip_bad_steps=0"):
        validation.check_values(config)
    config["skip_bad_steps"] = 3
    validation.check_values(config)
    assert step.verdict(0, 6.0) is None
