"""Whole runs on the bundled digits: learning, resuming, stopping, fine-tuning."""

import json
import logging
import os
import shutil
import signal
import threading
import time

import jax
import numpy as np
import pytest
from cases import CASES
from PIL import Image

from configs import base, quickstart
from vit_jax import errors, experiment, train, tree
from vit_jax.checkpoints import checkpoint, manager
from vit_jax.learning import schedules
from vit_jax.parallel import hardware, mesh
from vit_jax.runs import companions, compiling
from vit_jax.runs import workdir as workdir_lib
from vit_jax.weights import pretrained

# A run that goes on, and one of other data, has programs of a run before.
pytestmark = pytest.mark.usefixtures("compiled_once")

HANDLERS = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}


def small(**changes):
    """The quickstart shrunk to 12 steps, with everything random switched on."""
    config = quickstart.get_config()
    config.update_from_flattened_dict(
        {
            "total": "12 steps",
            "log_every": "1 steps",
            "eval_every": "",
            "save_every": "4 steps",
            "ema": 0.9,
            "data.flip": True,
            "model.depth": 2,
            "model.width": 32,
            "model.mlp_width": 64,
            "model.dropout": 0.1,
            "model.attention_dropout": 0.1,
        }
        | changes
    )
    return config


@pytest.fixture(scope="module")
def device_mesh():
    return mesh.make_mesh()


@pytest.fixture(scope="module")
def one_device():
    """For what does not depend on how many there are: quicker to compile and to run."""
    return mesh.make_mesh(devices=jax.devices()[:1])


def final_state(config, workdir, device_mesh):
    exp = experiment.assemble(config, device_mesh)
    state, step = manager.Checkpoints(workdir).restore(exp.state)
    assert step == exp.durations.total
    return jax.tree.map(mesh.to_host, state)


def assert_same(left, right, **tolerance):
    for (name, a), (_, b) in zip(
        tree.named_leaves(left), tree.named_leaves(right), strict=True
    ):
        if tolerance:
            np.testing.assert_allclose(a, b, err_msg=name, **tolerance)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)


def lines(workdir):
    return [json.loads(line) for line in open(workdir / "metrics.jsonl")]


EXACT = {"model.dropout": 0.0, "model.attention_dropout": 0.0}


def exact(**changes):
    """`small` without what is random in its model, as a loop: quick to compile."""
    return small(**EXACT | {"model.unroll": 1} | changes)


EVERY_SECOND = small(log_every="2 steps")  # so that a stop cuts a period in two


