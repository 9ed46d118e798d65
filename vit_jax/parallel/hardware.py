"""What the chips can do, by the name JAX gives a device."""

import re
from dataclasses import dataclass

import jax

from vit_jax import host

TERA, GIGA, GIB = 10**12, 10**9, 2**30


@dataclass(frozen=True)
class Chip:
    """Published peaks of one JAX device.

    On TPU v2, v3 and 7x a device is half a chip (one core), elsewhere a whole one.

    Attributes:
        kind: Regex over `device.device_kind`.
        peak_flops: Dense bfloat16 FLOP/s, without sparsity.
        memory: Bytes of high-bandwidth memory.
        usable: Bytes that the TPU compiler (libtpu 0.0.51) gives a program, from its
            message when one wants more; None where we know only `memory`.
        clock: Cycles/s of a TPU; None: not published, or no TPU.
        images: Of a ViT, those that it takes at a time where a batch is cut for speed.
    """

    kind: str
    peak_flops: float
    memory: int
    usable: float | None = None
    clock: float | None = None
    images: int = 32

    @property
    def granted(self) -> int:
        """Bytes that a program can have; of a GPU JAX at first takes three quarters."""
        return int(self.usable or 3 * self.memory // 4)


# The first kind that matches wins.
CHIPS: dict[str, Chip] = {
    "v2": Chip(r"TPU v2$", 22.5 * TERA, 8 * GIB, 7.48 * GIB, 0.70 * GIGA),
    "v3": Chip(r"TPU v3$", 61.5 * TERA, 16 * GIB, 15.48 * GIB, 0.94 * GIGA),
    "v4": Chip(r"TPU v4$", 275 * TERA, 32 * GIB, 30.75 * GIB, 1.05 * GIGA),
    "v5e": Chip(r"TPU v5( lite|e)", 197 * TERA, 16 * GIB, 15.75 * GIB, 1.50 * GIGA),
    "v5p": Chip(r"TPU v5p?$", 459 * TERA, 95 * GIB, 95.73 * GIB, 1.75 * GIGA),
    "v6e": Chip(
        *(r"TPU v6( lite|e)", 918 * TERA, 32 * GIB, 31.24 * GIB, 1.75 * GIGA),
        images=16,
    ),
    "7x": Chip(r"TPU ?v?7x?", 1153.5 * TERA, 96 * GIB, 94.74 * GIB),
    "A100-80GB": Chip(r"A100.*80GB", 312 * TERA, 80 * GIB),
    "A100": Chip(r"A100", 312 * TERA, 40 * GIB),
    "H100-PCIe": Chip(r"H100 PCIe", 756 * TERA, 80 * GIB),
    "H100": Chip(r"H100", 989 * TERA, 80 * GIB),
    "H200": Chip(r"H200", 989 * TERA, 141 * GIGA),
    "B200": Chip(r"B200", 2250 * TERA, 180 * GIGA),
    "L40S": Chip(r"L40S", 362 * TERA, 48 * GIB),
    "L4": Chip(r"L4$", 121 * TERA, 24 * GIB),
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


def all_peak_flops() -> float | None:
    """Returns the FLOP/s of all devices together; None if a chip is not known."""
    peaks = [peak_flops(device) for device in jax.devices()]
    known = [peak for peak in peaks if peak is not None]
    return sum(known) if len(known) == len(peaks) else None


def usable_memory(device: jax.Device) -> int | None:
    """Returns the bytes a program can have on a device; None: nothing says.

    For a TPU that is what the compiler grants; elsewhere what the runtime has set
    aside on a device of this process that is of the same kind, so that all processes of
    a run say the same; without one what it would set aside.
    """
    chip = find_chip(device.device_kind)
    if chip is not None and chip.usable is not None:
        return chip.granted
    alike = [d for d in jax.local_devices() if d.device_kind == device.device_kind]
    for local in alike:
        stats = local.memory_stats()
        if stats and "bytes_limit" in stats:
            return stats["bytes_limit"]
    return chip.granted if chip else None


def device_memory(device: jax.Device) -> int | None:
    """Returns the bytes in use on a device of this process; None if it cannot say."""
    stats = device.memory_stats()
    return stats["bytes_in_use"] if stats and "bytes_in_use" in stats else None


def memory_in_use() -> int:
    """Returns the bytes in use on a device; of a CPU, which cannot say, the host's."""
    return device_memory(jax.local_devices()[0]) or host_memory()


def host_memory() -> int:
    """Returns the most bytes this process has held in the host's memory so far."""
    return host.peak_memory()
