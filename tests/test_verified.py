"""Checkpoints are read only as they were saved, the same one by every reader."""

import dataclasses
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_distributed
from chaos import corruption
from jax.sharding import NamedSharding, PartitionSpec
from test_checkpoint import describe, make_state, same

from vit_jax import errors, tree
from vit_jax.checkpoints import checkpoint, digest, disk, manager, record, verify
from vit_jax.parallel import mesh

GOLDEN = Path(__file__).parent / "golden"


def on_device(array):
    return digest.on_device({"x": jnp.asarray(array)})["x"]


def numbers(shape, dtype="float32"):
    bits = np.random.default_rng(0).integers(0, 255, (*shape, np.dtype(dtype).itemsize))
    return bits.astype(np.uint8).view(dtype).reshape(shape)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((3, 40, 700), "float32"),
        ((24, 80), "bfloat16"),
        ((24, 81), "float16"),
        ((70_001,), "uint8"),
        ((5, 7), "int32"),
        ((), "int32"),
        ((0, 3), "float32"),
    ],
)
def test_digests_are_the_same_on_any_devices_and_on_the_host(shape, dtype):
    array = numbers(shape, jnp.dtype(dtype))
    wanted = digest.on_host(array)
    for count in (1, 4, 8):
        devices = mesh.make_mesh(devices=jax.devices()[:count], fsdp=count)
        cut = shape and shape[0] and shape[0] % count == 0
        spec = PartitionSpec("fsdp") if cut else PartitionSpec()
        placed = jax.device_put(array, NamedSharding(devices, spec))
        assert digest.on_device({"x": placed})["x"].digest == wanted


