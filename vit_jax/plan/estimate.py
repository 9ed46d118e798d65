"""From a compiled step to what a run costs: the object that `--json` prints."""

import logging
from typing import Any

from vit_jax.parallel import hardware
from vit_jax.plan import buffers, collectives, compiling, gpus, kernels, links, work

# Forward, and twice that backward; a multiply-add is two FLOPs.
FLOPS_PER_MAC = 6


def estimate(
    job: compiling.Job,
    result: compiling.Result,
    *,
    price_per_chip_hour: float | None = None,
) -> dict[str, Any]:
    """Returns the figures of a plan; those that nothing says are None.

    Bytes, FLOPs and cycles are of one device and one step. `flops` counts the loops of
    the program as often as they run, `compiler_flops` each once; `analytic_flops` is
    what the model needs without recomputation. `sent_bytes` are on the wire, where a
    sum counts twice; `step_seconds` leaves collectives out, `step_seconds_with_links`
    adds at the published rate of the links those that nothing overlaps, and of the
    others what is longer than all compute. Of GPUs, whose compiler estimates nothing,
    there are `kernels` and `kernel_bytes` and what they cannot be shorter than, by
    peaks and bandwidth of the data sheet: `bound_seconds`, and of the whole run, links
    included, `bound_hours`.
    """
    facts = result.facts
    chip = hardware.find_chip(facts["device_kind"])
    figures = {
        key: facts[key]
        for key in (
            *("model", "remat", "unroll", "layout", "mesh", "device_kind", "devices"),
            *("hosts", "batch_size", "batch_parts", "microbatches", "total_steps"),
            "tokens",
        )
    }
    figures["topology"] = job.topology.name if job.topology else None
    figures["slices"] = job.topology.slices if job.topology else 1
    figures["chips"] = job.topology.chips if job.topology else facts["devices"]
    figures["compile_seconds"] = round(result.seconds, 1)
    figures |= _memory(facts, result)
    figures |= _traffic(facts, result, links.rate(chip))
    figures |= _work(facts, result, chip, local=job.topology is None)
    figures |= _run(figures, price_per_chip_hour)
    figures |= _bound(figures, result, chip, price_per_chip_hour)
    return figures


def plan(
    job: compiling.Job, *, price_per_chip_hour: float | None = None
) -> dict[str, Any]:
    """Compiles a job and returns its figures, see `estimate`."""
    place = job.topology.name if job.topology else "this machine"
    logging.info(
        "compiling for %s, some seconds%s", place, "" if job.fast else " or minutes"
    )
    result = compiling.run(job)
    return estimate(job, result, price_per_chip_hour=price_per_chip_hour)


def _memory(facts: dict[str, Any], result: compiling.Result) -> dict[str, Any]:
    found, usable = result.memory, facts["usable_bytes"]
    fits: bool | None = None
    if result.out_of_memory:
        fits = False
    elif found and usable:
        fits = found.peak <= usable
    return {
        "fits": fits,
        "usable_bytes": usable,
        "peak_bytes": found and found.peak,
        "expected_bytes": facts["expected_bytes"],
        "free_bytes": usable - found.peak if found and usable else None,
        "argument_bytes": found and found.arguments,
        "temporary_bytes": found and found.temporaries,
        "state_bytes": facts["state_bytes"],
        "donated_bytes": result.module and buffers.donated(result.module),
        "out_of_memory": result.out_of_memory,
    }


