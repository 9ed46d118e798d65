"""The mesh and where leaves and batches live."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vit_jax import errors, models, tree
from vit_jax.parallel import mesh


def test_mesh_covers_the_devices():
    assert mesh.make_mesh().devices.shape == (8, 1, 1)
    assert mesh.make_mesh(fsdp=4).devices.shape == (2, 4, 1)
    assert mesh.make_mesh(fsdp=2, tensor=2).devices.shape == (2, 2, 2)
    assert mesh.make_mesh(data=2, fsdp=0, tensor=2).devices.shape == (2, 2, 2)
    assert mesh.AXES == mesh.make_mesh().axis_names == ("data", "fsdp", "tensor")


@pytest.mark.parametrize(("data", "fsdp"), [(-1, 3), (3, 1), (0, 8), (4, 4)])
def test_a_mesh_that_does_not_fit(data, fsdp):
    with pytest.raises(errors.UserError, match="8 devices"):
        mesh.make_mesh(data=data, fsdp=fsdp)


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    """Enough of a device of a multi-slice TPU for a mesh to be laid out."""

    id: int
    slice_index: int
    process_index: int = 0
    device_kind: str = "fake"
    platform: str = "fake"


def test_by_default_up_to_32_accelerators_share_weights():
    def fsdp(count, data=-1, tensor=1):
        devices = [types.SimpleNamespace(platform="tpu")] * count
        return mesh._default_fsdp(devices, data, tensor)

    assert [fsdp(count) for count in (1, 8, 32, 48, 256)] == [1, 8, 32, 24, 32]
    assert fsdp(256, tensor=4) == 8
    assert fsdp(256, data=128) == 2


def test_fsdp_stays_inside_a_slice():
    # Interleaved, as no real runtime gives them: the order must not matter.
    devices = [FakeDevice(i, slice_index=i % 2) for i in range(8)]
    grid = mesh.make_mesh(fsdp=2, devices=devices).devices
    assert grid.shape == (4, 2, 1)
    found = [{device.slice_index for device in row.flat} for row in grid]
    assert found == [{0}, {0}, {1}, {1}]
    with pytest.raises(errors.UserError, match="does not divide the 4 devices"):
        mesh.make_mesh(fsdp=8, devices=devices)
    with pytest.raises(errors.UserError, match=r"slices=4.* 2 slices"):
        mesh.make_mesh(slices=4, devices=devices)


def test_devices_without_slices_are_cut_in_equal_ones():
    grid = mesh.make_mesh(fsdp=2, slices=2).devices
    first = {device.id for device in grid[:2].flat}
    assert first == {device.id for device in jax.devices()[:4]}
    with pytest.raises(errors.UserError, match="slices=3"):
        mesh.make_mesh(slices=3)


def test_a_mesh_over_some_of_the_devices():
    assert mesh.make_mesh(devices=jax.devices()[:2]).devices.shape == (2, 1, 1)


def test_rules_shard_weights_and_their_moments_alike():
    device_mesh = mesh.make_mesh(fsdp=4)
    leaf = jax.ShapeDtypeStruct((3, 16, 4, 4), np.float32)
    odd = jax.ShapeDtypeStruct((3, 18, 4, 4), np.float32)
    tree = {
        "params": {"blocks": {"attn": {"query": {"kernel": leaf}}}},
        "opt_state": {"0": {"mu": {"blocks": {"attn": {"query": {"kernel": leaf}}}}}},
        "odd": {"attn": {"query": {"kernel": odd}}},
        "count": jax.ShapeDtypeStruct((), np.int32),
    }
    specs = jax.tree.map(lambda s: s.spec, mesh.shardings(tree, device_mesh))
    assert specs["params"]["blocks"]["attn"]["query"]["kernel"] == P(None, "fsdp")
    moments = specs["opt_state"]["0"]["mu"]["blocks"]
    assert moments["attn"]["query"]["kernel"] == P(None, "fsdp")
    assert specs["odd"]["attn"]["query"]["kernel"] == P()
    assert specs["count"] == P()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("H/14", {"pre_logits": True}),
        ("g/14", {"pool": "map", "posemb": "learned_2d", "posemb_at": "every"}),
        ("B/16", {"mlp": "swiglu", "patch_outputs": 512, "posemb_at": "every"}),
        ("R50+L/16", {}),
        ("Axial-B/16", {}),
        ("Mixer-B/16", {}),
        ("BiT-R152x4", {}),
        ("BiT-R50x1-post", {}),
        ("AxialResNet50", {}),
    ],
)
def test_what_stays_whole_is_small_in_every_family(name, options):
    arch = models.architecture(name, num_classes=1000, **options)
    leaves = dict(tree.named_leaves(models.abstract(arch)[1]))
    layout = mesh.shardings(models.abstract(arch)[1], mesh.make_mesh(fsdp=8))
    whole = {
        leaf: leaves[leaf].size
        for leaf, sharding in tree.named_leaves(layout)
        if sharding.is_fully_replicated
    }
    total = sum(leaf.size for leaf in leaves.values())
    assert sum(whole.values()) < 0.01 * total, whole


def test_tensor_cuts_heads_and_hidden_widths_and_shares_an_axis_with_fsdp():
    device_mesh = mesh.make_mesh(fsdp=2, tensor=2)
    arch = models.architecture("Ti/16", num_classes=10, heads=4, depth=2)
    placed = dict(
        tree.named_leaves(mesh.shardings(models.abstract(arch)[1], device_mesh))
    )
    wanted = {
        "blocks/attn/query/kernel": P(None, "fsdp", "tensor"),
        "blocks/attn/query/bias": P(None, "tensor"),
        "blocks/attn/out/kernel": P(None, "tensor", None, "fsdp"),
        "blocks/attn/out/bias": P(),
        "blocks/mlp/up/kernel": P(None, None, ("tensor", "fsdp")),
        "blocks/mlp/up/bias": P(None, "tensor"),
        "blocks/mlp/down/kernel": P(None, ("tensor", "fsdp")),
        "blocks/norm1/scale": P(),
        "head/kernel": P("fsdp"),
    }
    assert {name: placed[name].spec for name in wanted} == wanted
    whole = mesh.shardings(models.abstract(arch)[1], device_mesh, sharded=False)
    specs = [tuple(sharding.spec) for sharding in jax.tree.leaves(whole)]
    used = set(jax.tree.leaves(specs))
    assert used == {"tensor"}


def test_heads_that_tensor_does_not_divide_stay_whole():
    device_mesh = mesh.make_mesh(tensor=2)
    arch = models.architecture("Ti/16", num_classes=10, depth=2)  # 3 heads
    placed = mesh.shardings(models.abstract(arch)[1], device_mesh)
    assert placed["blocks"]["attn"]["query"]["kernel"].is_fully_replicated
    assert not placed["blocks"]["mlp"]["up"]["kernel"].is_fully_replicated


def test_a_tensor_group_has_the_same_images():
    device_mesh = mesh.make_mesh(fsdp=2, tensor=2)
    assert mesh.batch_parts(device_mesh) == 4
    batch = mesh.to_global({"label": np.arange(8)}, device_mesh)["label"]
    rows = {s.device: tuple(np.asarray(s.data)) for s in batch.addressable_shards}
    for group in device_mesh.devices.reshape(4, 2):
        assert len({rows[device] for device in group}) == 1
    mesh.check_batch("batch_size", 4, device_mesh)
    with pytest.raises(errors.UserError, match="over 4 devices and 2 microbatches"):
        mesh.check_batch("batch_size", 12, device_mesh, microbatches=2)


def test_batches_become_global_and_come_back():
    device_mesh = mesh.make_mesh(fsdp=2)
    rows = np.arange(16).reshape(16, 1)
    batch = mesh.to_global({"label": rows}, device_mesh)
    assert len(batch["label"].addressable_shards) == 8
    np.testing.assert_array_equal(mesh.to_host(batch["label"]), rows)
    assert mesh.to_global(batch, device_mesh)["label"] is batch["label"]


def test_batch_sizes_name_their_neighbours():
    device_mesh = mesh.make_mesh()
    mesh.check_batch("batch_size", 32, device_mesh, microbatches=4)
    with pytest.raises(errors.UserError, match="nearest: 96 or 112"):
        mesh.check_batch("batch_size", 100, device_mesh, microbatches=2)
    with pytest.raises(errors.UserError, match="nearest: 8"):
        mesh.check_batch("batch_size", 3, device_mesh)
