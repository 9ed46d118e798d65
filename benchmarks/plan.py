"""What the planner says of the recipes, beside the figures we want.

    pip install 'vit_jax[plan]'; python -m benchmarks.plan [--only=REGEX] [--write]

Compiles for TPU slices that are not there, one after the other: the fast cases take
seconds to two minutes each, those with cycles minutes. Prints a table and one line of
JSON; --write puts the table into benchmarks/plan.md. --results=FILE keeps what was
compiled: a case that is in it is not compiled again.
"""

import argparse
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from configs import pretrain, vit_g14
from vit_jax.plan import advice, compiling, estimate, topology

GIB = 2**30
TABLE = Path(__file__).with_name("plan.md")
# Loops over blocks with what the paper calls no batch products kept, and with nothing.
KEPT = {"model.remat": "dots_nb", "model.unroll": 1}
FULL = {"model.remat": "full", "model.unroll": 1}
FLAT = {"model.remat": "none", "model.unroll": 0}


@dataclasses.dataclass(frozen=True)
class Bar:
    """A figure and what we want of it.

    Attributes:
        what: name and unit.
        figure: from the planner's figures.
        target: at most this; with `at_least` at least; None: only reported.
    """

    what: str
    figure: Callable[[dict[str, Any]], float | None]
    target: float | None
    at_least: bool = False

    def met(self, value: float | None) -> bool | None:
        """Whether the target is reached; None without target or figure."""
        if self.target is None or value is None:
            return None
        return value >= self.target if self.at_least else value <= self.target


def memory(target: float | None) -> Bar:
    """Peak memory of a device."""
    return Bar("GiB a device", lambda f: f["peak_bytes"] / GIB, target)


def fits() -> Bar:
    """Peak memory over what the compiler grants."""
    return Bar("share of the memory", lambda f: f["peak_bytes"] / f["usable_bytes"], 1)


def traffic(target: float | None) -> Bar:
    """Bytes of all collectives."""
    return Bar(
        "collective bytes / bfloat16 weight bytes",
        lambda f: f["collective_bytes_per_weight_byte"],
        target,
    )


def wire() -> Bar:
    """Gigabytes that a device sends, about: a sum goes there and back."""

    def sent(figures: dict[str, Any]) -> float:
        rows = figures["collectives"]
        return sum(r["bytes"] * (1 + (r["kind"] == "all-reduce")) for r in rows) / 1e9

    return Bar("GB sent, all-reduces twice", sent, None)


def flops() -> Bar:
    """Recomputation that nobody asked for."""
    return Bar("FLOPs / analytic", lambda f: f["flops"] / f["analytic_flops"], 1.02)


def overlap(target: int) -> Bar:
    """Collectives that are started, or fused with compute."""
    return Bar("asynchronous starts", lambda f: f["asynchronous_starts"], target, True)


def cycles(target: float | None) -> Bar:
    """The compiler's estimate."""
    return Bar("Mcycles a step", lambda f: f["cycles"] / 1e6, target)


def an_image(target: float | None) -> Bar:
    """The same, of each image of a device."""

    def share(figures: dict[str, Any]) -> float:
        return figures["cycles"] * figures["batch_parts"] / figures["batch_size"] / 1e6

    return Bar("Mcycles an image", share, target)


def turned() -> Bar:
    """Copies of attention's [b, h, n, n] from one layout to another."""

    def moved(figures: dict[str, Any]) -> float:
        rows = figures["copies_between_layouts"]
        tokens = figures["tokens"]
        return sum(r["bytes"] for r in rows if r["shape"].count(tokens) == 2) / 1e9

    return Bar("GB of attention copied", moved, 0)


def utilization(target: float | None) -> Bar:
    """Model FLOPs over the published peak."""
    return Bar("MFU, %", lambda f: 100 * f["mfu"], target, True)


