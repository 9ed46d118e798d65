"""Saving and restoring: bit for bit, onto any mesh, and what damaged files do."""

import dataclasses
import json
import resource
import shutil
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vit_jax import errors, models, tree
from vit_jax.checkpoints import checkpoint, disk, manager
from vit_jax.data import preprocessing
from vit_jax.learning import step
from vit_jax.parallel import layouts, mesh

ARCHITECTURE = models.architecture(
    "mu/8", num_classes=10, image_size=16, depth=2, width=32, mlp_width=64, heads=2
)
TX = optax.adam(1e-3, mu_dtype=jnp.bfloat16)


def make_state(device_mesh, architecture=ARCHITECTURE, ema=True):
    """A state of random numbers, placed by the layout of the mesh."""
    graphdef, params = models.abstract(architecture)

    def build():
        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)
        return step.init_state(empty, TX, ema=ema)

    like = layouts.placed("fsdp", jax.eval_shape(build), device_mesh)
    layout = jax.tree.map(lambda leaf: leaf.sharding, like)
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda x: (rng.standard_normal(x.shape) * 100).astype(x.dtype), like
    )
    return jax.device_put(state, layout), like


def describe(number, architecture=ARCHITECTURE):
    return checkpoint.Description(
        architecture=architecture,
        preprocessing=preprocessing.Preprocessing(image_size=architecture.image_size),
        label_names=("cat", "dog"),
        config={"seed": 1, "model": {"name": "mu/8"}},
        step=number,
        versions=checkpoint.versions(),
    )


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"loss": "softmax"}, "single_label"),
        ({"loss": "sigmoid"}, "multi_label"),
        ({}, "single_label"),
    ],
)
def test_what_outputs_are_follows_the_loss_where_nothing_says_it(config, problem):
    described = dataclasses.replace(describe(1), config=config, problem="")
    assert described.problem == problem
    stored = described.to_dict()
    assert checkpoint.Description.from_dict(stored) == described
    del stored["problem"]  # as older versions wrote it
    assert checkpoint.Description.from_dict(stored) == described
    said = dataclasses.replace(described, problem="regression")
    assert checkpoint.Description.from_dict(said.to_dict()) == said
    with pytest.raises(errors.UserError, match="problem='ranking' is unknown"):
        dataclasses.replace(described, problem="ranking")


