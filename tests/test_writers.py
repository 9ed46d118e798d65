"""Where figures go: files, and stand-ins for the services at the network's edge."""

import csv
import json
import logging
import math
import sys
import threading
import types

import jax
import jax.numpy as jnp
import pytest
from tensorboardX.proto import event_pb2

from configs import base, quickstart
from vit_jax import errors, train
from vit_jax.parallel import mesh
from vit_jax.runs import metrics, writers
from vit_jax.runs.writers import csv_file, events, service, wandb_run
from vit_jax.settings import sections

USUAL = sections.writers(base.get_config().to_dict())
CONFIG = {"seed": 0, "model": {"name": "B/16"}, "optimizer": {"freeze": ""}}


def opened(workdir, *names, start_step=0, **options):
    return writers.Writers(
        workdir, names or USUAL, start_step=start_step, config=CONFIG, **options
    )


def lines(workdir):
    return [json.loads(x) for x in (workdir / metrics.FILE_NAME).open()]


def scalars(workdir):
    """(step, name, value) of the TensorBoard files, as their format defines it."""
    found = []
    for path in sorted((workdir / events.FOLDER).iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + size])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            data = data[12 + size + 4 :]
    return found


def test_each_line_is_there_at_once_in_both_files(tmp_path):
    assert USUAL == ("tensorboard",)
    writer = opened(tmp_path / "run")
    writer.write(1, {"loss": jnp.float32(2.5), "images": 3})
    assert lines(tmp_path / "run") == [{"step": 1, "loss": 2.5, "images": 3}]
    assert scalars(tmp_path / "run") == [(1, "loss", 2.5), (1, "images", 3.0)]
    writer.close()
    writer.close()


def test_what_is_not_finite_is_null(tmp_path):
    with_nan = {"a": math.nan, "b": math.inf, "c": jnp.float32(-math.inf), "d": 1.0}
    writer = opened(tmp_path)
    writer.write(7, with_nan)
    writer.close()
    text = (tmp_path / metrics.FILE_NAME).read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert lines(tmp_path) == [{"step": 7, "a": None, "b": None, "c": None, "d": 1.0}]


def test_a_resumed_run_has_nothing_twice(tmp_path):
    first = opened(tmp_path)
    for step in (1, 2, 3, 4, 5):
        first.write(step, {"loss": step / 10})
    first.write(4, {"val/top1": 0.5})
    first.close()
    with (tmp_path / metrics.FILE_NAME).open("a") as file:
        file.write('{"step": 6, "lo')

    second = opened(tmp_path, start_step=4)
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
        writer = opened(tmp_path)
        writer.write(0, {"val/top1": 0.1})
        writer.write(1, {"loss": 1.0})
        writer.close()
    assert len(lines(tmp_path)) == 2


def test_other_processes_write_nothing(tmp_path, stand_ins):
    writer = opened(tmp_path, *writers.WRITERS, enabled=False)
    writer.write(1, {"loss": 1.0})
    writer.close()
    assert list(tmp_path.iterdir()) == [] and not stand_ins


def test_a_full_disk_is_a_clear_error(tmp_path):
    (tmp_path / metrics.FILE_NAME).symlink_to("/dev/full")
    writer = opened(tmp_path)
    with pytest.raises(errors.UserError, match="metrics.jsonl: No space left"):
        writer.write(1, {"loss": 1.0})
    writer.close()


def test_a_workdir_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match="cannot write"):
        opened(tmp_path / "file")