def test_a_digest_sees_each_bit_and_each_place():
    array = np.arange(40_000, dtype=np.float32)
    seen = {digest.on_host(array)}
    for bit in range(32):
        changed = array.copy()
        changed.view(np.uint32)[33_000 + bit] ^= np.uint32(1 << bit)
        seen.add(digest.on_host(changed))
    for left, right in ((1, 2), (0, 32_768), (1024, 2048)):
        changed = array.copy()
        changed[[left, right]] = changed[[right, left]]
        seen.add(digest.on_host(changed))
    zeros = np.zeros(3, np.float32)
    seen |= {digest.on_host(zeros), digest.on_host(-zeros), digest.on_host(zeros[:2])}
    assert len(seen) == 1 + 32 + 3 + 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_not_finite_is_seen(value, dtype):
    array = np.ones((7, 9), jnp.dtype(dtype))
    assert on_device(array).finite and on_device(np.full(3, -1)).finite
    array[3, 4] = value
    assert not on_device(array).finite


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with two checkpoints, and the state of the older one."""
    workdir = tmp_path_factory.mktemp("run")
    state, like = make_state(mesh.make_mesh(devices=jax.devices()[:1]))
    store = manager.Checkpoints(workdir, keep=2)
    store.save(state, describe(2))
    store.save(jax.tree.map(lambda x: x + x.dtype.type(3), state), describe(3))
    store.close()
    return workdir, state, like


@pytest.fixture
def workdir(saved, tmp_path):
    """A copy of it that a test may damage."""
    return shutil.copytree(saved[0], tmp_path / "run")


def test_a_state_that_is_not_finite_never_becomes_the_newest(saved, workdir):
    _, state, _ = saved
    bad = state.params | {"head": {"kernel": state.params["head"]["kernel"]}}
    bad["head"]["bias"] = state.params["head"]["bias"].at[3].set(jnp.inf)
    store = manager.Checkpoints(workdir)
    with pytest.raises(errors.NonFiniteError, match="params/head/bias") as caught:
        store.save(dataclasses.replace(state, params=bad), describe(4))
    store.close()
    assert "newest checkpoint is of step 3" in str(caught.value)
    assert caught.value.exit_code == errors.EXIT_NON_FINITE
    assert disk.available(workdir / "checkpoints") == [2, 3]


QUICK = ("flip", "missing", "swapped", "average_gone", "other_step", "newer_format")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow)
        for kind in corruption.KINDS
    ],
)
def test_all_readers_take_the_newest_that_verifies(saved, workdir, kind, caplog):
    _, state, like = saved
    folder = workdir / "checkpoints" / "3"
    words = corruption.KINDS[kind](folder, np.random.default_rng(5))
    assert checkpoint.find(workdir) == folder.with_name("2")
    assert checkpoint.describe(workdir).step == 2
    same(jax.tree.map(jnp.asarray, checkpoint.read_params(workdir)[0]), state.ema)
    restored, step = manager.Checkpoints(workdir).restore(like)
    assert step == 2
    same(restored, state)
    if kind not in corruption.GONE:
        said = [text for text in caplog.messages if str(folder) in text]
        assert said and all("step 2 is taken instead" in text for text in said)
        assert all(words in text for text in said), said


def test_what_a_newer_version_wrote_is_named_where_there_is_nothing_else(
    saved, workdir
):
    rng = np.random.default_rng(5)
    for number in ("2", "3"):
        corruption.newer_format(workdir / "checkpoints" / number, rng)
    for read in (checkpoint.find, manager.Checkpoints(workdir).restore):
        with pytest.raises(errors.UserError, match="upgrade vit_jax") as caught:
            read(saved[2] if read.__name__ == "restore" else workdir)
        assert all(f"step {number}: " in str(caught.value) for number in (2, 3))
    with pytest.raises(errors.UserError, match="upgrade vit_jax") as caught:
        checkpoint.read_params(workdir / "checkpoints" / "3")
    assert "damaged" not in str(caught.value)


def test_an_explicit_request_for_a_bad_step_names_the_leaf(workdir):
    folder = workdir / "checkpoints" / "3"
    words = corruption.flip(folder, np.random.default_rng(0), leaf="ema/")
    with pytest.raises(errors.UserError, match=words):
        checkpoint.read_params(folder)
    for number in ("2", "3"):
        corruption.gone(workdir / "checkpoints" / number, np.random.default_rng(0))
    with pytest.raises(errors.UserError, match="params/ is gone"):
        checkpoint.find(workdir)


def test_folders_that_are_no_steps_do_not_count(saved, workdir):
    _, state, like = saved
    there = workdir / "checkpoints"
    for name in ("²", "٣", "07", "1e3", "-4", "9", "8.orbax-checkpoint-tmp"):
        (there / name).mkdir()
    (there / "10").write_text("a file")
    (there / "11").symlink_to(there / "11")
    assert disk.available(there) == [2, 3]
    store = manager.Checkpoints(workdir)
    restored, step = store.restore(like)
    assert step == 3
    store.set_aside_after(step)
    store.save(state, describe(9))
    store.close()
    assert disk.available(there) == [3, 9]
    assert checkpoint.find(workdir) == there / "9"


@pytest.mark.parametrize(
    ("name", "step", "wanted"),
    [
        ("checkpoint_v1", 5, "1f21e69cab5559ca"),
        ("checkpoint_v1b", 2, "de9aabe0a090f214"),
        ("checkpoint_v2", 2, "de9aabe0a090f214"),
    ],
)
def test_checkpoints_of_every_format_load(name, step, wanted, caplog, tmp_path):
    workdir = shutil.copytree(GOLDEN / name, tmp_path / name)
    folder = workdir / "checkpoints" / str(step)
    for _ in range(2):
        params, described = checkpoint.read_params(workdir)
    assert described.step == step
    together = "".join(digest.on_host(leaf) for _, leaf in tree.named_leaves(params))
    assert digest.on_host(np.frombuffer(together.encode(), np.uint8)) == wanted
    said = [text for text in caplog.messages if "not verified" in text]
    assert len(said) == (name != "checkpoint_v2")
    assert checkpoint.newest(folder.parent) == folder
    shutil.rmtree(folder / "ema")
    with pytest.raises(errors.UserError, match="ema/ is gone"):
        checkpoint.read_params(workdir)


def test_a_record_is_one(workdir):
    """Nothing that it says can be changed, and nothing of another can be put in."""
    path = workdir / "checkpoints" / "3" / disk.METADATA
    values = json.loads(path.read_text())
    record.Record.parse(values)
    for key in values.keys() - {"format"}:
        changed = values | {key: values[key] or 1}
        changed[key] = [changed[key]]
        with pytest.raises(record.Damaged, match="seal"):
            record.Record.parse(changed)
    for wrong in (None, [], {}, {"format": "2"}, {"format": 2}, {"format": 0}):
        with pytest.raises(record.Damaged):
            record.Record.parse(wrong)


def test_a_checkpoint_is_read_again_only_where_a_file_has_changed(workdir, caplog):
    folder = workdir / "checkpoints" / "3"
    assert not verify.problem(folder)
    read = verify._problem.cache_info().misses
    assert not verify.problem(folder)
    assert verify._problem.cache_info().misses == read
    corruption.flip(folder, np.random.default_rng(1))
    assert "is not what was saved" in verify.problem(folder)
    assert caplog.record_tuples == [] or caplog.records[0].levelno == logging.WARNING


def run_command(*argv, code=0):
    """Lines of `vit_jax checkpoint`, and the figures of the last."""
    with commands.own_flags("checkpoint") as module:
        left = commands.parse("checkpoint", ["checkpoint", *argv])
        assert module._main(left) == code
    return module


def test_the_command_lists_verifies_and_prunes(workdir, capsys):
    there = workdir / "checkpoints"
    (there / "²").mkdir()
    for number in (4, 5):
        shutil.copytree(there / "3", there / str(number))
    run_command("verify", str(there / "2"))
    run_command("list", str(workdir))
    *lines, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)["checkpoints"]
    assert [f["step"] for f in figures] == ["5", "4", "3", "2"]
    assert [f["verified"] for f in figures] == [False, False, True, True]
    assert "it is of step 3, its folder of step 5" in lines[-4]
    assert figures[0]["bytes"] == sum(
        path.stat().st_size for path in (there / "5").rglob("*") if path.is_file()
    )
    run_command("verify", str(there), code=errors.EXIT_BAD_INPUT)
    for words in (["--keep=0"], ["--keep=1", "more"]):
        with pytest.raises(errors.UserError, match="want"):
            run_command("prune", str(workdir), *words)
    run_command("prune", str(workdir), "--keep=1", "--dry_run")
    assert disk.available(there) == [2, 3, 4, 5]
    run_command("prune", str(workdir), "--keep=1")
    assert disk.available(there) == [3] and (there / "²").is_dir()
    corruption.flip(there / "3", np.random.default_rng(2))
    with pytest.raises(errors.UserError, match="none is removed"):
        run_command("prune", str(workdir), "--keep=1")
    with pytest.raises(errors.UserError, match='Did you mean "verify"'):
        run_command("verfy", str(workdir))
    with pytest.raises(errors.UserError, match="has no checkpoint"):
        run_command("list", str(workdir / "none"))


OF_TWO = """
import sys
import jax
index, port, workdir, tests, case = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(index))
sys.path.insert(0, tests)
from pathlib import Path
import test_checkpoint
from vit_jax import errors, models
from vit_jax.checkpoints import disk, manager
from vit_jax.learning import step
from vit_jax.parallel import layouts, mesh
params = models.abstract(test_checkpoint.ARCHITECTURE)[1]
build = lambda: step.init_state(jax.tree.map(
    lambda x: jax.numpy.zeros(x.shape, x.dtype), params), test_checkpoint.TX, ema=True)
