"""Plans as text."""

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from vit_jax.parallel import memory

GIB = memory.GIB

LEFT_OUT = (
    "left out: collectives, copies between memories that compute does not hide, "
    "hand-written kernels, launches, input, evaluation and checkpoints. Operations run "
    "one after the other in this sum. It is the compiler's estimate, for ratios on one "
    "generation; nothing ran."
)

NO_ESTIMATE = (
    "a bound by the data sheet and no prediction: real kernels reach neither rate, and "
    "launches, input, evaluation and checkpoints are left out. Kernels are the "
    "compiler's own choices, as without a GPU none were timed; nothing ran."
)


def plan(figures: dict[str, Any]) -> str:
    """Returns the report of one plan, from `estimate.estimate`."""
    parts = [_where(figures), _memory(figures), _collectives(figures), _work(figures)]
    if figures["step_seconds"]:
        parts.append(_run(figures))
    elif figures["bound_seconds"]:
        parts.append(_bound(figures))
    elif figures["cycles"] is None:
        parts.append(
            "time         not estimated: only the compiler of a TPU says it, of code "
            "that it has generated (--topology, and no --fast); of a GPU a bound"
        )
    if figures["fits"] is False:
        values = {field.name: figures[field.name] for field in fields(memory.Demand)}
        parts.append("smaller, cheapest first:")
        parts += [f"  {flag}" for flag in memory.smaller(memory.Demand(**values))]
    return "\n".join(parts)


def _where(figures: dict[str, Any]) -> str:
    place = figures["topology"] or "this machine"
    if figures["slices"] > 1:
        place = f"{figures['slices']} slices of {place}"
    rows = figures["batch_size"] // figures["batch_parts"] // figures["microbatches"]
    axes = " x ".join(f"{name} {size}" for name, size in figures["mesh"].items())
    turns = f"{figures['unroll']} a turn" if figures["unroll"] else "flat"
    return (
        f"{figures['model']} on {place}: {_count(figures['chips'], 'chip')}, "
        f"{_count(figures['devices'], 'device')} ({figures['device_kind']}), "
        f"{_count(figures['hosts'], 'host')}\n"
        f"layout       {figures['layout']} on {axes}, remat {figures['remat']}, "
        f"blocks {turns}\n"
        f"batch        {figures['batch_size']}: {_count(rows, 'image')} a device and "
        f"microbatch, {_count(figures['microbatches'], 'microbatch', 'es')}"
    )


def _count(number: int, what: str, ending: str = "s") -> str:
    return f"{number} {what}{'' if number == 1 else ending}"


def _memory(figures: dict[str, Any]) -> str:
    peak, usable = figures["peak_bytes"], figures["usable_bytes"]
    if peak is None:
        return "memory       the compiler does not say"
    verdict = "the memory of this device is not known"
    if figures["fits"] is not None and figures["free_bytes"] is not None:
        free = figures["free_bytes"] / GIB
        verdict = f"fits, {free:.2f} free" if figures["fits"] else "DOES NOT FIT"
        if free < 0:
            verdict += f", {-free:.2f} too many"
    of = f" of {usable / GIB:.2f}" if usable else ""
    lines = [f"memory       {peak / GIB:.2f}{of} GiB a device: {verdict}"]
    if figures["argument_bytes"] is not None:
        lines.append(
            f"             arguments {figures['argument_bytes'] / GIB:.2f}, "
            f"temporaries {figures['temporary_bytes'] / GIB:.2f}"
        )
    lines.append(
        "             by arithmetic, as mesh.layout=auto and model.remat=auto expect: "
        f"{figures['expected_bytes'] / GIB:.2f}"
    )
    donated, state = figures["donated_bytes"], figures["state_bytes"]
    if donated is not None:
        lines.append(
            f"             state {state / GIB:.3f}, of which "
            f"{donated / state:.2%} is updated in place"
        )
    return "\n".join(lines)