def test_without_any_writer_there_is_metrics_jsonl(tmp_path):
    assert sections.writers({"log": {"writers": " csv, tensorboard,csv"}}) == (
        *("csv", "tensorboard"),
    )
    assert sections.writers({"log": {"writers": ""}}) == ()
    writer = writers.Writers(tmp_path, (), start_step=0, config=CONFIG)
    writer.write(1, {"loss": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == [metrics.FILE_NAME]


def table(workdir):
    return list(csv.DictReader((workdir / csv_file.FILE_NAME).open()))


def test_the_table_has_the_rows_of_the_lines(tmp_path):
    first = opened(tmp_path, "csv")
    first.write(1, {"loss": 1 / 3, "odd": math.nan})
    assert table(tmp_path) == [{"step": "1", "loss": str(1 / 3), "odd": ""}]
    first.write(2, {"loss": 0.25})
    first.write(2, {"val/top1": 0.5})  # a new column
    first.write(3, {"loss": 0.125})
    first.close()
    before = (tmp_path / csv_file.FILE_NAME).read_text()
    assert before.splitlines()[0] == "step,loss,odd,val/top1"
    second = opened(tmp_path, "csv", start_step=2)
    second.write(3, {"loss": 0.125})
    second.close()
    assert (tmp_path / csv_file.FILE_NAME).read_text() == before
    assert [{k: float(v) for k, v in row.items() if v} for row in table(tmp_path)] == [
        {k: v for k, v in x.items() if v is not None} for x in lines(tmp_path)
    ]


class Runs(dict):
    """What a service has: {run: [(step, figures), ...]}; it fails when told to."""

    def __init__(self):
        super().__init__()
        self.closed, self.described, self.failing = [], {}, False
        self.modules = threading.Event()

    def open(self, run_id, config):
        if self.failing:
            raise ConnectionError("no route to host\nand more")
        run_id = run_id or f"run{len(self)}"
        self.setdefault(run_id, [])
        self.described.setdefault(run_id, config)
        return run_id

    def log(self, run_id, step, figures):
        if self.failing:
            raise ConnectionError("no route to host\nand more")
        self[run_id].append((step, figures))


class FakeWandb(types.ModuleType):
    """The part of wandb that is used, its settings those of an offline machine."""

    def __init__(self, runs):
        super().__init__("wandb")
        self.runs, self.mode = runs, "offline"
        self.Settings = types.SimpleNamespace

    def setup(self):
        return types.SimpleNamespace(settings=types.SimpleNamespace(mode=self.mode))

    def login(self, *, prompt, verify):
        assert not prompt and not verify
        return False

    def init(self, *, id, resume, config, **where):
        assert resume == "allow" and {"dir", "project", "name"} <= where.keys()
        run_id = self.runs.open(id, config)

        def log(row):
            row = dict(row)
            assert row.pop("wall_time") > 0
            self.runs.log(run_id, row.pop("step"), row)

        return types.SimpleNamespace(
            id=run_id,
            log=log,
            define_metric=lambda *names, **options: None,
            finish=lambda: self.runs.closed.append(run_id),
        )


class FakeMlflow(types.ModuleType):
    """The part of MLflow that is used."""

    def __init__(self, runs):
        super().__init__("mlflow")
        self.runs = runs
        self.entities = types.ModuleType("mlflow.entities")
        self.entities.Metric = lambda *fields: fields
        self.entities.Param = lambda *fields: fields

    def MlflowClient(self, *, tracking_uri):
        assert tracking_uri.endswith("/mlruns")
        return self

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name):
        return "7"

    def create_run(self, experiment, *, run_name):
        assert experiment == "7"
        run_id = self.runs.open(None, {})
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id))

    def update_run(self, run_id, *, status):
        assert status == "RUNNING" and run_id in self.runs
        self.runs.open(run_id, {})

    def log_batch(self, run_id, metrics=(), params=()):
        self.runs.described[run_id] |= dict(params)
        if metrics:
            (step,) = {step for _, _, _, step in metrics}
            self.runs.log(run_id, step, {name: x for name, x, _, _ in metrics})

    def set_terminated(self, run_id):
        self.runs.closed.append(run_id)


@pytest.fixture
def stand_ins(monkeypatch):
    runs = Runs()
    for fake in (FakeWandb(runs), mlflow := FakeMlflow(runs)):
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", mlflow.entities)
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return runs


both = pytest.mark.parametrize("name", ["wandb", "mlflow"])


@both
def test_a_run_that_goes_on_is_the_same_there_and_has_nothing_twice(
    name, tmp_path, stand_ins
):
    first = opened(tmp_path, name)
    for step in (1, 2, 3, 4):
        first.write(step, {"loss": step / 10, "odd": math.nan, metrics.WALL_TIME: 5.0})
        first.write(step, {"val/top1": jnp.float32(0.5)})
    first.close()
    whole = list(stand_ins["run0"])
    assert whole[:2] == [(1, {"loss": 0.1}), (1, {"val/top1": 0.5})]
    assert [step for step, _ in whole] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert stand_ins.described["run0"]["seed"] in (0, "0")

    second = opened(tmp_path, name, start_step=2)
    for step in (3, 4, 5):
        second.write(step, {"loss": step / 10})
        second.write(step, {"val/top1": 0.5, "val/new": 1.0})
    second.close()
    assert list(stand_ins) == ["run0"] and stand_ins.closed == ["run0"] * 2
    assert stand_ins["run0"] == [
        *whole,
        (4, {"val/new": 1.0}),
        (5, {"loss": 0.5}),
        (5, {"val/top1": 0.5, "val/new": 1.0}),
    ]


