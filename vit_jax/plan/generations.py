"""Generations of TPUs by name: what is rented of them, what compilers call them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Generation:
    """A generation as slices of it are named, "v5e:4x4"; of GPUs "h100:8".

    Attributes:
        chip: Key of `hardware.CHIPS`.
        compiler: What its compiler calls it.
        devices_per_chip: JAX devices; a v4 chip is one with its cores joined.
        options: What that wants to know besides, {} for most.
        dimensions: Of the chip network.
        sizes: Slices that are rented, from the smallest.
    """

    chip: str
    compiler: str
    devices_per_chip: int
    options: dict[str, str]
    dimensions: int
    sizes: tuple[str, ...]


_SQUARES = ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    *("8x8x16", "8x16x16", "16x16x16"),
)

# One chip is a slice in the generations that rent single chips.
TPUS: dict[str, Generation] = {
    "v2": Generation("v2", "v2", 2, {}, 2, _SQUARES),
    "v3": Generation("v3", "v3", 2, {}, 2, (*_SQUARES, "16x32", "32x32")),
    "v4": Generation("v4", "v4", 1, {"chip_config_name": "megacore"}, 3, _CUBES),
    "v5e": Generation("v5e", "v5e", 1, {}, 2, ("1x1", "2x2", "2x4", *_SQUARES[1:])),
    "v5p": Generation("v5p", "v5p", 1, {}, 3, (*_CUBES, "16x16x24")),
    "v6e": Generation("v6e", "v6e", 1, {}, 2, ("1x1", "2x2", "2x4", *_SQUARES[1:])),
    "v7x": Generation("7x", "tpu7x", 2, {}, 3, _CUBES),
}
