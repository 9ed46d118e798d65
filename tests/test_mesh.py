"""The mesh and where batches live."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from vit_jax import errors
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