def _collectives(figures: dict[str, Any]) -> str:
    if figures["collectives"] is None:
        return "collectives  not known: the program was not scheduled"
    lines = [
        f"collectives  {figures['collective_bytes'] / GIB:.3f} GiB a step, "
        f"{figures['collective_bytes_per_weight_byte']:.2f} for each byte of bfloat16 "
        "weights",
        f"             on the wire {figures['sent_bytes'] / GIB:.3f} GiB, "
        f"{figures['sent_bytes_per_weight_byte']:.2f} (a sum goes there and back)",
    ]
    for row in figures["collectives"]:
        how = "waits" if not row["asynchronous"] else "starts and waits"
        how = "overlaps compute" if row["overlaps"] else how
        lines.append(
            f"  {row['kind']:<20} {row['dtype']:<6} {row['count']:>6} x "
            f"{row['bytes'] / GIB:>8.3f} GiB  {how}"
        )
    for name, row in figures["copies_between_memories"].items():
        lines.append(
            f"copies       {row['count']} {name}, {row['bytes'] / GIB:.3f} GiB between "
            "memories, without an estimate"
        )
    turned = figures["copies_between_layouts"]
    if turned:
        types = ", ".join(
            f"{row['dtype']}{list(row['shape'])} x {row['count']}" for row in turned[:3]
        )
        lines.append(
            f"copies       {sum(row['bytes'] for row in turned) / GIB:.3f} GiB between "
            f"layouts, most of it {types}"
        )
    for row in figures["activation_collectives"][:3]:
        lines.append(
            f"  WARNING: activations move: {row['kind']}, "
            f"{row['bytes'] / GIB:.3f} GiB, of {row['source']}"
        )
    return "\n".join(lines)


def _work(figures: dict[str, Any]) -> str:
    flops, analytic = figures["flops"], figures["analytic_flops"]
    if flops is None:
        return "FLOPs        not known: the program was not scheduled"
    lines = [
        f"FLOPs        {flops / 1e12:.3f} T a device and step, {flops / analytic:.3f} "
        f"of the {analytic / 1e12:.3f} T that the model needs"
    ]
    if figures["compiler_flops"]:
        lines.append(
            f"             ({figures['compiler_flops'] / 1e12:.3f} T by the compiler, "
            "which counts the body of a loop once)"
        )
    return "\n".join(lines)


def _run(figures: dict[str, Any]) -> str:
    seconds, cycles = figures["step_seconds"], figures["cycles"]
    missing = ", ".join(
        f"{n} {name}" for name, n in figures["without_estimate"].items()
    )
    price = ""
    if figures["price"] is not None:
        price = f", price {figures['price']:,.0f}"
    return (
        f"time         {cycles / 1e6:.2f} Mcycles = {seconds * 1e3:.1f} ms a step, "
        f"{figures['mfu']:.1%} MFU\n"
        f"             without an estimate: {missing or 'nothing'}\n"
        f"run          {figures['total_steps']:,} steps at "
        f"{figures['images_per_second']:,.0f} images/s: {figures['run_hours']:,.1f} "
        f"hours, {figures['core_days']:,.1f} device-days{price}\n"
        f"{_links(figures)}{LEFT_OUT}"
    )


def _bound(figures: dict[str, Any]) -> str:
    """What the kernels of a GPU cannot be shorter than."""
    seconds, whole = figures["bound_seconds"], figures["bound_seconds_with_links"]
    links = ""
    if figures["sent_bytes"]:
        links = (
            "             with collectives at the published rate of NVLink: "
            f"{whole * 1e3:.1f} ms\n"
        )
    hours, days = figures["bound_hours"], figures["devices"] / 24
    price = ""
    if figures["bound_price"] is not None:
        price = f", price {figures['bound_price']:,.0f}"
    return (
        f"kernels      {figures['kernels']:,} a step, "
        f"{figures['kernel_bytes'] / 1e9:.1f} GB read and written\n"
        f"bound        no step below {seconds * 1e3:.1f} ms: the sum over kernels of "
        f"the larger of FLOPs / {figures['peak_flops'] / 1e12:.0f} T and bytes / "
        f"{figures['memory_bandwidth'] / 1e12:.2f} TB/s\n"
        f"{links}"
        f"             {figures['batch_size'] / whole:,.0f} images/s and "
        f"{figures['most_mfu']:.1%} MFU at most; {figures['total_steps']:,} steps take "
        f"{hours:,.1f} hours, {hours * days:,.1f} device-days{price} at least\n"
        f"{NO_ESTIMATE}"
    )


