"""Metrics of the last steps: means of a period, exact over a restart, and NaN."""

import jax.numpy as jnp
import pytest

from vit_jax import errors
from vit_jax.runs import recent


def step(loss, squares=(1.0, 4.0)):
    return {
        "loss": jnp.float32(loss),
        "accuracy": jnp.float32(loss / 10),
        "grad_squares": jnp.asarray(squares, jnp.float32),
    }


def test_means_are_of_the_steps_since_the_last_ones():
    seen = recent.Recent(["a", "b"], {})
    for number, loss in enumerate((1.0, 2.0, 6.0, 5.0), 1):
        seen.add(number, step(loss))
    seen.read(3)
    assert seen.means() == {"loss_mean": 3.0, "accuracy_mean": pytest.approx(0.3)}
    assert len(seen) == 1, "what the device may still be at is not read"
    seen.read(4)
    assert seen.means()["loss_mean"] == 5.0
    assert seen.means() == {}


def test_a_period_goes_on_over_a_restart_bit_for_bit():
    losses = [0.1, 0.7, 1e-3, 3.3, 0.2]
    whole = recent.Recent(["a", "b"], {})
    first = recent.Recent(["a", "b"], {})
    for number, loss in enumerate(losses, 1):
        whole.add(number, step(loss))
        if number <= 2:
            first.add(number, step(loss))
    whole.read(5)
    first.read(2)
    second = recent.Recent(["a", "b"], first.state())
    for number, loss in enumerate(losses[2:], 3):
        second.add(number, step(loss))
    second.read(5)
    assert second.means() == whole.means()


def test_the_first_step_that_is_not_finite_is_named_with_its_leaves():
    seen = recent.Recent(["a", "b"], {})
    seen.add(1, step(1.0))
    seen.add(2, step(1.0, squares=(1.0, float("inf"))))
    seen.read(1)
    with pytest.raises(errors.NonFiniteError, match="step 2: .* gradient: b"):
        seen.read(2)


def bad(squares=(1.0, float("nan"))):
    return step(float("nan"), squares) | {"skipped": jnp.float32(1.0)}


def good(loss):
    return step(loss) | {"skipped": jnp.float32(0.0)}


def test_steps_that_were_left_out_are_counted_and_in_no_mean(caplog):
    seen = recent.Recent(["a", "b"], {}, bad_in_a_row=2)
    for number, values in enumerate((good(1.0), bad(), bad(), good(3.0), bad()), 1):
        seen.add(number, values)
    seen.read(4)
    assert seen.left_out == 2
    means = seen.means()
    assert (means["loss_mean"], means["skipped_mean"]) == (2.0, 0.5)
    assert "step 2 left out: loss nan; leaves with a non-finite gradient: b" in (
        caplog.text
    )
    # A period of nothing else, and one that goes on after a restart.
    seen.read(5)
    again = recent.Recent(["a", "b"], seen.state(), bad_in_a_row=2)
    assert seen.means() == {"skipped_mean": 1.0}
    again.add(6, good(7.0))
    again.read(6)
    assert again.means()["skipped_mean"] == 0.5


def test_one_more_bad_step_in_a_row_than_is_allowed_ends_the_run():
    seen = recent.Recent(["a", "b"], {}, bad_in_a_row=2)
    rows = (bad(), bad(), good(1.0), bad(), bad(), bad())
    for number, values in enumerate(rows, 1):
        seen.add(number, values)
    seen.read(5)
    with pytest.raises(errors.NonFiniteError, match="step 6: .*\n.* 3 in a row"):
        seen.read(6)
    # The norm of gradients that are each finite may be none.
    seen = recent.Recent(["a", "b"], {}, bad_in_a_row=1)
    for number in (1, 2):
        seen.add(number, good(1.0) | {"skipped": jnp.float32(1.0)})
    with pytest.raises(errors.NonFiniteError, match="step 2"):
        seen.read(2)
