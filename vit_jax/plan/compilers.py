"""How a compiler is asked about devices that are not there."""

from collections.abc import Callable
from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class Compiler:
    """What differs between the compilers of TPUs and of GPUs.

    Attributes:
        environment: Of a process that asks it.
        flags: Of XLA, which it wants where no device is.
        foreign: How flags of other back ends begin, which it dies of.
        scheduled: Pattern of the file that it dumps last before it generates code, the
            scheduled program.
        check: Raises `UserError` unless it is installed.
        devices: Descriptions of (generation, shape, slices), to compile for; raises
            `UserError` where it knows no such thing.
    """

    environment: dict[str, str]
    flags: tuple[str, ...]
    foreign: tuple[str, ...]
    scheduled: str
    check: Callable[[], None]
    devices: Callable[[str, tuple[int, ...], int], list[jax.Device]]