def core_days(paper: float) -> tuple[Bar, Bar]:
    """Of the whole run, over the paper's Table 2 or 6: compute, and links as well."""
    name, cores = f"core-days / the paper's {paper:g}k", 1000 * paper
    return (
        Bar(name, lambda f: f["core_days"] / cores, 0.7),
        Bar(f"{name}, links", lambda f: f["core_days_with_links"] / cores, 0.7),
    )


ACTIVATIONS = Bar(
    "collectives of activations", lambda f: len(f["activation_collectives"]), 0
)
# Adafactor keeps a few placeholders that no update reads: 5,136 bytes of G/14's state.
IN_PLACE = Bar(
    "bytes of the state not updated in place",
    lambda f: f["state_bytes"] - f["donated_bytes"],
    6 * 2**10,
)
ALWAYS = (ACTIVATIONS, IN_PLACE)


@dataclasses.dataclass(frozen=True)
class Case:
    """One compile.

    Attributes:
        model: name of a model, trained as in `configs/pretrain.py` on JFT, or "G/14".
        place: topology.
        batch: images of a step.
        values: of the configuration.
        bars: what is read off.
        fast: without code generation.
        dataset: "jft" or "i21k".
    """

    model: str
    place: str
    batch: int
    values: dict[str, Any]
    bars: tuple[Bar, ...]
    fast: bool = True
    dataset: str = "jft"

    @property
    def name(self) -> str:
        """What is compiled, in a line."""
        values = ", ".join(f"{k.split('.')[-1]}={v}" for k, v in self.values.items())
        return f"{self.model} {self.dataset} {self.place} batch {self.batch}: {values}"

    def job(self) -> compiling.Job:
        """For the planner."""
        if self.model == "G/14":
            config = vit_g14.get_config("G")
        else:
            config = pretrain.recipe(self.model, self.dataset)
        values = self.values | {"batch_size": self.batch}
        config = advice.with_values(config.to_dict(), values)
        return compiling.Job(config, topology.parse(self.place), self.fast)


def layout(name: str, **rest: Any) -> dict[str, Any]:
    """{"mesh.layout": name} and more keys of the mesh."""
    keys = {"layout": name} | rest
    return {f"mesh.{key}": value for key, value in keys.items()}