@both
def test_a_service_that_fails_is_one_warning_and_hears_of_it_later(
    name, tmp_path, stand_ins, caplog
):
    writer = opened(tmp_path, name)
    writer.write(1, {"loss": 1.0})
    while not stand_ins.get("run0"):
        pass
    stand_ins.failing = True
    with caplog.at_level(logging.WARNING):
        for step in (2, 3):
            writer.write(step, {"loss": 1 / step})
        writer.close()
    (record,) = caplog.records
    assert f"{name} gets no more figures" in record.message
    assert "no route to host" in record.message and "and more" not in record.message
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]

    with caplog.at_level(logging.WARNING):  # it is not even there to open the run
        writer = opened(tmp_path, name, start_step=3)
        writer.close()
    assert len(caplog.records) == 2
    stand_ins.failing = False
    writer = opened(tmp_path, name, start_step=3)
    writer.write(4, {"loss": 0.25})
    writer.close()
    steps = [(step, figures["loss"]) for step, figures in stand_ins["run0"]]
    assert steps == [(1, 1.0), (2, 1 / 2), (3, 1 / 3), (4, 0.25)]


def test_a_service_that_hangs_does_not_keep_the_run(
    tmp_path, stand_ins, caplog, monkeypatch
):
    monkeypatch.setattr(service, "CLOSING", 0.05)
    end = threading.Event()
    monkeypatch.setattr(stand_ins, "log", lambda *values: end.wait(30))
    writer = opened(tmp_path, "wandb")
    writer.write(1, {"loss": 1.0})
    with caplog.at_level(logging.WARNING):
        writer.close()
    end.set()
    assert "wandb has not taken all figures in 0 s" in caplog.text


@both
def test_a_package_that_is_missing_is_one_error_with_its_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(errors.UserError) as caught:
        writers.check(["csv", name])
    assert f"pip install 'vit_jax[{name}]'" in str(caught.value)


def test_who_is_not_logged_in_hears_of_it_first(stand_ins, monkeypatch):
    wandb_run.check()
    sys.modules["wandb"].mode = "online"
    with pytest.raises(errors.UserError, match="WANDB_MODE=offline"):
        wandb_run.check()


def test_an_unknown_writer_ends_a_run_before_it_begins(tmp_path):
    config = quickstart.get_config()
    config.log.writers = "tensorboard,wandbb"
    with pytest.raises(errors.UserError, match='Did you mean "wandb"'):
        train.run(config, tmp_path / "run", mesh.make_mesh())
    assert not (tmp_path / "run").exists()


def test_a_whole_run_has_the_same_figures_everywhere(tmp_path, stand_ins):
    config = quickstart.get_config()
    config.update_from_flattened_dict(
        {
            "total": "2 steps",
            "log_every": "1 steps",
            "eval_every": "",
            "batch_size": 16,
            "evals.test.split": "test[:16]",
            "model.depth": 1,
            "model.width": 16,
            "model.mlp_width": 16,
            "log.writers": "tensorboard,csv,wandb",
        }
    )
    workdir = tmp_path / "run"
    train.run(config, workdir, mesh.make_mesh(devices=jax.devices()[:1]))
    there = [
        {"step": step, **figures} for step, figures in stand_ins[list(stand_ins)[0]]
    ]
    ours = lines(workdir)
    assert len(table(workdir)) == len(ours) == 3
    for line in ours:
        del line[metrics.WALL_TIME]
    assert there == ours
    assert stand_ins.described["run0"]["log"]["writers"] == "tensorboard,csv,wandb"

    # Who writes where may change between the calls that make up a run.
    config.log.writers = "csv"
    config.total = "2 steps"
    train.run(config, workdir, mesh.make_mesh(devices=jax.devices()[:1]))
    assert len(stand_ins["run0"]) == 3
