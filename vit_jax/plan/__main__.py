"""`vit_jax plan --config=configs/vit_h14.py:jft --topology=v5e:16x16`.

Compiles the very step that training would run, for a TPU slice or GPUs (h100:8) that
are not there, and reports memory, collectives, FLOPs, the compiler's estimate of the
time, and what the whole run would take; of GPUs, whose compiler estimates none, the
kernels and what they cannot be shorter than. --fast stops before code is generated:
memory, collectives and FLOPs in seconds. Without --topology: what the compiler of this
machine's own devices knows.

Several values, comma-separated, of --topology, --layout, --remat, --batch_size or
--microbatches make a table. --config.KEY=VALUE as in `vit_jax.main`. A step that does
not fit is a result, not an error.
"""

import itertools
import logging
from pathlib import Path
from typing import Any

from absl import flags

from vit_jax import cli, errors
from vit_jax.cli import tables
from vit_jax.plan import advice, compiling, estimate, report, topology
from vit_jax.settings import recipe, validation


def _define_flags() -> None:
    recipe.define_flag("configs/vit_h14.py:jft")
    flags.declare_key_flag("config")
    flags.declare_key_flag("config_json")
    flags.DEFINE_list("topology", [], "As in v5e:16x16 or h100:8; none: this machine.")
    flags.DEFINE_integer("slices", 1, "How many such slices, joined by the network.")
    flags.DEFINE_bool("fast", False, "Stop before code is generated.")
    flags.DEFINE_bool("compare", False, "A table also of one variant.")
    flags.DEFINE_bool("advise", False, "Try what else would fit; several compiles.")
    flags.DEFINE_bool("json", False, "One JSON object in place of the text.")
    flags.DEFINE_float("price_per_chip_hour", None, "To say what the run costs.")
    flags.DEFINE_string(
        "keep", "", "Folder for what the compiler prints, KEEP/0 of the first compile."
    )
    for name, key in advice.VARIED.items():
        flags.DEFINE_list(name, [], f"Values of --config.{key} to compare.")


def _jobs(values: flags.FlagValues) -> list[compiling.Job]:
    """All that is to be compiled, checked before the first compile starts."""
    if values.keep:
        validation.check_local(values.keep, "--keep")
    places = [topology.parse(name, slices=values.slices) for name in values.topology]
    for place in places:
        place.compiler.check()
    if not places and (values.advise or values.slices > 1):
        raise errors.UserError("--advise and --slices want a --topology, as in v5e:4x4")
    choices: dict[str, list[Any]] = {
        name: values[name].value or [] for name in advice.VARIED
    }
    for name in ("batch_size", "microbatches"):
        try:
            choices[name] = [int(text) for text in choices[name]]
        except ValueError as error:
            raise errors.UserError(f"--{name}={choices[name]}: {error}") from error
    config = values.config.to_dict()
    here: list[topology.Topology | None] = [None]
    combined = itertools.product(advice.variants(config, choices), places or here)
    return [
        compiling.Job(
            *(variant, place, values.fast),
            keep=Path(values.keep) / str(number) if values.keep else None,
        )
        for number, (variant, place) in enumerate(combined)
    ]


def _compare(jobs: list[compiling.Job], price: float | None) -> list[dict[str, Any]]:
    """The figures of all jobs that can be; the others are named in the log."""
    plans = []
    for job in jobs:
        try:
            plans.append(estimate.plan(job, price_per_chip_hour=price))
        except errors.UserError as error:
            logging.warning("left out: %s", error)
    if not plans:
        raise errors.UserError("none of the variants can be; see the log")
    return plans


def _advise(job: compiling.Job) -> list[dict[str, Any]]:
    found = []
    assert job.topology is not None, "_jobs asks for one"
    for text, values in advice.advise(job.config, job.topology, run=compiling.run):
        logging.info("%s", text)
        found.append({"advice": text, "values": values})
    return found


def _main(argv: list[str]) -> None:
    del argv
    values = flags.FLAGS
    jobs = _jobs(values)
    if values.compare or len(jobs) > 1:
        plans = _compare(jobs, values.price_per_chip_hour)
        if values.json:
            cli.print_figures({"plans": plans})
        else:
            tables.print_lines(report.lines(plans), report.table(plans))
        return
    figures = estimate.plan(jobs[0], price_per_chip_hour=values.price_per_chip_hour)
    if values.advise:
        figures["advice"] = _advise(jobs[0])
    if values.json:
        cli.print_figures(figures)
        return
    advised = figures["advice"] if values.advise else ()
    rows = (f"advice       {row['advice']}" for row in advised)
    text = "\n".join([report.plan(figures), *rows])
    tables.print_lines(report.sections(text), text)


if __name__ == "__main__":
    _define_flags()
    cli.run(_main, parse=cli.parse_recipe)