ALL_32 = layout("fsdp", fsdp=32)
# Of steps with more than 32 images a device.
WHOLE = {"microbatches": 1}
CASES = (
    Case(
        *("H/14", "v3:4x4", 256, layout("zero1", fsdp=32) | KEPT),
        (memory(3.8), traffic(2.05)),
    ),
    Case("H/14", "v3:4x4", 256, ALL_32 | KEPT, (memory(2.5), traffic(3.1))),
    Case("H/14", "v3:4x4", 2048, ALL_32 | KEPT | WHOLE, (memory(15.4), traffic(3.1))),
    Case("H/14", "v5e:4x4", 512, layout("fsdp") | KEPT, (memory(8.3), traffic(3.1))),
    Case("H/14", "v5e:4x4", 512, layout("fsdp") | FULL, (memory(2.4), traffic(3.1))),
    Case("B/16", "v5e:4x4", 512, layout("dp") | FLAT, (memory(None), traffic(1.03))),
    Case(
        *("B/16", "v5e:4x4", 512, layout("zero1") | FLAT),
        (memory(None), traffic(2.05), overlap(100), flops()),
    ),
    Case("L/16", "v3:4x4", 256, layout("zero1") | FLAT, (traffic(2.05), flops())),
    Case(
        *("H/14", "v3:16x16", 4096, layout("zero1") | FLAT),
        (memory(6.5), traffic(2.05), flops()),
    ),
    Case(
        *("H/14", "v5e:16x16", 4096, layout("zero1") | KEPT),
        (memory(None), traffic(2.05), overlap(100)),
    ),
    # Batch 4096 on the smallest slices, without and with accumulation.
    Case("H/14", "v3:2x4", 4096, layout("fsdp") | FULL | WHOLE, (fits(),)),
    Case("H/14", "v5e:4x4", 4096, layout("fsdp") | FULL | WHOLE, (fits(),)),
    Case("H/14", "v4:2x2x2", 4096, layout("fsdp") | FULL | WHOLE, (fits(),)),
    Case("H/14", "v5p:2x2x1", 4096, layout("fsdp") | FULL | WHOLE, (fits(),)),
    Case(
        *("H/14", "v3:2x2", 4096, layout("fsdp") | FULL | {"microbatches": 32}),
        (fits(),),
    ),
    Case(
        *("H/14", "v5e:2x4", 4096, layout("fsdp") | FULL | {"microbatches": 16}),
        (fits(),),
    ),
    Case("L/16", "v3:2x2", 4096, layout("fsdp") | FULL | WHOLE, (fits(),)),
    Case("B/16", "v5e:2x2", 4096, layout("fsdp") | FULL | WHOLE, (fits(),)),
    Case("G/14", "v5e:16x16", 4096, layout("fsdp") | KEPT, (fits(),)),
    Case("G/14", "v4:4x4x8", 4096, layout("fsdp") | KEPT, (fits(),)),
    Case("G/14", "v5e:8x8", 4096, layout("fsdp") | FULL | WHOLE, (fits(),)),
    Case("G/14", "v5e:4x4", 4096, layout("fsdp") | FULL | WHOLE, (fits(),)),
    Case("G/14", "v4:2x4x4", 4096, layout("fsdp") | FULL | WHOLE, (fits(),)),
    Case("G/14", "v4:2x2x2", 4096, layout("fsdp") | FULL | WHOLE, (fits(),)),
    # The tensor axis: few images a device make it pay.
    *(
        Case(
            *("G/14", place, 4096, layout("fsdp", tensor=tensor) | KEPT),
            (memory(None), wire()),
        )
        for place in ("v4:4x8x8", "v4:8x8x16")
        for tensor in (1, 2, 4)
    ),
    # With code generation.
    Case(
        *("B/16", "v3:4x4", 256, layout("zero1") | FLAT),
        (cycles(29.5), utilization(None), flops()),
        fast=False,
    ),
    # The paper's runs: on 512 cores, and on a fourth of them with 32 images each.
    *(
        Case(
            *(model, place, 4096, layout("zero1") | FLAT),
            (cycles(most), utilization(least), *core_days(paper)),
            fast=False,
            dataset=dataset,
        )
        for model, dataset, place, paper, most, least in (
            ("L/16", "jft", "v3:16x16", 0.68, 88, 45),
            ("L/16", "jft", "v3:8x8", 0.68, None, 45),
            ("L/16", "i21k", "v3:16x16", 0.23, None, None),
            ("L/16", "i21k", "v3:8x8", 0.23, None, None),
            ("H/14", "jft", "v3:16x16", 2.5, None, 48),
        )
    ),
    Case(
        *("B/16", "v5e:4x4", 512, layout("zero1") | FLAT),
        (cycles(None), an_image(None), utilization(None), overlap(100)),
        fast=False,
    ),
    # More images a device, cut into microbatches by default.
    *(
        Case(
            *("B/16", place, 16 * 128, layout("zero1") | FLAT),
            (an_image(None), utilization(least), turned()),
            fast=False,
        )
        for place, least in (("v5e:4x4", 50), ("v6e:4x4", 35))
    ),
)
# Two blocks, more and more images a device: a cliff would be seen.
IMAGES = (32, 64, 128, 256)
MOST_OF_32 = 1.15  # of the cycles an image
CLIFFS = tuple(
    Case(
        *(model, place, 16 * images, layout("zero1") | FLAT | {"model.depth": 2}),
        (an_image(None), utilization(None), turned()),
        fast=False,
    )
    for place in ("v5e:4x4", "v6e:4x4", "v5p:2x2x4")
    for model in ("B/16", "L/16")
    for images in IMAGES
)


