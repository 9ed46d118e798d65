"""How fast chips send to each other: what is published, not what was measured."""

from vit_jax.parallel import hardware
from vit_jax.plan import generations

# Bytes/s that a chip sends over all its links at once. Google's pages of each
# generation: the all-reduce bandwidth of a pod over its chips (v3, v4, v5e), or half of
# the bidirectional bandwidth of a chip (v5p, v6e, 7x). Of v2 there is none. NVIDIA's
# data sheets: half of NVLink's bidirectional bandwidth of a GPU.
PUBLISHED = {
    "v3": 340e12 / 1024,
    "v4": 1.1e15 / 4096,
    "v5e": 51.2e12 / 256,
    "v5p": 1200e9 / 2,
    "v6e": 800e9 / 2,
    "7x": 1200e9 / 2,
    "A100-80GB": 600e9 / 2,
    "H100": 900e9 / 2,
    "H200": 900e9 / 2,
}


def rate(chip: hardware.Chip | None) -> float | None:
    """Returns the bytes/s that a JAX device can send; None where nothing says."""
    for name, row in hardware.CHIPS.items():
        if row == chip and name in PUBLISHED:
            shares = {
                one.devices_per_chip
                for one in generations.TPUS.values()
                if one.chip == name
            }
            return PUBLISHED[name] / max(shares, default=1)
    return None