@pytest.fixture(scope="module")
def whole(tmp_path_factory, device_mesh):
    """A run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("whole")
    figures = train.run(EVERY_SECOND, workdir, device_mesh)
    return workdir, figures


def test_a_changed_evaluation_of_a_finished_run_is_made_again(
    whole, tmp_path, device_mesh, caplog, monkeypatch
):
    """And one whose data is not there is left out, with one line."""
    monkeypatch.setattr(compiling, "compiled", lambda exp, anew: exp)  # no step
    workdir, figures = whole
    shutil.copytree(workdir, tmp_path / "run")
    config = small(**{"data.data_dir": str(tmp_path / "none")})
    half = base.classify("test[:50%]", every="5 steps")
    few = base.fewshot_suite(every="")
    base.set_evals(config, test=half, again=base.classify("test"), **few)
    with caplog.at_level(logging.INFO):
        changed = train.run(config, tmp_path / "run", device_mesh)
    assert sum("left out" in record.message for record in caplog.records) == 1
    assert {name.split("/")[0] for name in changed} == {"test", "again"}
    assert changed["test/examples"] == 180
    assert changed["again/top1"] == figures["test/top1"]
    assert train.run(config, tmp_path / "run", device_mesh) == changed
    at_end = [line for line in lines(tmp_path / "run") if line["step"] == 12]
    assert [line["test/examples"] for line in at_end if "test/top1" in line] == [180]


def test_how_often_an_evaluation_runs_is_not_what_it_measures(tmp_path):
    evals = {"a": base.fewshot_on("pets").to_dict(), "b": base.classify("x").to_dict()}
    with workdir_lib.started(tmp_path, {"evals": evals}):
        pass
    assert workdir_lib.changed_evals(tmp_path, {"evals": evals}) == set()
    again = {"a": evals["a"] | {"every": "5%", "optional": True}, "c": evals["b"]}
    assert workdir_lib.changed_evals(tmp_path, {"evals": again}) == set()
    again["a"]["shots"] = (5,)
    assert workdir_lib.changed_evals(tmp_path, {"evals": again}) == {"a"}
    assert workdir_lib.changed_evals(tmp_path / "none", {"evals": again}) == set()


def test_a_run_that_was_begun_with_one_microbatch_goes_on_by_default(tmp_path):
    workdir_lib.check_same(tmp_path, {"microbatches": 0}, {"microbatches": 1})
    for ours, theirs in ((0, 4), (4, 1), (2, 0)):
        with pytest.raises(errors.UserError, match=f"{theirs} there, {ours} in this"):
            workdir_lib.check_same(
                tmp_path, {"microbatches": ours}, {"microbatches": theirs}
            )


def stop_at(step, workdir):
    """Sends SIGTERM to this process once a step is in metrics.jsonl."""

    def watch():
        path = workdir / "metrics.jsonl"
        deadline = time.time() + 120
        while time.time() < deadline:
            if path.exists() and f'"step": {step},' in path.read_text():
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(0.001)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_two_resumes_end_in_the_same_bits(whole, tmp_path, device_mesh):
    workdir, figures = whole
    for step in (2, 8):
        watcher = stop_at(step, tmp_path)
        with pytest.raises(errors.Preempted, match="same command again"):
            train.run(EVERY_SECOND, tmp_path, device_mesh)
        watcher.join()
        assert step < manager.Checkpoints(tmp_path).latest() < 12
    assert train.run(EVERY_SECOND, tmp_path, device_mesh) == figures
    assert_same(
        final_state(small(), tmp_path, device_mesh),
        final_state(small(), workdir, device_mesh),
    )
    names = ("step", "loss", "accuracy", "grad_norm", "learning_rate", "test/top1")
    names += ("loss_mean", "accuracy_mean", "grad_norm_mean", "epoch", "test/loss")
    kept = [
        [{k: line[k] for k in names if k in line} for line in lines(folder)]
        for folder in (tmp_path, workdir)
    ]
    assert kept[0] == kept[1]


@pytest.mark.slow
def test_a_run_that_died_between_two_lines_has_each_of_them_once(
    tmp_path, one_device, monkeypatch
):
    """Of every third step: 3, 6 and 9, and the first and the last."""
    config = exact(total="10 steps", log_every="3 steps", ema=0.0)
    calm, hit = tmp_path / "calm", tmp_path / "hit"
    train.run(config, calm, one_device)
    started = companions.Run.started
    for last in (7, 9):  # past the checkpoint of 4, which has been gone on from, and 8

        def dies(self, step, values, last=last):
            if step == last:
                raise KeyboardInterrupt
            started(self, step, values)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(companions.Run, "started", dies)
            train.run(config, hit, one_device)
    train.run(config, hit, one_device)
    names = ("step", "loss", "loss_mean", "grad_norm_mean", "epoch", "test/loss")
    found = [[[x.get(n) for n in names] for x in lines(w)] for w in (hit, calm)]
    assert found[0] == found[1]
    assert [x["step"] for x in lines(hit) if "loss" in x] == [1, 3, 6, 9, 10]


def test_signal_handlers_are_put_back(whole):
    now = {number: signal.getsignal(number) for number in HANDLERS}
    assert now == HANDLERS


def test_a_finished_run_says_so_and_changes_nothing(whole, device_mesh):
    workdir, figures = whole
    before = (workdir / "metrics.jsonl").read_bytes()
    assert train.run(small(), workdir, device_mesh) == figures
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_metrics_hold_every_step_once(whole):
    workdir, figures = whole
    steps = [line["step"] for line in lines(workdir) if "loss" in line]
    assert steps == [1, 2, 4, 6, 8, 10, 12]
    pairs = [line for line in lines(workdir) if "loss_mean" in line]
    assert [line["step"] for line in pairs] == steps[1:]
    by_step = {line["step"]: line for line in lines(workdir) if "loss" in line}
    for name in ("loss", "accuracy", "grad_norm"):
        first_two = (by_step[1][name] + by_step[2][name]) / 2
        assert by_step[2][f"{name}_mean"] == first_two, name
    assert pairs[-1]["loss_mean"] != pairs[-1]["loss"]
    assert figures["test/examples"] == 359
    assert 0 <= figures["test/top1"] <= figures["test/top5"] <= 1
    assert any((workdir / "tensorboard").iterdir())


def test_another_config_is_refused_by_name(whole, device_mesh):
    workdir, _ = whole
    with pytest.raises(errors.UserError) as caught:
        train.run(small(seed=3, **{"optimizer.lr": 0.5}), workdir, device_mesh)
    text = str(caught.value)
    assert "seed: 0 there, 3 in this call" in text
    assert "optimizer.lr: 0.002 there, 0.5 in this call" in text


def test_a_step_that_cannot_fit_is_refused_and_leaves_nothing(
    tmp_path, device_mesh, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(hardware, "usable_memory", lambda device: 2**16)
        with pytest.raises(errors.UserError, match="smaller, cheapest first") as caught:
            train.run(exact(total="1 steps"), tmp_path, device_mesh)
    assert len(str(caught.value).splitlines()) <= 10
    assert not list(tmp_path.iterdir())


def test_memory_that_runs_out_on_the_way_is_one_error(
    tmp_path, one_device, monkeypatch
):
    """Of an evaluation in the loop here, and of the steps likewise."""

    def fails(*unused, **also):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory allocating 3221225472 bytes."
        )

    monkeypatch.setattr(companions.Run, "evaluate", fails)
    with pytest.raises(errors.UserError, match="3.00 GiB more was wanted") as caught:
        train.run(exact(total="1 steps"), tmp_path, one_device)
    assert "batch_size than 64, microbatches above 1" in str(caught.value)
    assert caught.value.exit_code == errors.EXIT_BAD_INPUT


def test_free_settings_may_change(whole, device_mesh):
    workdir, figures = whole
    changed = small(log_every="3 steps", **{"data.threads": 1, "data.cache": "none"})
    assert train.run(changed, workdir, device_mesh) == figures


LENGTH = {"total": "4 steps"} | EXACT


def losses(folder):
    return [line["loss"] for line in lines(folder) if "loss" in line]


@pytest.fixture(scope="module")
def plain(tmp_path_factory, device_mesh):
    """Losses of four steps with everything on every device."""
    workdir = tmp_path_factory.mktemp("plain")
    train.run(small(**LENGTH), workdir, device_mesh)
    return losses(workdir)


@pytest.mark.parametrize(
    ("mesh_options", "changes"),
    [
        pytest.param({"fsdp": 8}, {"mesh.fsdp": 8}, marks=pytest.mark.slow),
        ({}, {"microbatches": 4}),
        # Single steps of these are in test_layouts.
        pytest.param(
            {"fsdp": 4},
            {"mesh.layout": "zero1", "microbatches": 2},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"fsdp": 2},
            {"mesh.layout": "fsdp", "model.unroll": 1, "model.remat": "full"},
            marks=pytest.mark.slow,
        ),
        ({}, {"data.cache": "none"}),
        ({}, {"data.cache": "ram"}),
    ],
)
def test_layout_microbatches_and_caches_do_not_matter(
    mesh_options, changes, tmp_path, plain
):
    changed = small(**LENGTH, **changes)
    train.run(changed, tmp_path, mesh.make_mesh(**mesh_options))
    np.testing.assert_allclose(losses(tmp_path), plain, rtol=1e-5)


def test_learns(tmp_path, one_device):
    config = small(total="10 epochs", log_every="20 steps", save_every="", ema=0.0)
    config.update_from_flattened_dict(EXACT | {"data.flip": False})
    figures = train.run(config, tmp_path, one_device)
    found = losses(tmp_path)
    assert found[0] == pytest.approx(np.log(10), abs=0.3)
    assert found[-1] < found[0] / 2
    assert figures["test/top1"] > 0.7


def test_a_transfer_that_nobody_asked_for_ends_the_loop(
    tmp_path, one_device, monkeypatch
):
    """A rate that a device computes, for instance: it would wait for the step."""

    def on_a_device(rates, update):
        return float(jax.numpy.minimum(update / 4, 1.0))

    monkeypatch.setattr(schedules.Rates, "__getitem__", on_a_device)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train.run(exact(total="2 steps"), tmp_path, one_device)


def test_a_non_finite_loss_stops_and_keeps_the_last_good(tmp_path, one_device):
    config = exact(save_every="2 steps", **{"optimizer.clip_norm": 0.0})
    config.optimizer.lr = 5000.0
    config.optimizer.name = "sgd"
    config.optimizer.warmup = ""
    with pytest.raises(errors.NonFiniteError) as caught:
        train.run(config, tmp_path, one_device)
    text = str(caught.value)
    assert text.startswith("step ") and "blocks/" in text
    assert len(text.splitlines()) <= 10
    bad = int(text.split()[1].rstrip(":"))
    newest = manager.Checkpoints(tmp_path).latest()
    assert newest is None or newest < bad
    if newest:
        params, _ = checkpoint.read_params(tmp_path)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


def test_bad_steps_are_left_out_until_there_are_too_many(tmp_path, device_mesh):
    config = exact(skip_bad_steps=2, save_every="1 steps", log_every="1 steps")
    config.optimizer.update({"lr": 5000.0, "name": "sgd", "warmup": ""})
    config.optimizer.clip_norm = 0.0
    with pytest.raises(errors.NonFiniteError, match="3 in a row") as caught:
        train.run(config, tmp_path, device_mesh)
    assert caught.value.exit_code == 4
    params, _ = checkpoint.read_params(tmp_path)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    skipped = [json.loads(row)["skipped"] for row in rows]
    assert skipped[0] == 0.0 and skipped[-1] == 1.0


def test_fine_tunes_its_own_checkpoint_at_another_size(whole, tmp_path, device_mesh):
    source, _ = whole
    config = exact(
        init_from=str(source),
        total="2 steps",
        **{"model.name": "checkpoint", "model.image_size": (16, 24)},
    )
    exp = experiment.assemble(config, device_mesh)
    assert exp.architecture.grid == (4, 6)
    figures = train.run(config, tmp_path, device_mesh)
    assert figures["test/examples"] == 359
    loaded = pretrained.load(tmp_path)
    assert loaded.architecture.image_size == (16, 24)
    assert loaded.label_names == tuple("0123456789")


def test_fine_tunes_a_google_checkpoint(golden, tmp_path, device_mesh):
    config = exact(
        init_from=str(golden / "vit_token.npz"),
        total="2 steps",
        **{"model.name": "checkpoint", "model.image_size": (48, 40)},
        **{"model.depth": 0},  # the checkpoint's
    )
    figures = train.run(config, tmp_path, device_mesh)
    assert figures["test/examples"] == 359


def test_frozen_leaves_do_not_move(whole, tmp_path, one_device):
    source, _ = whole
    config = exact(
        init_from=str(source), ema=0.0, total="3 steps", **{"model.name": "checkpoint"}
    )
    config.optimizer.lr_rules = ((r"^head/", 1.0), (r".*", 0.0))
    train.run(config, tmp_path, one_device)
    before, _ = checkpoint.read_params(source)
    after, _ = checkpoint.read_params(tmp_path)
    for (name, a), (_, b) in zip(
        tree.named_leaves(before), tree.named_leaves(after), strict=True
    ):
        assert np.array_equal(a, b) != name.startswith("head/"), name


@pytest.mark.slow
def test_a_run_goes_on_with_the_images_that_it_began_with(tmp_path, one_device):
    """Whatever became of the files of its checkpoint in the meantime."""
    source, workdir = tmp_path / "hf", tmp_path / "run"
    shutil.copytree(CASES / "init_from_normalization" / "hf", source)
    options = {"init_from": str(source), "model.name": "checkpoint"}
    sizes = ("model.width", "model.depth", "model.mlp_width", "model.heads")
    options |= dict.fromkeys(sizes, 0)
    options |= {"model.image_size": (32, 32), "optimizer.schedule": "constant"}
    train.run(exact(**options, total="2 steps"), workdir, one_device)
    before = pretrained.load(workdir).preprocessing
    assert before.mean == pytest.approx((123.675, 116.28, 103.53))
    shutil.rmtree(source)
    longer = exact(**options, total="3 steps")
    train.run(longer, workdir, one_device)
    assert manager.Checkpoints(workdir).latest() == 3
    assert pretrained.load(workdir).preprocessing == before


def test_a_missing_init_from_stops_before_training(tmp_path, device_mesh):
    config = small(init_from=str(tmp_path / "nothing.npz"))
    with pytest.raises(errors.UserError, match="nothing.npz"):
        train.run(config, tmp_path / "run", device_mesh)


def test_an_unwritable_workdir(tmp_path, device_mesh):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match="cannot be written"):
        train.run(small(), tmp_path / "file" / "run", device_mesh)


def test_missing_data_leaves_no_workdir(tmp_path, device_mesh):
    config = small(**{"data.dataset": "cifar10", "data.data_dir": str(tmp_path)})
    config.model.image_size = (32, 32)
    with pytest.raises(errors.UserError, match="download_and_prepare"):
        train.run(config, tmp_path / "run", device_mesh)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_finished_run_goes_on_to_a_larger_total(tmp_path, one_device):
    """Its lines go on too, with means of a period that began before; a short trace."""
    options = {"log_every": "4 steps", "optimizer.schedule": "constant"}
    options |= {"optimizer.warmup": "2 steps", "save_every": ""}
    train.run(exact(**options, total="3 steps"), tmp_path, one_device)
    longer = exact(**options, total="5 steps")
    train.run(longer, tmp_path, one_device, profile=True)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    written = [line for line in lines(tmp_path) if "loss" in line]
    assert [line["step"] for line in written] == [1, 3, 4, 5]
    assert written[-1]["epoch"] == 5 * 64 / 1438
    assert abs(written[-1]["wall_time"] - time.time()) < 600
    assert written[2]["loss_mean"] == written[2]["loss"], "steps since the last line"
    assert manager.Checkpoints(tmp_path).latest() == 5


def test_unreadable_images_are_replaced_counted_and_named(tmp_path, one_device, caplog):
    folder = tmp_path / "images"
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10)):
        for label in ("cat", "dog"):
            place = folder / split / label
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    (folder / "train" / "cat" / "3.png").write_bytes(b"not an image")
    config = exact(**{"data.dataset": f"folder:{folder}", "batch_size": 40})
    caplog.set_level(logging.INFO)
    figures = train.run(config, tmp_path / "run", one_device)
    assert figures["test/examples"] == 20
    assert "cat/3.png" in caplog.text
    assert "1 unreadable images replaced" in caplog.text
    for i in range(10):
        (folder / "train" / "dog" / f"{i}.png").write_bytes(b"")
    with pytest.raises(errors.UserError, match="cannot be read"):
        train.run(config, tmp_path / "again", one_device)