like = layouts.placed("fsdp", jax.eval_shape(build), mesh.make_mesh(fsdp=2))
read = disk.read_item
def read_item(folder, item, like):
    if case == "fails" and index == "1" and folder.name == "3":
        raise OSError("Input/output error")
    return read(folder, item, like)
disk.read_item = read_item
try:
    if case == "apart":
        workdir += index
    found = manager.shared(Path(workdir), keep=2).restore(like)
    print(f"took {found[1]}", float(found[0].params["head"]["bias"].sum()))
except errors.UserError as error:
    print(error)
"""


def two_processes(workdir, case):
    """What each of two processes says that restore from a workdir."""
    port = test_distributed.free_port()
    tests = str(Path(__file__).parent)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OF_TWO, str(i), port, str(workdir), tests, case],
            env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    ends = [process.communicate(timeout=300) for process in processes]
    assert all(process.returncode == 0 for process in processes), ends
    said = [re.sub(r"^\[Gloo\].*\n", "", output, flags=re.M) for output, _ in ends]
    return said, [log for _, log in ends]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "step"), [("nothing", 3), ("fails", 2), ("damaged", 2)]
)
def test_two_processes_take_the_same_step(workdir, case, step):
    if case == "damaged":
        corruption.flip(workdir / "checkpoints" / "3", np.random.default_rng(0))
    said, logs = two_processes(workdir, case)
    assert said[0] == said[1] and said[0].startswith(f"took {step} ")
    if case == "fails":
        assert all("process 1 says that" in log for log in logs)
        assert all("Input/output error" in log for log in logs)
    assert not list(workdir.glob(".seen*"))


@pytest.mark.slow
def test_two_workdirs_are_one_error(tmp_path):
    for name in ("run0", "run1"):
        (tmp_path / name).mkdir()
    said, _ = two_processes(tmp_path / "run", "apart")
    assert said[0] == said[1] and "not all processes see" in said[0]
    assert f"process 1: {tmp_path / 'run1'}" in said[0]
    assert len(said[0].splitlines()) <= 10