def _links(figures: dict[str, Any]) -> str:
    """The same with collectives, where the rate of links is published; a line."""
    whole = figures["step_seconds_with_links"]
    if not whole or not figures["sent_bytes"]:
        return ""
    return (
        f"             with collectives at the published rate of the links: "
        f"{whole * 1e3:.1f} ms a step, {figures['core_days_with_links']:,.1f} "
        "device-days\n"
    )


# Heading, and how a plan's figures show under it.
_COLUMNS = {
    "topology": lambda f: f["topology"] or "here",
    "slices": lambda f: str(f["slices"]),
    "devices": lambda f: str(f["devices"]),
    "layout": lambda f: f["layout"],
    "remat": lambda f: f["remat"],
    "batch": lambda f: str(f["batch_size"]),
    "parts": lambda f: str(f["microbatches"]),
    "fits": lambda f: {True: "yes", False: "NO", None: "?"}[f["fits"]],
    "GiB": lambda f: _number(f["peak_bytes"], GIB, ".2f"),
    "collectives": lambda f: _number(f["collective_bytes"], GIB, ".2f"),
    "sent": lambda f: _number(f["sent_bytes"], GIB, ".2f"),
    "FLOPs": lambda f: _number(f["flops"], f["analytic_flops"], ".3f"),
    "Mcycles": lambda f: _number(f["cycles"], 1e6, ".2f"),
    "ms": lambda f: _number(f["step_seconds"], 1e-3, ".1f"),
    "ms at least": lambda f: _number(f["bound_seconds_with_links"], 1e-3, ".1f"),
    "MFU": lambda f: _number(f["mfu"], 0.01, ".1f"),
    "images/s": lambda f: _number(f["images_per_second"], 1, ",.0f"),
    "hours at least": lambda f: _number(f["bound_hours"], 1, ",.1f"),
    "hours": lambda f: _number(f["run_hours"], 1, ",.1f"),
    "device-days": lambda f: _number(f["core_days"], 1, ",.1f"),
    "price": lambda f: _number(f["price"], 1, ",.0f"),
}


def _number(value: float | None, unit: float, form: str) -> str:
    return "-" if value is None else format(value / unit, form)


def sections(text: str) -> list[tuple[str, str]]:
    """Returns a plan's text as rows of a heading, "" where there is none, and text."""
    split = (re.fullmatch(r"(\w*) {2,}(\S.*)|(.*)", x) for x in text.splitlines())
    return [(match[1] or "", match[2] or match[3]) for match in split if match]


def lines(plans: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Returns plans as rows below headings; columns that no plan fills are left out.

    GiB of a device, collectives and what is sent in GiB a step, FLOPs over the analytic
    count, MFU in %.
    """
    rows = [[show(figures) for show in _COLUMNS.values()] for figures in plans]
    filled = [any(row[i] != "-" for row in rows) for i in range(len(_COLUMNS))]
    whole = [list(_COLUMNS), *rows]
    return [[cell for cell, keep in zip(line, filled) if keep] for line in whole]


def table(plans: Sequence[dict[str, Any]]) -> str:
    """Returns `lines` as one text."""
    found = lines(plans)
    widths = [max(map(len, column)) for column in zip(*found)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths))
        for line in found
    )
