"""What would fit where a step does not, found by compiling it."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from vit_jax import errors
from vit_jax.parallel import hardware
from vit_jax.plan import compiling, topology

GIB = hardware.GIB

# From the fastest to the smallest: what a flat program holds, then loops over blocks.
STRATEGIES: tuple[dict[str, Any], ...] = (
    {"mesh.layout": "zero1", "model.remat": "none", "model.unroll": 0},
    {"mesh.layout": "zero1", "model.remat": "dots_nb", "model.unroll": 1},
    {"mesh.layout": "fsdp", "model.remat": "dots_nb", "model.unroll": 1},
    {"mesh.layout": "fsdp", "model.remat": "full", "model.unroll": 1},
)
# Images of one microbatch on one device, where gradients are accumulated.
ACCUMULATED = 8

# Flag: the key of the configuration that its values take the place of.
VARIED = {
    "layout": "mesh.layout",
    "remat": "model.remat",
    "batch_size": "batch_size",
    "microbatches": "microbatches",
}

Run = Callable[[compiling.Job], compiling.Result]


def with_values(config: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of a nested config with {"mesh.layout": "fsdp", ...} set."""
    copy = dict(config)
    for path, value in values.items():
        head, _, rest = path.partition(".")
        copy[head] = with_values(copy[head], {rest: value}) if rest else value
    return copy


def variants(
    config: dict[str, Any], choices: dict[str, list[Any]]
) -> list[dict[str, Any]]:
    """Returns the configuration with every combination of the choices.

    Args:
        config: plain nested dict.
        choices: by key of `VARIED`; one without choices stays as it is.
    """
    given = {VARIED[name]: values for name, values in choices.items() if values}
    return [
        with_values(config, dict(zip(given, combination)))
        for combination in itertools.product(*given.values())
    ]


def advise(
    config: dict[str, Any], place: topology.Topology, *, run: Run
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Compiles what helps to choose, and yields (what was found, its values).

    Args:
        config: Of the run, a plain nested dict.
        place: The slice.
        run: `compiling.run`, or what counts its calls.
    """

    def try_(values: dict[str, Any], where: topology.Topology) -> int | None:
        """The peak of a variant that fits, else None."""
        job = compiling.Job(with_values(config, values), where, fast=True)
        try:
            result = run(job)
        except errors.UserError:  # devices that do not divide the batch
            return None
        if result.out_of_memory or result.memory is None:
            return None
        peak = result.memory.peak
        return peak if peak <= result.facts["usable_bytes"] else None

    best = next(
        ((s, peak) for s in STRATEGIES if (peak := try_(s, place)) is not None), None
    )
    if best is None:
        yield f"nothing tried fits {place.name} without smaller microbatches", {}
    else:
        yield f"fastest that fits {place.name}: {_say(*best)}", best[0]
    smallest = STRATEGIES[-1]
    chosen = best[0] if best else smallest
    for strategy in [chosen] if chosen == smallest else [chosen, smallest]:
        rows = largest_rows(strategy, place, try_)
        yield (
            f"largest microbatch a device with {_flags(strategy)}: {rows}",
            {"rows": rows, **strategy},
        )
    for accumulate in (False, True):
        found = smallest_slice(config, place, try_, accumulate=accumulate)
        how = "with" if accumulate else "without"
        if found is None:
            yield f"no {place.generation} slice holds it {how} accumulation", {}
        else:
            name, values, peak = found
            yield (
                f"smallest {place.generation} slice {how} accumulation: {name}, "
                f"{_say(values, peak)}",
                {"topology": name, **values},
            )


def largest_rows(
    strategy: dict[str, Any],
    place: topology.Topology,
    try_: Callable[[dict[str, Any], topology.Topology], int | None],
) -> int:
    """Returns the largest power of two of images a device in one microbatch; 0: none.

    Memory grows linearly with them, so two peaks tell where to look.
    """

    def peak(rows: int) -> int | None:
        return try_(
            {**strategy, "batch_size": rows * place.devices, "microbatches": 1}, place
        )

    low, high = peak(8), peak(16)
    if low is None or high is None:
        return next((n for n in (8, 4, 2, 1) if peak(n) is not None), 0)
    slope, rows = max(1, (high - low) // 8), 16
    usable = place.chip.granted
    while low + slope * (2 * rows - 8) <= usable and rows < 4096:
        rows *= 2
    for candidate in (2 * rows, rows):
        if candidate > 16 and peak(candidate) is not None:
            return candidate
    return max(16, rows // 2)


def smallest_slice(
    config: dict[str, Any],
    place: topology.Topology,
    try_: Callable[[dict[str, Any], topology.Topology], int | None],
    *,
    accumulate: bool,
) -> tuple[str, dict[str, Any], int] | None:
    """Returns (name, values, peak) of the smallest rented slice that holds the batch.

    Memory per device falls with the size of the slice: the first that fits is found by
    halving.
    """
    found = None
    sizes = list(place.sizes)
    while sizes:
        middle = (len(sizes) - 1) // 2
        where = topology.parse(f"{place.generation}:{sizes[middle]}")
        values = dict(STRATEGIES[-1], microbatches=1)
        rows, rest = divmod(config["batch_size"], where.devices)
        if accumulate and not rest and rows > ACCUMULATED and not rows % ACCUMULATED:
            values["microbatches"] = rows // ACCUMULATED
        peak = try_(values, where)
        if peak is not None:
            found = where.name, values, peak
            sizes = sizes[:middle]
        elif rest and rows == 0:  # more devices than images: only smaller ones divide
            sizes = sizes[:middle]
        else:
            sizes = sizes[middle + 1 :]
    return found


def _flags(values: dict[str, Any]) -> str:
    return " ".join(f"--config.{key}={value}" for key, value in values.items())


def _say(values: dict[str, Any], peak: int) -> str:
    return f"{peak / GIB:.2f} GiB with {_flags(values)}"
