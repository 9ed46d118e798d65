"""GPUs for the planner, by JAX's CUDA compiler: "h100:8" is a host of eight."""

import importlib.util
import sys

import jax

from vit_jax import errors
from vit_jax.parallel import hardware
from vit_jax.plan import compilers
from vit_jax.plan.generations import Generation

# Before these the compiler wants a GPU to ask about.
_JAX, _PYTHON = (0, 11, 2), (3, 12)
_PLUGIN = "jax_plugins.xla_cuda13"
_HOST = ("1", "2", "4", "8")

# What all three generations allow a kernel, as XLA's descriptions of targets name it.
_LIMITS = {
    **{"threads_per_block_limit": 1024, "threads_per_warp": 32},
    **{"threads_per_core_limit": 2048, "shared_memory_per_block": 49152},
    **{"registers_per_core_limit": 65536, "registers_per_block_limit": 65536},
    **{"block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 65535},
    **{"block_dim_limit_z": 65535},
}
_AMPERE = {
    **{"shared_memory_per_core": 167936, "shared_memory_per_block_optin": 166912},
    **{"core_count": 108, "fpus_per_core": 64, "clock_rate_ghz": 1.41},
    **{"l2_cache_size": 40 * 2**20, "capability": 80},
}
_HOPPER = {
    **{"shared_memory_per_core": 233472, "shared_memory_per_block_optin": 232448},
    **{"core_count": 132, "fpus_per_core": 128, "clock_rate_ghz": 1.98},
    **{"l2_cache_size": 50 * 2**20, "capability": 90},
}

# Bytes/s of the memory of a chip of `hardware.CHIPS`, by NVIDIA's data sheets.
BANDWIDTHS = {"A100-80GB": 2.039e12, "H100": 3.35e12, "H200": 4.8e12}


def _target(name: str, chip: str, memory: int, device: dict[str, float]) -> str:
    """A GPU as XLA's compiler wants it described; `memory` is what CUDA says it has."""
    major, minor = divmod(int(device["capability"]), 10)
    fields = _LIMITS | device
    fields |= {
        "device_memory_size": memory,
        "memory_bandwidth": int(BANDWIDTHS[chip]),
    }
    del fields["capability"]
    lines = "\n".join(f"  {key}: {value}" for key, value in fields.items())
    return (
        f"gpu_device_info {{\n{lines}\n"
        f"  cuda_compute_capability {{ major: {major} minor: {minor} }}\n}}\n"
        'platform_name: "CUDA"\n'
        "dnn_version_info { major: 9 minor: 20 }\n"
        "runtime_version { major: 13 }\n"
        f'device_description_str: "{name}"\n'
    )


def _row(name: str, chip: str, memory: int, device: dict[str, float]) -> Generation:
    options = {"target_config": _target(name, chip, memory, device)}
    return Generation(chip, name, 1, options, 1, _HOST)


# As they are sold on boards that NVLink joins, not as PCI cards.
GENERATIONS: dict[str, Generation] = {
    "a100": _row("NVIDIA A100-SXM4-80GB", "A100-80GB", 85_100_068_864, _AMPERE),
    "h100": _row("NVIDIA H100 80GB HBM3", "H100", 84_978_434_048, _HOPPER),
    "h200": _row("NVIDIA H200", "H200", 151_397_597_184, _HOPPER),
}


def bandwidth(chip: hardware.Chip | None) -> float | None:
    """Returns the bytes/s of a chip's memory; None where nothing says."""
    return next((b for n, b in BANDWIDTHS.items() if hardware.CHIPS[n] is chip), None)


def check() -> None:
    """Raises `UserError` unless JAX's CUDA compiler is installed, a new one."""
    what = "a GPU that is not there is planned with JAX's CUDA compiler"
    if sys.version_info < _PYTHON:
        here = ".".join(map(str, sys.version_info[:3]))
        raise errors.UserError(
            f"{what} of jax >= 0.11.2, which wants Python >= 3.12; this is {here}"
        )
    if jax.__version_info__ < _JAX or not _is_installed():
        raise errors.UserError(
            f"{what}, which is not installed or too old (jax is {jax.__version__}): "
            "pip install 'vit_jax[cuda]' 'jax>=0.11.2' (Linux; no GPU is needed)"
        )


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec(_PLUGIN) is not None
    except ModuleNotFoundError:  # not one plugin of JAX
        return False


def check_host(generation: str, number: int, slices: int) -> None:
    """Raises `UserError` unless one host holds so many GPUs."""
    if number > int(_HOST[-1]) or slices > 1:
        raise errors.UserError(
            f"topology {generation}:{number} with {slices} slices: the GPUs of one "
            f"host are planned, at most {_HOST[-1]}"
        )


def devices(generation: str, shape: tuple[int, ...], slices: int) -> list[jax.Device]:
    """Returns descriptions of the GPUs of a host.

    Args:
        generation: Key of `GENERATIONS`.
        shape: (How many,), 1 to 8.
        slices: 1.

    Raises:
        UserError: there are no such hosts.
    """
    from jax.experimental import topologies

    check()
    check_host(generation, shape[0], slices)
    jax.devices()  # loads JAX's plugins, among them the one that is asked
    description = topologies.get_topology_desc(
        platform="cuda",
        topology_name=generation,
        topology=f"1x1x{shape[0]}",  # slices, hosts of each, GPUs of each
        **GENERATIONS[generation].options,
    )
    return list(description.devices)


COMPILER = compilers.Compiler(
    environment={"JAX_PLATFORMS": "cpu"},
    # It would time kernels on the GPU: these are the compiler's own choices.
    flags=("--xla_gpu_autotune_level=0",),
    foreign=("--xla_cpu_", "--xla_tpu_"),
    scheduled="*_gpu_after_optimizations.txt",
    check=check,
    devices=devices,
)
