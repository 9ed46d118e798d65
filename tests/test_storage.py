"""Files that cannot be written: a run ends, or goes on and loses no line of it."""

import contextlib
import json
import logging
import resource
import shutil

import jax.numpy as jnp
import pytest

from vit_jax import errors, models
from vit_jax.checkpoints import checkpoint, manager
from vit_jax.data import preprocessing
from vit_jax.runs import metrics, storage
from vit_jax.runs.writers import jsonl
from vit_jax.types import TrainState

CONFIG = {"seed": 0, "model": {"name": "mu/8"}}
ARCHITECTURE = models.architecture("mu/8", num_classes=2, image_size=8)
NAMES = ("tensorboard", "csv")


@contextlib.contextmanager
def no_file_grows_past(size):
    """As a quota does; `make chaos` has the real ones."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def opened(workdir, policy):
    checkpoints = manager.Checkpoints(workdir)
    return storage.of_run(workdir, CONFIG, checkpoints, NAMES, 0, policy=policy)


def figures(step):
    return {"loss": 1 / step} | ({"val/top1": 0.5} if step == 5 else {})


def test_a_line_that_does_not_fit_leaves_nothing_of_it(tmp_path):
    lines = jsonl.Jsonl(tmp_path, start_step=0)
    lines.write(1, {"loss": 1.0})
    path = tmp_path / metrics.FILE_NAME
    before = path.read_bytes()
    with no_file_grows_past(len(before) + 7), pytest.raises(OSError, match="too large"):
        lines.write(2, {"loss": 2.0})
    assert path.read_bytes() == before
    lines.write(3, {"loss": 3.0})
    assert [x["step"] for x in metrics.lines(tmp_path)] == [1, 3]


def test_a_workdir_that_is_gone_is_seen_with_the_next_line(tmp_path):
    workdir = tmp_path / "run"
    opening = opened(workdir, "stop")
    opening.writer.write(1, {"loss": 1.0})
    workdir.rename(tmp_path / "elsewhere")
    with pytest.raises(errors.StorageError, match="it is gone, .*\n.*checkpoint: none"):
        opening.writer.write(2, {"loss": 2.0})


def test_a_file_that_somebody_wrote_anew_gets_the_next_line(tmp_path):
    lines = jsonl.Jsonl(tmp_path, start_step=0)
    path = tmp_path / metrics.FILE_NAME
    (tmp_path / "other").write_text('{"step": 7}\n')
    (tmp_path / "other").rename(path)
    lines.write(8, {})
    assert [x["step"] for x in metrics.lines(tmp_path)] == [7, 8]


def test_lines_wait_and_lose_nothing(tmp_path):
    calm, hit = (opened(tmp_path / name, "continue").writer for name in ("a", "b"))
    for step in range(1, 9):
        calm.write(step, figures(step))
        limited = no_file_grows_past(60) if 3 <= step <= 6 else contextlib.nullcontext()
        with limited:
            hit.write(step, figures(step))
        assert hit.waiting() == (step - 2 if 3 <= step <= 6 else 0)
    for writer in (calm, hit):
        writer.close()
    for name in (metrics.FILE_NAME, "metrics.csv"):
        one, other = (tmp_path / run / name for run in ("a", "b"))
        assert one.read_text() == other.read_text()


def test_lines_that_wait_at_the_end_are_an_error(tmp_path):
    writer = opened(tmp_path, "continue").writer
    with no_file_grows_past(4):
        writer.write(1, {"loss": 1.0})
        with pytest.raises(errors.StorageError, match=r"metrics.jsonl: File too large"):
            writer.close()


def state(step):
    return TrainState(jnp.int32(step), {"w": jnp.full(4096, 1.0 * step)}, (), None)


def description(step):
    prepared = preprocessing.Preprocessing(image_size=ARCHITECTURE.image_size)
    return checkpoint.Description(ARCHITECTURE, prepared, None, CONFIG, step)


def saves(kept, step, before):
    checkpoints = kept._checkpoints

    def begin():
        kept.writer.keep()
        checkpoints.save(state(step), description(step))

    return kept.saves(step, before, begin)


def test_a_checkpoint_that_fails_is_said_until_one_is_on_disk(tmp_path, caplog):
    kept = opened(tmp_path, "continue")
    assert saves(kept, 1, 0)
    kept._checkpoints.wait()
    caplog.set_level(logging.WARNING)
    kept.look(1, 2)
    assert not caplog.text
    with no_file_grows_past(2048):
        saves(kept, 2, 1)
        saves(kept, 3, 2)  # which waits for the one before
        with contextlib.suppress(errors.StorageError):
            kept._checkpoints.wait()
        kept.look(3, 4)
        with pytest.raises(errors.StorageError, match="newest good checkpoint: step 1"):
            kept.check()
    said = caplog.messages[-1]
    assert said.startswith(("NOT SAVED: step 2 (", "NOT SAVED: step 3 ("))
    assert said.endswith("; newest good checkpoint: step 1; tried again at step 4")
    assert saves(kept, 4, 3)
    kept._checkpoints.wait()
    caplog.clear()
    kept.look(4, 5)
    kept.check()
    assert not caplog.text
    assert kept._checkpoints.latest() == 4


def test_where_nothing_is_tolerated_the_next_line_ends_the_run(tmp_path):
    kept = opened(tmp_path, "stop")
    assert saves(kept, 1, 0)
    kept._checkpoints.wait()
    with no_file_grows_past(2048):
        with pytest.raises(errors.StorageError, match="newest good checkpoint: step 1"):
            saves(kept, 2, 1)
            while True:
                kept.look(2, 3)


def test_a_workdir_that_is_gone_is_made_again_where_it_was(tmp_path):
    workdir = tmp_path / "run"
    kept = opened(workdir, "continue")
    kept.writer.write(1, {"loss": 1.0})
    shutil.rmtree(workdir)
    kept.writer.write(2, {"loss": 2.0})
    kept._device += 1  # as where a network folder is not mounted any more
    assert not saves(kept, 2, 0)
    assert not workdir.exists()
    kept._device -= 1
    assert saves(kept, 3, 0)
    kept._checkpoints.close()
    kept.check()
    kept.writer.close()
    assert [x["step"] for x in metrics.lines(workdir)] == [1, 2]
    assert json.loads((workdir / "config.json").read_text()) == CONFIG
    assert kept._checkpoints.latest() == 3
