import json
import math

import jax.numpy as jnp
import pytest
from tensorboardX.proto import event_pb2

from vit_jax import errors
from vit_jax.runs import metrics


def lines(workdir):
    return [json.loads(x) for x in (workdir / metrics.FILE_NAME).open()]


def scalars(workdir):
    """(step, name, value) of the TensorBoard files, as their format defines it."""
    found = []
    for path in sorted((workdir / metrics.TENSORBOARD_FOLDER).iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + size])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            data = data[12 + size + 4 :]
    return found


def test_each_line_is_there_at_once_in_both_files(tmp_path):
    writer = metrics.Writer(tmp_path / "run", start_step=0)
    writer.write(1, {"loss": jnp.float32(2.5), "images": 3})
    assert lines(tmp_path / "run") == [{"step": 1, "loss": 2.5, "images": 3}]
    assert scalars(tmp_path / "run") == [(1, "loss", 2.5), (1, "images", 3.0)]
    writer.close()
    writer.close()


def test_what_is_not_finite_is_null(tmp_path):
    with_nan = {"a": math.nan, "b": math.inf, "c": jnp.float32(-math.inf), "d": 1.0}
    writer = metrics.Writer(tmp_path, start_step=0)
    writer.write(7, with_nan)
    writer.close()
    text = (tmp_path / metrics.FILE_NAME).read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert lines(tmp_path) == [{"step": 7, "a": None, "b": None, "c": None, "d": 1.0}]


def test_a_resumed_run_has_nothing_twice(tmp_path):
    first = metrics.Writer(tmp_path, start_step=0)
    for step in (1, 2, 3, 4, 5):
        first.write(step, {"loss": step / 10})
    first.write(4, {"val/top1": 0.5})
    first.close()
    with (tmp_path / metrics.FILE_NAME).open("a") as file:
        file.write('{"step": 6, "lo')

    second = metrics.Writer(tmp_path, start_step=4)
    second.write(5, {"loss": 0.5})
    second.close()
    assert [(r["step"], *list(r)[1:]) for r in lines(tmp_path)] == [
        (1, "loss"),
        (2, "loss"),
        (3, "loss"),
        (4, "loss"),
        (4, "val/top1"),
        (5, "loss"),
    ]


def test_a_run_from_step_0_starts_its_file_anew(tmp_path):
    for _ in range(2):
        writer = metrics.Writer(tmp_path, start_step=0)
        writer.write(0, {"val/top1": 0.1})
        writer.write(1, {"loss": 1.0})
        writer.close()
    assert len(lines(tmp_path)) == 2


def test_other_processes_write_nothing(tmp_path):
    writer = metrics.Writer(tmp_path, start_step=0, enabled=False)
    writer.write(1, {"loss": 1.0})
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_clear_error(tmp_path):
    (tmp_path / metrics.FILE_NAME).symlink_to("/dev/full")
    writer = metrics.Writer(tmp_path, start_step=0)
    with pytest.raises(errors.UserError, match="metrics.jsonl: No space left"):
        writer.write(1, {"loss": 1.0})
    writer.close()


def test_a_workdir_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match="cannot write"):
        metrics.Writer(tmp_path / "file", start_step=0)


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
