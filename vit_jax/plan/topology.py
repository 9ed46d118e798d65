"""Devices by name: "v5e:4x4" is a 4 by 4 grid of v5e chips, "h100:8" eight GPUs."""

import math
import re
from dataclasses import dataclass

import jax

from vit_jax import errors
from vit_jax.parallel import hardware
from vit_jax.plan import compilers, generations, gpus, tpus

_KNOWN = generations.TPUS | gpus.GENERATIONS


@dataclass(frozen=True)
class Topology:
    """One or more equal TPU slices, or a host of GPUs.

    Attributes:
        generation: Key of `generations.TPUS` or `gpus.GENERATIONS`.
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
        return self.chips * _KNOWN[self.generation].devices_per_chip

    @property
    def chip(self) -> hardware.Chip:
        """Published figures of one device."""
        return hardware.CHIPS[_KNOWN[self.generation].chip]

    @property
    def sizes(self) -> tuple[str, ...]:
        """What is rented of this generation, from the smallest."""
        return _KNOWN[self.generation].sizes

    @property
    def compiler(self) -> compilers.Compiler:
        """Whom to ask."""
        return gpus.COMPILER if self.generation in gpus.GENERATIONS else tpus.COMPILER


def parse(text: str, *, slices: int = 1) -> Topology:
    """Returns the topology of a name.

    Raises:
        UserError: not a name, with those that are.
    """
    match = re.fullmatch(
        r"((?:tpu)?v?\d+\w*?|[a-z]\d+):(\d{1,6}(?:x\d{1,6}){0,3})", text
    )
    name = match[1].removeprefix("tpu") if match else ""
    name = {"7x": "v7x", "v5litepod": "v5e"}.get(name, name)
    if match is None or name not in _KNOWN:
        names = [f"{g}:{'|'.join(t.sizes)}" for g, t in generations.TPUS.items()]
        hosts = f"{', '.join(gpus.GENERATIONS)}: 1 to 8 GPUs of a host, as in h100:8"
        raise errors.UserError(
            "\n  ".join(
                [f"topology {text!r} is unknown; rented slices:", *names, hosts]
            )
        )
    row = _KNOWN[name]
    shape = tuple(int(n) for n in match[2].split("x"))
    if len(shape) != row.dimensions or 0 in shape or slices < 1:
        raise errors.UserError(
            f"topology {text!r} with {slices} slices: {name} wants "
            f"{row.dimensions} lengths, in chips: {', '.join(row.sizes)}"
        )
    if name in gpus.GENERATIONS:
        gpus.check_host(name, shape[0], slices)
    return Topology(name, shape, slices)


def devices(topology: Topology) -> list[jax.Device]:
    """Returns descriptions of the devices, to compile for.

    The process should have started with the compiler's environment and flags.

    Raises:
        UserError: the compiler is not installed, or knows no such thing.
    """
    found = topology.compiler.devices
    return found(topology.generation, topology.shape, topology.slices)
