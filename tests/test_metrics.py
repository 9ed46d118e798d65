import pytest

from vit_jax.runs import metrics


def test_the_clocks_figures_agree_with_each_other():
    clock = metrics.Clock(64, 1000, flops_per_image=2e9, peak_flops=1e12)
    assert clock.summary() == {}
    assert clock.tick(101) == {}
    clock.waited(0.5)
    figures = clock.tick(111)
    rate = figures["images_per_second"]
    assert figures["step_seconds"] == pytest.approx(64 / rate)
    assert figures["eta_seconds"] == pytest.approx((1000 - 111) * 64 / rate)
    assert figures["mfu"] == pytest.approx(rate * 2e9 / 1e12)
    assert figures["input_wait"] == 1.0  # waited longer than the time that passed
    del figures["eta_seconds"]
    assert clock.summary() == figures


def test_without_a_known_chip_there_is_no_mfu():
    clock = metrics.Clock(64, 1000, flops_per_image=2e9, peak_flops=None)
    clock.tick(1)
    with clock.paused():
        pass
    assert "mfu" not in clock.tick(2)


def test_progress_is_one_plain_line():
    values = {
        "loss": 2.34567,
        "learning_rate": 3e-4,
        "images_per_second": 12345.6,
        "eta_seconds": 3725,
        "mfu": 0.456,
        "input_wait": 0.01,
        "memory_bytes": 3 * 2**30,
        "something": 1.0,
    }
    assert metrics.progress_line(50, 1000, values) == (
        "step 50/1000 | eta 1h02m | loss 2.3457 | lr 3.000e-04 | 12,346 images/s | "
        "mfu 45.6% | input wait 1.0% | memory 3.00 GiB"
    )


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0s"), (59.6, "1m00s"), (184, "3m04s"), (7200, "2h00m"), (97200, "1d03h")],
)
def test_durations(seconds, text):
    assert metrics.format_seconds(seconds) == text