def same(left, right):
    for (name, a), (_, b) in zip(
        tree.named_leaves(left), tree.named_leaves(right), strict=True
    ):
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(mesh.to_host(a), mesh.to_host(b), err_msg=name)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with two checkpoints and the state in them."""
    workdir = tmp_path_factory.mktemp("run")
    state, like = make_state(mesh.make_mesh())
    store = manager.Checkpoints(workdir, keep=2)
    for number in (1, 2, 3):
        store.save(state, describe(number))
    store.close()
    return workdir, state, like


@pytest.fixture
def workdir(saved, tmp_path):
    """A copy of it that a test may damage."""
    return shutil.copytree(saved[0], tmp_path / "run")


def test_restores_bit_for_bit_and_keeps_the_newest(saved):
    workdir, state, like = saved
    assert disk.available(workdir / "checkpoints") == [2, 3]
    restored, number = manager.Checkpoints(workdir).restore(like)
    assert number == 3
    same(restored, state)


@pytest.mark.parametrize("fsdp", [2, 8])
def test_restores_onto_another_mesh(saved, fsdp):
    workdir, state, _ = saved
    _, like = make_state(mesh.make_mesh(fsdp=fsdp))
    restored, _ = manager.Checkpoints(workdir).restore(like)
    same(restored, state)
    kernel = restored.params["blocks"]["attn"]["query"]["kernel"]
    assert kernel.sharding.spec[1] == "fsdp"


def test_a_checkpoint_alone_is_enough(saved):
    workdir, state, _ = saved
    params, description = checkpoint.read_params(workdir)
    assert description == describe(3)
    same(jax.tree.map(jnp.asarray, params), state.ema)  # the average is what is used
    graphdef, _ = models.abstract(description.architecture)
    assert models.merge(graphdef, params)(jnp.zeros((1, 16, 16, 3))).shape == (1, 10)


def test_an_empty_workdir_has_nothing(tmp_path):
    store = manager.Checkpoints(tmp_path / "none")
    assert store.latest() is None
    assert store.restore(make_state(mesh.make_mesh())[1]) is None
    with pytest.raises(errors.UserError, match="no checkpoint of vit_jax"):
        checkpoint.read_params(tmp_path / "none")


def damage_description(folder):
    (folder / "description" / "metadata").unlink()


def damage_arrays(folder):
    shutil.rmtree(folder / "params")


def truncate_arrays(folder):
    for path in folder.rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_metadata(folder):
    (folder / "optimizer" / "_METADATA").write_text("{")


@pytest.mark.parametrize(
    "damage", [damage_description, damage_arrays, truncate_arrays, damage_metadata]
)
def test_falls_back_to_the_newest_readable_and_goes_on(saved, workdir, damage):
    _, state, like = saved
    damage(workdir / "checkpoints" / "3")
    store = manager.Checkpoints(workdir, keep=5)
    restored, number = store.restore(like)
    assert number == 2
    same(restored, state)
    store.set_aside_after(number)
    store.save(state, describe(3))
    store.close()
    assert disk.available(workdir / "checkpoints") == [2, 3]
    assert (workdir / manager.UNREADABLE / "3").is_dir()


def test_no_readable_checkpoint_is_an_error(saved, workdir):
    for number in ("2", "3"):
        damage_arrays(workdir / "checkpoints" / number)
    with pytest.raises(errors.UserError, match="can be read"):
        manager.Checkpoints(workdir).restore(saved[2])


@pytest.mark.parametrize("damage", [truncate_arrays, damage_metadata])
def test_a_truncated_checkpoint_is_named(workdir, damage):
    folder = workdir / "checkpoints" / "3"
    for item in ("params", "ema"):
        if damage is damage_metadata:
            (folder / item / "_METADATA").write_text("{")
    damage(folder)
    with pytest.raises(errors.UserError, match="truncated or damaged"):
        checkpoint.read_params(folder)


def test_another_architecture_lists_leaves(saved):
    workdir, _, _ = saved
    other = ARCHITECTURE.replace(num_classes=7, depth=3)
    _, like = make_state(mesh.make_mesh(), other)
    with pytest.raises(errors.UserError) as caught:
        manager.Checkpoints(workdir).restore(like)
    lines = str(caught.value).splitlines()
    assert len(lines) <= 10
    assert (
        "params/blocks/attn/key/bias: checkpoint (2, 2, 16), this run (3, 2, 16)"
        in (lines[1].strip() + lines[2].strip())
    )
    assert "--config.init_from=" in lines[-1]


def test_a_newer_format_is_refused(workdir):
    path = workdir / "checkpoints" / "3" / "description" / "metadata"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"format": 99}))
    with pytest.raises(errors.UserError, match="upgrade vit_jax"):
        checkpoint.describe(workdir / "checkpoints" / "3")
    assert checkpoint.describe(workdir).step == 2


@contextmanager
def no_space_left():
    """No file may grow past 2 KiB: every write of an array fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_says_what_is_good_and_loses_nothing(saved, workdir):
    _, state, like = saved
    store = manager.Checkpoints(workdir, keep=5)
    with no_space_left():
        with pytest.raises(errors.UserError, match="newest good checkpoint: step 3"):
            store.save(state, describe(4))
            store.close()
    again = manager.Checkpoints(workdir, keep=5)
    restored, number = again.restore(like)
    assert number == 3
    same(restored, state)
    again.set_aside_after(number)
    again.save(state, describe(4))
    again.close()
    assert again.latest() == 4


def test_weights_alone_are_a_checkpoint(tmp_path):
    arch = models.architecture("mu/8", num_classes=3, image_size=16)
    _, params = models.split(models.create(arch, rngs=nnx.Rngs(0)))
    described = checkpoint.Description(
        arch, preprocessing.Preprocessing((16, 16)), ("a", "b", "c"), config={}, step=0
    )
    checkpoint.write_params(tmp_path / "weights", params, described)
    stored = checkpoint.StoredParams(tmp_path / "weights")
    assert stored.description == described
    for name, leaf in tree.named_leaves(params):
        assert stored.shapes[name] == leaf.shape
        np.testing.assert_array_equal(stored.read(name), leaf)
    with pytest.raises(errors.UserError, match="exists"):
        checkpoint.write_params(tmp_path / "weights", params, described)
