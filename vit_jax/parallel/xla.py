"""Options of the TPU compiler for training steps."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding

# Left alone the compiler cuts products into rings that pass weights' gradients on while
# they compute, and turns activations round for them: of a B/16 step on v5e a third.
_NO_RINGS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "100000"}
# Reductions of gradients start while the backward pass goes on, a weight at a time.
_OVERLAP = {
    "xla_enable_async_all_reduce": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": "true",
    "xla_jf_crs_combiner_threshold_in_bytes": "1000000",
}
CANDIDATES: tuple[dict[str, str], ...] = (_NO_RINGS | _OVERLAP, _NO_RINGS)


def options(mesh: Mesh) -> dict[str, str]:
    """Returns the first of `CANDIDATES` that the devices' compiler takes; or {}.

    Generations differ in what they can do, and releases in what they know. A process
    asks for a device of its own: all come to the same answer.
    """
    devices = list(mesh.devices.flat)
    here = [d for d in devices if d.process_index == jax.process_index()]
    device = (here or devices)[0]
    if device.platform != "tpu":
        return {}
    return next((o for o in CANDIDATES if _is_known(device, tuple(o.items()))), {})


@functools.cache
def _is_known(device: jax.Device, candidate: tuple[tuple[str, str], ...]) -> bool:
    one = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=SingleDeviceSharding(device))
    step = jax.jit(lambda x: x + 1, compiler_options=dict(candidate))
    try:
        step.lower(one).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