def measure(case: Case) -> dict[str, Any]:
    """Compiles a case and returns its row."""
    figures = estimate.plan(case.job())
    rows = []
    always = list(ALWAYS)
    if figures["mesh"]["tensor"] > 1:
        always.remove(ACTIVATIONS)  # it is there to move them
    for bar in (*case.bars, *always):
        value = bar.figure(figures)
        rows.append({"what": bar.what, "value": value, "target": bar.target})
        rows[-1]["met"] = bar.met(value)
    return {"case": case.name, "fast": case.fast, "bars": rows, "figures": figures}


def _value(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(results: list[dict[str, Any]]) -> str:
    """Returns the rows in Markdown; what every case holds is said only where not."""
    quiet = {bar.what for bar in ALWAYS}
    lines = ["| | | figure | wanted | |", "|-|-|-|-|-|"]
    for result in results:
        name = result["case"]
        for bar in result["bars"]:
            if bar["what"] in quiet and bar["met"]:
                continue
            mark = {True: "met", False: "**missed**", None: ""}[bar["met"]]
            lines.append(
                f"| {name} | {bar['what']} | {_value(bar['value'])} "
                f"| {_value(bar['target'])} | {mark} |"
            )
            name = ""
    return "\n".join(lines)


def cliffs(results: list[dict[str, Any]]) -> str:
    """Returns a row in Markdown for each model and slice of `CLIFFS`."""
    found = {result["case"]: result["figures"] for result in results}
    heads = [f"{images} images" for images in IMAGES]
    lines = [
        f"| kcycles an image (MFU) | {' | '.join(heads)} | most / {IMAGES[0]} |",
        "|-" * (len(IMAGES) + 2) + "|",
    ]
    for start in range(0, len(CLIFFS), len(IMAGES)):
        cases = CLIFFS[start : start + len(IMAGES)]
        if not all(case.name in found for case in cases):
            continue
        figures = [found[case.name] for case in cases]
        counts = [f["cycles"] * f["batch_parts"] / f["batch_size"] for f in figures]
        cells = [
            f"{count / 1e3:.0f} ({100 * f['mfu']:.0f} %), {f['microbatches']} x "
            f"{f['batch_size'] // f['batch_parts'] // f['microbatches']}"
            for count, f in zip(counts, figures, strict=True)
        ]
        most = max(counts[1:]) / counts[0]
        mark = "met" if most <= MOST_OF_32 else "**missed**"
        lines.append(
            f"| {cases[0].model}, {cases[0].place} | {' | '.join(cells)} "
            f"| {most:.3f} {mark} |"
        )
    return "\n".join(lines)


def _load(path: Path | None) -> dict[tuple, dict[str, Any]]:
    if path is None or not path.exists():
        return {}
    rows = map(json.loads, path.read_text().splitlines())
    return {(row["case"], row["fast"]): row for row in rows}


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="regex over the cases' names")
    parser.add_argument("--speed", choices=("fast", "full", "all"), default="all")
    parser.add_argument("--results", type=Path, default=None)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    known = _load(options.results)
    results = []
    for case in (*CASES, *CLIFFS):
        wanted = options.speed in ("all", "fast" if case.fast else "full")
        if not wanted or not re.search(options.only, case.name):
            continue
        result = known.get((case.name, case.fast)) or measure(case)
        results.append(result)
        print(table([result]).split("\n", 2)[2], flush=True)
        if options.results and (case.name, case.fast) not in known:
            with open(options.results, "a") as file:
                file.write(json.dumps(result) + "\n")
    looked = [r for r in results if r["case"] in {case.name for case in CLIFFS}]
    rest = [result for result in results if result not in looked]
    if options.write:
        head, _, tail = TABLE.read_text().partition("<!-- images -->")
        between = tail.partition("<!-- end of images -->")[2].partition("<!-- table")[0]
        TABLE.write_text(
            f"{head}<!-- images -->\n\n{cliffs(looked)}\n\n<!-- end of images -->"
            f"{between}<!-- table -->\n\n{table(rest)}\n"
        )
    missed = [r["case"] for r in results if any(b["met"] is False for b in r["bars"])]
    print(json.dumps({"jax": jax.__version__, "cases": len(results), "missed": missed}))


if __name__ == "__main__":
    main()
