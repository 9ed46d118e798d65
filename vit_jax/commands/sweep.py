"""`vit_jax sweep CONFIG --grid=KEY=VALUE,... [--grid=...] [--config.KEY=VALUE ...]`.

Trains once for every combination of the grids' values, one after another, each as its
own `python -m vit_jax.main` in DIR/POINT, with its log beside it. The same command
again goes on: what is done is not run again, what was stopped goes on, what failed is
tried again. The same command beside it, on another GPU or host, shares the points.
DIR/sweep.json and DIR/sweep.md have the figures, and their mean and deviation over
values of `seed`. Exit codes are training's; 42: run it again.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from vit_jax import cli, errors
from vit_jax.cli import tables, words
from vit_jax.commands import point_queue, sweep_table
from vit_jax.commands.point_queue import Point
from vit_jax.settings import durations, packaged, recipe, validation

FILE, TABLE = "sweep.json", "sweep.md"
MOST_POINTS = 2000


def parse_grid(words: Sequence[str]) -> dict[str, list[str]]:
    """Returns the values of each key, from words like "optimizer.lr=0.1,0.3".

    A comma inside of brackets separates no values: "model.image_size=(16,16),(24,24)".

    Raises:
        UserError: no value, a key or a value twice.
    """
    grid: dict[str, list[str]] = {}
    for word in words:
        key, equals, text = word.removeprefix("config.").partition("=")
        values = re.split(r",(?![^(\[]*[)\]])", text)
        if not key or not equals or not all(values) or len(set(values)) < len(values):
            raise errors.UserError(
                f"--grid={word}; want KEY=VALUE,VALUE,... with each value once, as in "
                "--grid=optimizer.lr=0.1,0.3"
            )
        if key in grid:
            raise errors.UserError(f"--grid has {key} twice; want all values in one")
        grid[key] = values
    if not grid:
        raise errors.UserError("want --grid=KEY=VALUE,..., as in --grid=seed=0,1,2")
    return grid


def points(
    config: str, grid: Mapping[str, Sequence[str]], fixed: Sequence[str] = ()
) -> list[Point]:
    """Returns the product of the grids, the last key fastest.

    Args:
        config: The recipe, as --config takes it.
        grid: The values of each key.
        fixed: Other flags of every run.

    Raises:
        UserError: A key or value that training would refuse.
    """
    for key in grid:
        if given := [word for word in fixed if word.startswith(f"--config.{key}=")]:
            raise errors.UserError(f"{given[0]} and --grid={key}=...: which is it?")
    if math.prod(map(len, grid.values())) > MOST_POINTS:
        raise errors.UserError(f"want at most {MOST_POINTS:,} points")
    short = [key.split(".")[-1] for key in grid]
    labels = short if len(set(short)) == len(short) else list(grid)
    found = []
    for values in itertools.product(*grid.values()):
        name = "_".join(f"{a}={b}" for a, b in zip(labels, values, strict=True))
        name = point_queue.folder_name(name)
        chosen = dict(zip(grid, values, strict=True))
        words = [f"--config.{key}={value}" for key, value in chosen.items()]
        found.append(Point(name, chosen, [f"--config={config}", *fixed, *words]))
        check(found[-1].arguments)
    if len({point.name for point in found}) < len(found):
        raise errors.UserError("two points have folders of one name; want other values")
    return found


def check(arguments: Sequence[str]) -> None:
    """Raises `UserError` for what training would refuse before it opens anything."""
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)  # of the point before
    cli.parse_recipe(["sweep", *arguments])
    config = recipe.plain(flags.FLAGS["config"].value or {})
    if not durations.trains_nothing(config):
        validation.check_values(config)


class Sweep(point_queue.Queue):
    """The points of a grid; those of earlier calls stay in the table."""

    FILE = FILE

    def __init__(
        self,
        wanted: Sequence[Point],
        workdir: Path,
        *,
        retries: int,
        program: Sequence[str] = point_queue.PROGRAM,
    ):
        """Reads what earlier calls left; see `Queue`, `wanted` are the points."""
        self._wanted = wanted
        super().__init__(workdir, retries=retries, program=program)

    def plan(self) -> Sequence[Point]:
        """Returns the points."""
        return self._wanted

    def total(self) -> int:
        """Returns how many they are."""
        return len(self._wanted)

    def record(self) -> dict[str, Any]:
        """Returns means and deviations over seeds."""
        return {"over_seeds": sweep_table.over_seeds(list(self.rows.values()))}

    def pages(self) -> dict[str, str]:
        """Returns the tables."""
        return {TABLE: sweep_table.page(list(self.rows.values()))}


def default_workdir(config: str) -> Path:
    """Returns `workdirs/sweep_vit_b16-i21k` for `configs/vit_b16.py:i21k`."""
    file, _, argument = config.removeprefix(packaged.JSON).partition(":")
    name = f"{Path(file).stem}-{argument}".strip("-")
    return Path("workdirs") / re.sub(r"[^A-Za-z0-9_.+-]+", "_", f"sweep_{name}"[:180])


def _define_flags() -> None:
    recipe.define_flag("configs/vit_b16.py:i21k")
    flags.DEFINE_multi_string("grid", [], "KEY=VALUE,VALUE,...; once for each key.")
    flags.DEFINE_string("workdir", "", "Of all points; workdirs/sweep_CONFIG if ''.")
    flags.DEFINE_integer(
        *("retries", 3, "Starts again of a point that ends with 42 or is killed."),
        lower_bound=0,
    )
    flags.DEFINE_bool("dry_run", False, "Print the commands and stop.")


def _parse(argv: list[str]) -> list[str]:
    """Parses our own flags; those of recipes are left as they are, for the runs."""
    argv = words.as_config(argv)
    of_runs = [word for word in argv if re.match(r"--?(no)?config[.=]", word)]
    rest = cli.parse_flags([word for word in argv if word not in of_runs])
    named = [config] if (config := cli.config_path(of_runs)) else []
    of_runs = [word for word in of_runs if not re.match("--?config=", word)]
    return [*rest[:1], *named, *rest[1:], *of_runs]


def _main(argv: list[str]) -> int:
    given = flags.FLAGS
    config, *fixed = argv[1:] or [""]
    if not config or config.startswith("-"):
        raise errors.UserError(
            "want a CONFIG, as in vit_jax sweep quickstart --grid=..."
        )
    for word in fixed:
        if not word.startswith("-"):
            raise errors.UserError(f"what is {word!r}? Want one CONFIG, then flags")
    workdir = Path(given.workdir or default_workdir(config))
    validation.check_local(workdir, "--workdir")
    retries, dry_run = given.retries, given.dry_run
    wanted = points(config, parse_grid(given.grid), fixed)
    if dry_run:
        point_queue.show(wanted, workdir)
        return errors.EXIT_DONE
    point_queue.make(workdir)
    sweep = Sweep(wanted, workdir, retries=retries)
    code = sweep.run()
    titles = "", sweep_table.OVER_SEEDS
    for title, lines in zip(titles, sweep_table.tables(list(sweep.rows.values()))):
        tables.log(title, lines)
    counts = sweep_table.counts(sweep.rows.values())
    cli.print_figures(
        {"workdir": str(workdir), "table": str(workdir / TABLE), **counts}
    )
    return code


if __name__ == "__main__":
    _define_flags()
    cli.run(_main, parse=_parse)
