"""What the chips can do, by the name JAX gives a device."""

import re
import resource
import sys
from dataclasses import dataclass

import jax

TERA, GIGA, GIB = 10**12, 10**9, 2**30


@dataclass(frozen=True)
class Chip:
    """Published peaks of one JAX device.

    On TPU v2, v3 and 7x a device is half a chip (one core), elsewhere a whole one.

    Attributes:
        kind: regex over `device.device_kind`.
        peak_flops: dense bfloat16 FLOP/s, without sparsity.
        memory: bytes of high-bandwidth memory.
        bandwidth: of that memory, bytes/s.
    """

    kind: str
    peak_flops: float
    memory: int
    bandwidth: float


# The first kind that matches wins.
CHIPS: dict[str, Chip] = {
    "v2": Chip(r"TPU v2$", 22.5 * TERA, 8 * GIB, 350 * GIGA),
    "v3": Chip(r"TPU v3$", 61.5 * TERA, 16 * GIB, 450 * GIGA),
    "v4": Chip(r"TPU v4$", 275 * TERA, 32 * GIB, 1228 * GIGA),
    "v5e": Chip(r"TPU v5( lite|e)", 197 * TERA, 16 * GIB, 819 * GIGA),
    "v5p": Chip(r"TPU v5p?$", 459 * TERA, 95 * GIB, 2765 * GIGA),
    "v6e": Chip(r"TPU v6( lite|e)", 918 * TERA, 32 * GIB, 1640 * GIGA),
    "7x": Chip(r"TPU ?v?7x?", 1153.5 * TERA, 96 * GIB, 3690 * GIGA),
    "A100-80GB": Chip(r"A100.*80GB", 312 * TERA, 80 * GIB, 2039 * GIGA),
    "A100": Chip(r"A100", 312 * TERA, 40 * GIB, 1555 * GIGA),
    "H100-PCIe": Chip(r"H100 PCIe", 756 * TERA, 80 * GIB, 2000 * GIGA),
    "H100": Chip(r"H100", 989 * TERA, 80 * GIB, 3350 * GIGA),
    "H200": Chip(r"H200", 989 * TERA, 141 * GIGA, 4800 * GIGA),
    "B200": Chip(r"B200", 2250 * TERA, 180 * GIGA, 8000 * GIGA),
    "L40S": Chip(r"L40S", 362 * TERA, 48 * GIB, 864 * GIGA),
    "L4": Chip(r"L4$", 121 * TERA, 24 * GIB, 300 * GIGA),
}


def find_chip(device_kind: str) -> Chip | None:
    """Returns the row of a `device.device_kind`; None if it is not in the table."""
    for chip in CHIPS.values():
        if re.search(chip.kind, device_kind):
            return chip
    return None


def peak_flops(device: jax.Device) -> float | None:
    """Returns the device's dense bfloat16 FLOP/s; None if the chip is not known."""
    chip = find_chip(device.device_kind)
    return chip.peak_flops if chip else None


def device_memory(device: jax.Device) -> int | None:
    """Returns the bytes in use on a device of this process; None if it cannot say."""
    stats = device.memory_stats()
    return stats["bytes_in_use"] if stats and "bytes_in_use" in stats else None


def host_memory() -> int:
    """Returns the most bytes this process has held in the host's memory so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
