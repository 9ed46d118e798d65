"""The device mesh, where every leaf lives on it, and batches as global arrays."""

import logging
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vit_jax import errors, tree

AXES = ("data", "fsdp")

# Dimension of each kind of weight that the fsdp axis shards (None: replicated). The
# optimizer's moments carry the same names behind a prefix, so the rows serve them too.
# The layer dimension is never cut: scan slices it.
SHARDED_DIMENSION: tree.Rules[int | None] = (
    (r"/v_(row|col)/", None),  # Adafactor's: small, and without the leaf's dimensions
    (r"qkv/kernel$", 1),
    (r"map/attn/(query|key|value)/kernel$", 0),
    (r"map/attn/out/kernel$", 2),
    (r"map/mlp/up/kernel$", 1),
    (r"map/mlp/down/kernel$", 0),
    (r"attn/(query|key|value)/kernel$", 1),
    (r"attn/out/kernel$", 3),
    (r"(mlp|tokens|channels)/(up|gate)/kernel$", 2),
    (r"(mlp|tokens|channels)/down/kernel$", 1),
    (r"(patch_embed|conv\w*)/kernel$", 3),
    (r"(pre_logits|head|patch_head)/kernel$", 0),
    (r"blocks/posemb$", 3),
    (r"posemb$", 2),
    (r".*", None),
)


def make_mesh(*, data: int = -1, fsdp: int = 1) -> Mesh:
    """Returns a mesh over all devices with axes ("data", "fsdp").

    Args:
        data: devices along the data axis; -1 takes all that fsdp leaves.
        fsdp: devices that share one copy of the parameters and optimizer state.

    Raises:
        UserError: the product is not the number of devices.
    """
    devices = jax.device_count()
    if data == -1 and fsdp >= 1 and devices % fsdp == 0:
        data = devices // fsdp
    if data < 1 or fsdp < 1 or data * fsdp != devices:
        raise errors.UserError(
            f"mesh.data={data} x mesh.fsdp={fsdp} is not the {devices} devices here; "
            "set mesh.data=-1 and an mesh.fsdp that divides the number of devices"
        )
    return jax.make_mesh((data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of values that every device holds whole."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first dimension over all devices."""
    return NamedSharding(mesh, P(AXES))


def shardings(abstract: Any, mesh: Mesh) -> Any:
    """Returns the `NamedSharding` of every leaf of `abstract` by the rules above.

    A leaf whose dimension the fsdp axis does not divide stays whole on every device
    and is named in the log.
    """
    size = mesh.shape["fsdp"]
    whole: list[str] = []

    def leaf_sharding(name: str, leaf: Any) -> NamedSharding:
        dimension = tree.first_match(SHARDED_DIMENSION, name)
        if size == 1 or dimension is None or dimension >= leaf.ndim:
            return replicated(mesh)
        if leaf.shape[dimension] % size:
            whole.append(f"{name} {leaf.shape}")
            return replicated(mesh)
        return NamedSharding(mesh, P(*[None] * dimension, "fsdp"))

    result = tree.map_named(leaf_sharding, abstract)
    if whole:
        logging.info("not sharded, fsdp=%d divides no: %s", size, "; ".join(whole))
    return result


def with_shardings(abstract: Any, layout: Any) -> Any:
    """Attaches the shardings of `layout` to a tree of `ShapeDtypeStruct`."""
    return jax.tree.map(
        lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
        abstract,
        layout,
    )


def to_global(batch: dict[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Places this process's rows on its devices as parts of global arrays.

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
    devices = math.prod(mesh.devices.shape)
    unit = devices * microbatches
    if size % unit == 0 and size > 0:
        return
    below, above = size // unit * unit, -(-size // unit) * unit
    nearest = " or ".join(str(n) for n in sorted({below, above} - {0}))
    raise errors.UserError(
        f"{name}={size} cannot be split over {devices} devices"
        + (f" and {microbatches} microbatches" if microbatches > 1 else "")
        + f": it must be a multiple of {unit}; nearest: {nearest or unit}"
    )


def to_host(value: Any) -> np.ndarray:
    """Copies a global array, replicated or sharded, to this host as a whole."""
    if value.is_fully_addressable or value.is_fully_replicated:
        return np.asarray(jax.device_get(value))
    whole = jax.jit(lambda x: x, out_shardings=replicated(value.sharding.mesh))(value)
    return np.asarray(jax.device_get(whole))