def _traffic(
    facts: dict[str, Any], result: compiling.Result, link: float | None
) -> dict[str, Any]:
    weights = 2 * facts["parameters"]
    figures: dict[str, Any] = {"weight_bytes": weights, "collectives": None}
    seconds = "waiting_seconds", "overlapped_seconds"
    if result.module is None:
        return figures | dict.fromkeys((*seconds, "collective_bytes", "sent_bytes"))
    found = collectives.find(result.module, devices=facts["devices"])
    total = sum(one.count * one.bytes for one in found)
    hidden = sum(one.count * one.sent for one in found if one.overlaps)
    sent = sum(one.count * one.sent for one in found)
    times = (sent - hidden, hidden)
    rows = facts["batch_size"] // facts["microbatches"] // facts["batch_parts"]
    moved = collectives.of_activations(
        found, rows=rows, tokens=facts["tokens"], lengths=facts["lengths"]
    )
    return figures | {
        "collectives": collectives.summary(found),
        "collective_bytes": total,
        "collective_bytes_per_weight_byte": round(total / weights, 3),
        "sent_bytes": sent,
        "sent_bytes_per_weight_byte": round(sent / weights, 3),
        **{name: link and part / link for name, part in zip(seconds, times)},
        "copies_between_memories": collectives.between_memories(result.module),
        "copies_between_layouts": collectives.between_layouts(result.module),
        "asynchronous_starts": sum(one.count for one in found if one.asynchronous),
        "activation_collectives": [
            {"kind": one.kind, "bytes": one.count * one.bytes, "source": one.source}
            for one in moved
        ],
    }


def _work(
    facts: dict[str, Any],
    result: compiling.Result,
    chip: hardware.Chip | None,
    *,
    local: bool,
) -> dict[str, Any]:
    analytic = FLOPS_PER_MAC * facts["forward_macs"] * facts["batch_size"]
    figures: dict[str, Any] = {
        "flops": result.module and work.flops(result.module),
        "analytic_flops": analytic // facts["devices"],
        "compiler_flops": result.flops,
        **dict.fromkeys(("cycles", "without_estimate", "step_seconds", "mfu")),
    }
    if result.module is None or not result.complete or local:
        return figures
    cycles, missing = work.cycles(result.module)
    figures |= {"cycles": cycles, "without_estimate": dict(missing)}
    if chip is not None and chip.clock:
        seconds = cycles / chip.clock
        figures["step_seconds"] = seconds
        figures["mfu"] = figures["analytic_flops"] / seconds / chip.peak_flops
    return figures


def _run(figures: dict[str, Any], price: float | None) -> dict[str, Any]:
    seconds, waiting = figures["step_seconds"], figures["waiting_seconds"]
    if not seconds:
        return dict.fromkeys(
            ("images_per_second", "run_hours", "core_days", "price")
            + ("step_seconds_with_links", "core_days_with_links")
        )
    hours = seconds * figures["total_steps"] / 3600
    whole = None if waiting is None else _with_links(figures, seconds)
    days = figures["devices"] * figures["total_steps"] / 86400
    return {
        "step_seconds_with_links": whole,
        "core_days_with_links": whole and whole * days,
        "images_per_second": figures["batch_size"] / seconds,
        "run_hours": hours,
        "core_days": hours / 24 * figures["devices"],
        "price": None if price is None else hours * figures["chips"] * price,
    }


def _with_links(figures: dict[str, Any], seconds: float) -> float:
    return max(seconds, figures["overlapped_seconds"]) + figures["waiting_seconds"]


def _bound(
    figures: dict[str, Any],
    result: compiling.Result,
    chip: hardware.Chip | None,
    price: float | None,
) -> dict[str, Any]:
    bandwidth = gpus.bandwidth(chip)
    if result.module is None or chip is None or bandwidth is None:
        return dict.fromkeys(
            ("kernels", "kernel_bytes", "memory_bandwidth", "peak_flops")
            + ("bound_seconds", "bound_seconds_with_links", "most_mfu")
            + ("bound_hours", "bound_price")
        )
    found = kernels.find(result.module)
    seconds = kernels.bound(found, peak=chip.peak_flops, bandwidth=bandwidth)
    whole = _with_links(figures, seconds)
    hours = whole * figures["total_steps"] / 3600
    return {
        "kernels": sum(one.count for one in found),
        "kernel_bytes": sum(one.count * one.bytes for one in found),
        "memory_bandwidth": bandwidth,
        "peak_flops": chip.peak_flops,
        "bound_seconds": seconds,
        "bound_seconds_with_links": whole,
        "most_mfu": figures["analytic_flops"] / whole / chip.peak_flops,
        "bound_hours": hours,
        "bound_price": None if price is None else hours * figures["chips"] * price,
    }
