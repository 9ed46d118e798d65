"""Runs in a bucket: the file layer in memory, whole runs against a local server."""

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import buckets
import pytest
from etils.epath.backend import fsspec_backend
from fsspec.implementations import memory
from test_main import SMALL

import vit_jax
from vit_jax import errors, evaluate, tree
from vit_jax.checkpoints import checkpoint, disk, manager
from vit_jax.host import buckets as host_buckets
from vit_jax.host import files
from vit_jax.runs import metrics, writers
from vit_jax.runs.writers import copied, mlflow_run, wandb_run
from vit_jax.settings import validation

REPOSITORY = Path(__file__).resolve().parent.parent
CLOCK = ("images_per_second", "step_seconds", "input_wait", "eta_seconds")


@pytest.fixture
def server(monkeypatch):
    """A bucket at a server of this process, for it and those that it starts."""
    if importlib.util.find_spec("gcsfs") is None:
        pytest.skip("needs gcsfs")
    with buckets.served("bucket") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def run_of(words):
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=REPOSITORY,
        env=os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def started(workdir):
    return run_of(["-m", "vit_jax.main", *SMALL, f"--workdir={workdir}"])


def ended(workdir):
    process = started(workdir)
    told, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return json.loads(told.splitlines()[-1]) | {"workdir": ""}, said


def figures(workdir):
    """The logged lines of a run, but for what depends on the time and the machine."""
    times = {metrics.WALL_TIME, "memory_bytes", *CLOCK}
    return [
        {
            k: v
            for k, v in line.items()
            if k not in times and not k.startswith("goodput")
        }
        for line in metrics.lines(workdir)
        if line["step"] % 5 == 0  # and not the first after each start
    ]


def state(workdir):
    folder = checkpoint.find(workdir)
    items = [disk.read_item(folder, x) for x in ("params", "ema", "optimizer")]
    return [(n, a.tobytes()) for item in items for n, a in tree.named_leaves(item)]


@pytest.mark.slow
def test_a_run_in_a_bucket_killed_anywhere_is_the_one_on_a_disk(server, tmp_path):
    address, moments = "gs://bucket/runs/1", random.Random(0)
    wanted, _ = ended(tmp_path / "run")
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        process = started(address)
        requests = server.counts["POST"] + moments.randint(1, 100)
        while server.counts["POST"] < requests and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(number)
        _, said = process.communicate(timeout=300)
        assert process.returncode == (42 if number == signal.SIGTERM else -9), said
    found, said = ended(address)
    assert "resuming at step" in said
    assert found == wanted
    assert state(address) == state(tmp_path / "run")
    assert figures(address) == figures(tmp_path / "run")
    assert "done:" in ended(address)[1]

    before = server.counts["GET"]
    loaded, local = vit_jax.load(address), vit_jax.load(tmp_path / "run")
    assert server.counts["GET"] - before < 500, "leaf by leaf takes thousands"
    for (name, a), (_, b) in zip(
        tree.named_leaves(loaded.params), tree.named_leaves(local.params), strict=True
    ):
        assert bytes(a) == bytes(b), name
    assert evaluate.run(address)["top1"] == pytest.approx(wanted["test/top1"])
    objects = server.buckets["bucket"].objects
    assert {name.split("/")[2] for name in objects} == {
        *("config.json", "metrics.jsonl", "checkpoints", "tensorboard")
    }
    kept = {name.split("/")[3] for name in objects if "/checkpoints/" in name}
    assert kept == {"50", "60"}


@pytest.mark.slow
def test_two_processes_write_to_a_bucket_what_they_do_to_a_disk(server, tmp_path):
    """One of them is killed within a save; both are started again."""

    def both(workdir):
        launch = ["launch/local.py", "--pause=0.1", "--processes=2", "--devices=1"]
        return run_of([*launch, "--", *SMALL, f"--workdir={workdir}"])

    def children(pid):
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    undisturbed = both(tmp_path / "run")
    assert undisturbed.wait(300) == 0, undisturbed.communicate()[1]
    process = both("gs://bucket/runs/2")
    while server.counts["POST"] < 120 and process.poll() is None:
        time.sleep(0.001)
    guards = children(process.pid)
    os.kill(int(children(guards[1])[0]), signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "resuming at step" in said
    assert state("gs://bucket/runs/2") == state(tmp_path / "run")
    assert figures("gs://bucket/runs/2") == figures(tmp_path / "run")


class InMemory(memory.MemoryFileSystem):
    """fsspec's own file system in memory, under the name of Google's."""

    protocol = ("gs", "gcs")
    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("gs://").strip("/")


@pytest.fixture
def bucket(monkeypatch):
    """Writes below gs://bucket stay in this process; returns what is there, by name."""
    monkeypatch.setattr(fsspec_backend, "fs", lambda path: InMemory())
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "gs", InMemory)
    monkeypatch.setattr(host_buckets, "packages", lambda: True)
    monkeypatch.setattr(InMemory, "store", {})
    monkeypatch.setattr(InMemory, "pseudo_dirs", [""])
    return lambda: {
        name.removeprefix("/bucket/"): file.getvalue()
        for name, file in InMemory.store.items()
    }


