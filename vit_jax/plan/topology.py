"""TPU slices by name: "v5e:4x4" is a 4 by 4 grid of v5e chips."""

import importlib.util
import math
import re
from dataclasses import dataclass
from typing import Any

import jax

from vit_jax import errors
from vit_jax.parallel import hardware

# For a process that asks the TPU compiler and has no TPU. Without the lock a second
# process may load the library; without the queries it does not look for a TPU's host.
ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_LOG_DIR": "disabled",
    "JAX_PLATFORMS": "cpu",
}


@dataclass(frozen=True)
class Topology:
    """One or more equal slices.

    Attributes:
        generation: Key of `hardware.GENERATIONS`.
        shape: Chips along each axis of a slice.
        slices: How many, joined by the data centre's network.
    """

    generation: str
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def name(self) -> str:
        """As `parse` reads it."""
        return f"{self.generation}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        """JAX devices of all slices."""
        return self.chips * hardware.GENERATIONS[self.generation].devices_per_chip

    @property
    def chip(self) -> hardware.Chip:
        """Published figures of one device."""
        return hardware.CHIPS[hardware.GENERATIONS[self.generation].chip]


def parse(text: str, *, slices: int = 1) -> Topology:
    """Returns the topology of a name.

    Raises:
        UserError: not a name, with those that are.
    """
    match = re.fullmatch(r"(?:tpu)?(v?\d+\w*?):(\d{1,6}(?:x\d{1,6}){0,3})", text)
    known = hardware.GENERATIONS
    name = {"7x": "v7x", "v5litepod": "v5e"}.get(match[1], match[1]) if match else ""
    if match is None or name not in known:
        names = [f"{g}:{'|'.join(t.sizes)}" for g, t in known.items()]
        raise errors.UserError(
            "\n  ".join([f"topology {text!r} is unknown; rented slices:", *names])
        )
    generation = known[name]
    shape = tuple(int(n) for n in match[2].split("x"))
    if len(shape) != generation.dimensions or 0 in shape or slices < 1:
        raise errors.UserError(
            f"topology {text!r} with {slices} slices: {name} wants "
            f"{generation.dimensions} lengths, in chips: {', '.join(generation.sizes)}"
        )
    return Topology(name, shape, slices)


def check_compiler() -> None:
    """Raises `UserError` unless the TPU compiler is installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise errors.UserError(
            "a TPU slice is planned with the TPU compiler, which is not installed: "
            "pip install 'vit_jax[plan]' (Linux on x86_64; no TPU is needed)"
        )


def devices(topology: Topology) -> list[jax.Device]:
    """Returns descriptions of the devices, to compile for.

    The process should have started with `ENVIRONMENT`.

    Raises:
        UserError: the compiler knows no such slice.
    """
    from jax.experimental import topologies

    check_compiler()
    generation = hardware.GENERATIONS[topology.generation]
    options: dict[str, Any] = dict(generation.options)
    if math.prod(topology.shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    name = topology.name.replace(topology.generation, generation.compiler, 1)
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=name, **options
        )
    except jax.errors.JaxRuntimeError as error:
        raise errors.UserError(
            f"topology {topology.name}: {error}; rented: {', '.join(generation.sizes)}"
        ) from error
    return list(description.devices)
