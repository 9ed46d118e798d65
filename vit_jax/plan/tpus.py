"""TPU slices for the planner, by the compiler in libtpu."""

import importlib.util
import math
from typing import Any

import jax

from vit_jax import errors
from vit_jax.plan import compilers, generations


def check() -> None:
    """Raises `UserError` unless the TPU compiler is installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise errors.UserError(
            "a TPU slice is planned with the TPU compiler, which is not installed: "
            "pip install 'vit_jax[plan]' (Linux on x86_64; no TPU is needed)"
        )


def devices(generation: str, shape: tuple[int, ...], slices: int) -> list[jax.Device]:
    """Returns descriptions of the devices of slices.

    Args:
        generation: Key of `generations.TPUS`.
        shape: Chips along each axis of a slice.
        slices: How many.

    Raises:
        UserError: the compiler knows no such slice.
    """
    from jax.experimental import topologies

    check()
    row = generations.TPUS[generation]
    options: dict[str, Any] = dict(row.options)
    if math.prod(shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if slices > 1:
        options["num_slices"] = slices
    lengths = "x".join(map(str, shape))
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{row.compiler}:{lengths}", **options
        )
    except jax.errors.JaxRuntimeError as error:
        raise errors.UserError(
            f"topology {generation}:{lengths}: {error}; rented: {', '.join(row.sizes)}"
        ) from error
    return list(description.devices)


COMPILER = compilers.Compiler(
    # For a process that asks the TPU compiler and has no TPU. Without the lock a second
    # process may load the library; without the queries it does not look for a host.
    environment={
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_LOG_DIR": "disabled",
        "JAX_PLATFORMS": "cpu",
    },
    flags=(),
    foreign=("--xla_cpu_", "--xla_gpu_"),
    scheduled="*after_optimizations_after_buffer_assignment.txt",
    check=check,
    devices=devices,
)
