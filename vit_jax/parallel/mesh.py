"""The device mesh, and batches as global arrays on it."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vit_jax import errors

AXES = ("data", "fsdp", "tensor")
# Images are spread over these; all of a tensor group work on the same ones.
BATCH_AXES = ("data", "fsdp")
# More devices than these gain little memory and travel longer ways. With fewer more of
# each gradient is left to be summed over the data axis: 1 / fsdp of it.
MOST_FSDP = 32


def make_mesh(
    *,
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    slices: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Returns a mesh over all devices with axes ("data", "fsdp", "tensor").

    The devices that share one copy of the weights are neighbours on the chip network,
    along one axis of its torus where the shape allows that. Slices are joined by a
    slower network, which only the data axis crosses.

    Args:
        data: Devices along the data axis; -1 takes all that the others leave.
        fsdp: Devices that share one copy of the parameters and optimizer state; 0: 1 on
            CPUs, elsewhere the largest divisor of a slice up to `MOST_FSDP`.
        tensor: Devices that compute on the same images, each with its part of every
            block's heads and hidden width. The nearest neighbours.
        slices: TPU slices of the run; 1 takes as many as the devices say they are.
        devices: Of the mesh; None: `jax.devices()`.

    Raises:
        UserError: the product is not the number of devices, or fsdp x tensor does not
            divide a slice.
    """
    devices = jax.devices() if devices is None else list(devices)
    count = len(devices)
    groups = _slices(devices, slices)
    if fsdp == 0 and tensor >= 1:
        fsdp = _default_fsdp(groups[0], data, tensor)
    if data == -1 and min(fsdp, tensor) >= 1 and count % (fsdp * tensor) == 0:
        data = count // (fsdp * tensor)
    if min(data, fsdp, tensor) < 1 or data * fsdp * tensor != count:
        by_tensor = f" x mesh.tensor={tensor}" if tensor != 1 else ""
        raise errors.UserError(
            f"mesh.data={data} x mesh.fsdp={fsdp}{by_tensor} is not the {count} "
            "devices here; set mesh.data=-1 and an mesh.fsdp that divides the number "
            "of devices"
        )
    if data % len(groups):
        raise errors.UserError(
            f"mesh.fsdp={fsdp} x mesh.tensor={tensor} does not divide the "
            f"{count // len(groups)} devices of each of {len(groups)} slices; want "
            "ones that do"
        )
    shape = (data // len(groups), fsdp, tensor)
    grids = [
        mesh_utils.create_device_mesh(shape, group, allow_split_physical_axes=True)
        for group in groups
    ]
    return Mesh(np.concatenate(grids), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _default_fsdp(group: Sequence[jax.Device], data: int, tensor: int) -> int:
    count = len(group) // tensor
    if data > 0:
        return max(count // data, 1)
    if group[0].platform == "cpu":
        return 1
    most = max(min(MOST_FSDP // tensor, count), 1)
    return max(n for n in range(1, most + 1) if count % n == 0)


def _slices(devices: Sequence[jax.Device], slices: int) -> list[list[jax.Device]]:
    """The devices of each slice: as they say themselves, else in equal runs."""
    by_index: dict[int, list[jax.Device]] = {}
    for device in devices:
        by_index.setdefault(getattr(device, "slice_index", 0), []).append(device)
    if len(by_index) > 1 and slices in (1, len(by_index)):
        return [by_index[index] for index in sorted(by_index)]
    if len(by_index) > 1 or slices < 1 or len(devices) % slices:
        raise errors.UserError(
            f"mesh.slices={slices}, but the {len(devices)} devices here are in "
            f"{len(by_index)} slices; leave it at 1"
        )
    size = len(devices) // slices
    return [list(devices[i : i + size]) for i in range(0, len(devices), size)]


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of values that every device holds whole."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first dimension over data and fsdp."""
    return NamedSharding(mesh, P(BATCH_AXES))


def batch_parts(mesh: Mesh) -> int:
    """Returns in how many parts a batch is cut: all devices but the tensor axis."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def local_rows(mesh: Mesh, size: int) -> np.ndarray:
    """Returns the rows of a batch that this process's devices hold, ascending.

    Not a block of neighbours where the mesh follows the network of a TPU slice.
    """
    held = batch_sharding(mesh).addressable_devices_indices_map((size,))
    return np.unique(
        np.concatenate([np.arange(size)[index] for index in held.values()])
    )


def partition(axes: Sequence[tuple[str, ...]]) -> P:
    """Returns the spec of an array from the mesh axes of each dimension."""
    used = max((i + 1 for i, names in enumerate(axes) if names), default=0)
    return P(
        *(names if len(names) > 1 else next(iter(names), None) for names in axes[:used])
    )


def with_shardings(abstract: Any, layout: Any) -> Any:
    """Attaches the shardings of `layout` to a tree of `ShapeDtypeStruct`."""
    return jax.tree.map(
        lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
        abstract,
        layout,
    )


def to_global(batch: dict[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Places this process's rows, `local_rows`, as parts of global arrays.

    Arrays that are on the devices already pass through.
    """
    sharding = batch_sharding(mesh)

    def place(local: Any) -> jax.Array:
        if isinstance(local, jax.Array):
            return local
        return jax.make_array_from_process_local_data(sharding, local)

    return {name: place(value) for name, value in batch.items()}


def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Puts an array that every process has on devices, each its own part of it."""
    return jax.make_array_from_callback(array.shape, sharding, lambda i: array[i])


def check_batch(name: str, size: int, mesh: Mesh, *, microbatches: int = 1) -> None:
    """Raises `UserError` unless the devices and microbatches divide a batch size."""
    parts = batch_parts(mesh)
    unit = parts * microbatches
    if size % unit == 0 and size > 0:
        return
    below, above = size // unit * unit, -(-size // unit) * unit
    nearest = " or ".join(str(n) for n in sorted({below, above} - {0}))
    raise errors.UserError(
        f"{name}={size} cannot be split over {parts} devices"
        + (f" and {microbatches} microbatches" if microbatches > 1 else "")
        + f": it must be a multiple of {unit}; nearest: {nearest or unit}"
    )


def to_host(value: Any) -> np.ndarray:
    """Copies a global array, replicated or sharded, to this host as a whole."""
    if value.is_fully_addressable or value.is_fully_replicated:
        return np.asarray(jax.device_get(value))
    whole = jax.jit(lambda x: x, out_shardings=replicated(value.sharding.mesh))(value)
    return np.asarray(jax.device_get(whole))