@pytest.mark.parametrize("given", ["gs://bucket/a/b", Path("gs://bucket/a/b")])
def test_an_address_is_a_folder_as_any(bucket, given):
    folder = files.folder(given)
    assert str(folder) == files.address(folder) == "gs://bucket/a/b"
    assert files.absolute(folder) == folder and not folder.is_dir()
    files.write_whole(folder / "text", "Käfer")
    files.write_whole(folder / "text", "Maus")
    assert (folder / "text").read_text() == "Maus" and folder.is_dir()
    files.move_over(folder, files.folder("gs://bucket/c/d"))
    assert bucket() == {"c/d/text": b"Maus"}


@pytest.mark.parametrize("given", ["a/b", "a:/b", "C:/b", "/gs:/b", "~/x", ""])
def test_what_is_of_this_machine(given):
    assert files.address(given) == "" and files.folder(given) == Path(given)


def test_figures_are_there_before_a_checkpoint_and_gone_on_with(bucket, monkeypatch):
    def opened(start_step):
        names = ("tensorboard", "csv")
        return writers.Writers(
            "gs://bucket/run", names, start_step=start_step, config={}
        )

    writer = opened(0)
    writer.write(1, {"loss": 3.0})
    assert not bucket(), "an object is written whole, and not for each line"
    writer.keep()
    assert metrics.lines("gs://bucket/run") == [{"step": 1, "loss": 3.0}]
    kept = bucket()
    assert kept["run/metrics.csv"] == b"step,loss\n1,3.0\n"
    writer.write(2, {"loss": 2.0})
    assert bucket() == kept
    monkeypatch.setattr(copied, "SECONDS", 0.0)
    writer.write(3, {"loss": 1.0})
    assert [x["step"] for x in metrics.lines("gs://bucket/run")] == [1, 2, 3]

    writer = opened(2)  # the first was killed
    writer.write(3, {"loss": 1.5})
    writer.close()
    assert [x["loss"] for x in metrics.lines("gs://bucket/run")] == [3.0, 2.0, 1.5]
    assert bucket()["run/metrics.csv"].splitlines()[1:] == [
        b"1,3.0",
        b"2,2.0",
        b"3,1.5",
    ]
    events = [name for name in bucket() if name.startswith("run/tensorboard/events")]
    assert len(events) == 2 and len(bucket()) == 4


@pytest.mark.parametrize(
    ("error", "may_pass"),
    [
        (RuntimeError("502"), True),
        (ConnectionResetError(), True),
        (OSError("Forbidden: b"), False),
        (FileNotFoundError("b"), False),
    ],
)
def test_a_bucket_that_fails_is_one_error(bucket, monkeypatch, error, may_pass):
    def failing(*args, **options):
        raise error

    writer = writers.Writers("gs://bucket/run", (), start_step=0, config={})
    writer.write(1, {"loss": 3.0})
    monkeypatch.setattr(InMemory, "_open", failing)
    with pytest.raises(errors.UserError, match="gs://bucket/run/metrics") as caught:
        writer.keep()
    assert errors.transient(caught.value) == may_pass


@pytest.mark.parametrize(
    ("name", "variable"), [("wandb", "WANDB_DIR"), ("mlflow", "MLFLOW_TRACKING_URI")]
)
def test_what_services_keep_here_wants_a_place_here(
    bucket, monkeypatch, name, variable
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    mode = types.SimpleNamespace(settings=types.SimpleNamespace(mode="offline"))
    offline = types.SimpleNamespace(setup=lambda: mode, login=lambda **_: False)
    monkeypatch.setattr(wandb_run, "package", lambda: offline)
    monkeypatch.setattr(mlflow_run, "package", lambda: None)
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(errors.UserError, match=variable) as caught:
        writers.check([name], "gs://bucket/run")
    assert "\n" not in str(caught.value)
    writers.check([name], "run")
    monkeypatch.setenv(variable, "there")
    writers.check([name], "gs://bucket/run")


def test_a_checkpoint_counts_once_orbax_has_said_so(bucket, monkeypatch):
    folder = files.folder("gs://bucket/run/checkpoints")
    for step in (1, 2, 10):
        files.write_whole(folder / str(step) / "description" / "metadata", "{}")
    for step in (1, 2):
        files.write_whole(folder / str(step) / disk.COMMITTED, "")
    assert disk.available(folder) == [1, 2]
    monkeypatch.setattr(checkpoint, "problem", lambda folder: "")  # what is in them
    assert str(checkpoint.find("gs://bucket/run")) == f"{folder}/2"
    manager.Checkpoints(files.folder("gs://bucket/run")).set_aside_after(1)
    there = {name.rpartition("/description")[0] for name in bucket()} - {""}
    assert there == {
        *("run/checkpoints/1", "run/unreadable-checkpoints/2"),
        "run/checkpoints/10",  # orbax removes it itself
    }


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://bucket/run", "nothing is written to s3:// addresses"),
        ("memory://run", "nothing is written to memory:// addresses"),
        ("gs://bucket", "gs://BUCKET/PATH"),
        ("gs://Bucket_!/run", "gs://BUCKET/PATH"),
        ("gs://bucket/run", "pip install 'vit_jax[gcs]'"),
    ],
)
def test_where_no_run_can_write_is_one_line(monkeypatch, address, words):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    for given in (address, Path(address)):
        with pytest.raises(errors.UserError) as caught:
            validation.check_workdir(given, "--workdir")
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_trace_wants_a_disk():
    validation.check_workdir("run", "--workdir", profile=True)
    with pytest.raises(errors.UserError, match="--profile"):
        validation.check_workdir("gs://bucket/run", "--workdir", profile=True)
