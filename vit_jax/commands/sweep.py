"""`vit_jax sweep CONFIG --grid=KEY=VALUE,... [--grid=...] [--config.KEY=VALUE ...]`.

Trains once for every combination of the grids' values, one after another, each as its
own `python -m vit_jax.main` in DIR/POINT, with its log beside it. The same command
again goes on: what is done is not run again, what was stopped goes on, what failed is
tried again. DIR/sweep.json and DIR/sweep.md have the figures, and their mean and
deviation over values of `seed`. Exit codes are training's; 42: run it again.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import math
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from vit_jax import cli, errors
from vit_jax.cli import tables, words
from vit_jax.commands import sweep_table
from vit_jax.host import files as host_files
from vit_jax.settings import durations, packaged, recipe, validation

PROGRAM = (sys.executable, "-m", "vit_jax.main")
FILE, TABLE = "sweep.json", "sweep.md"
# A run must not outlive us: the next call would start it a second time.
IN_CHILD = cli.end_with_parent if sys.platform == "linux" else None
MOST_POINTS = 2000
LONGEST_NAME = 120  # of a folder
LONGEST_ERROR = 300
NEW = {"status": "waiting", "exit_code": None, "error": "", "seconds": 0.0}


class Point(NamedTuple):
    """One run of a sweep.

    Attributes:
        name: Of its folder.
        values: Of the keys of the grid.
        arguments: Of the command that trains, without its workdir.
    """

    name: str
    values: dict[str, str]
    arguments: list[str]


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
        name = re.sub(r"[^A-Za-z0-9_.=+-]+", "-", name)
        if len(name) > LONGEST_NAME:
            name = f"{name[:100]}-{hashlib.sha1(name.encode()).hexdigest()[:12]}"
        chosen = dict(zip(grid, values, strict=True))
        words = [f"--config.{key}={value}" for key, value in chosen.items()]
        found.append(Point(name, chosen, [f"--config={config}", *fixed, *words]))
        _check(found[-1].arguments)
    if len({point.name for point in found}) < len(found):
        raise errors.UserError("two points have folders of one name; want other values")
    return found


def _check(arguments: Sequence[str]) -> None:
    """Raises `UserError` for what training would refuse before it opens anything."""
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)  # of the point before
    cli.parse_recipe(["sweep", *arguments])
    config = recipe.plain(flags.FLAGS["config"].value or {})
    if not durations.trains_nothing(config):
        validation.check_values(config)


def command(point: Point, workdir: Path, program: Sequence[str] = PROGRAM) -> list[str]:
    """Returns the words that train a point."""
    return [*program, *point.arguments, f"--workdir={workdir / point.name}"]


class Sweep:
    """The points of a sweep and what is known of each, in its folder."""

    def __init__(
        self,
        wanted: Sequence[Point],
        workdir: Path,
        *,
        retries: int,
        program: Sequence[str] = PROGRAM,
    ):
        """Reads what earlier calls left.

        Args:
            wanted: The points to run; those of earlier calls stay in the table.
            workdir: The folder, made where it is missing.
            retries: Starts after the first, of a point that ends with 42 or is killed.
            program: What trains.

        Raises:
            UserError: The folder is another sweep's.
        """
        self._wanted, self._workdir, self._program = wanted, workdir, program
        self._retries = retries
        self._child: subprocess.Popen | None = None
        self._stopped = False
        path = workdir / FILE
        known = sweep_table.read(path) if path.exists() else []
        self.rows: dict[str, dict[str, Any]] = {row["name"]: row for row in known}
        for point in wanted:
            row = self.rows.setdefault(
                point.name,
                {**point._asdict(), **NEW, "figures": {}},
            )
            if row["arguments"] != point.arguments:
                raise errors.UserError(
                    f"{workdir} has another sweep: {point.name} is "
                    f"{shlex.join(map(str, row['arguments']))} there, and "
                    f"{shlex.join(point.arguments)} here; want another --workdir"
                )

    def run(self) -> int:
        """Runs what is not done; returns 0, or the code of the first that failed."""
        codes, total = [], len(self._wanted)
        with self._passing_on(), cli.progress("points", total) as tell:
            for number, point in enumerate(self._wanted, start=1):
                if tell is not None:
                    tell(number - 1, point.name)
                row = self.rows[point.name]
                where = f"{number} of {total}: {point.name}"
                if row["status"] == "done":
                    logging.info("%s is done already", where)
                    continue
                logging.info("%s, log in %s", where, self._log(point))
                if code := self._run(point, row):
                    codes.append(code)
                logging.info("%s %s", where, sweep_table.told(row))
                self._write()
                if self._stopped:
                    return errors.EXIT_RETRY
        return codes[0] if codes else errors.EXIT_DONE

    def _run(self, point: Point, row: dict[str, Any]) -> int:
        row |= {"status": "running", "error": ""}
        self._write()
        code, out, err = errors.EXIT_RETRY, "", ""
        for _ in range(1 + self._retries):
            began = time.monotonic()
            code, out, err = self._start(point)
            row["seconds"] += round(time.monotonic() - began, 1)
            if self._stopped or not (code == errors.EXIT_RETRY or code < 0):
                break
        row["exit_code"] = code
        if code == errors.EXIT_DONE:
            try:
                figures = json.loads(out.splitlines()[-1])
                figures.pop("workdir")
            except (ValueError, IndexError, KeyError, AttributeError):
                row |= {"status": "failed", "error": "it printed no figures"}
                return errors.EXIT_BAD_INPUT
            row |= {"status": "done", "figures": figures}
        elif self._stopped:
            row["status"] = "stopped"
        else:
            row |= {"status": "failed", "error": _error(code, err)}
        return code

    def _start(self, point: Point) -> tuple[int, str, str]:
        """Runs a point's command to its end: its code, output, and what it said."""
        if self._stopped:
            return errors.EXIT_RETRY, "", ""
        log = self._log(point)
        with open(log, "a") as said:
            began = said.tell()
            self._child = subprocess.Popen(
                command(point, self._workdir, self._program),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                start_new_session=True,  # Ctrl-C reaches us alone, and we pass it on
                preexec_fn=IN_CHILD,
            )
            out, _ = self._child.communicate()
        with open(log) as said:
            said.seek(began)
            return self._child.returncode, out, said.read()

    def _log(self, point: Point) -> Path:
        return self._workdir / f"{point.name}.log"

    def _write(self) -> None:
        rows = list(self.rows.values())
        record = {"points": rows, "over_seeds": sweep_table.over_seeds(rows)}
        for name, text in {
            FILE: json.dumps(record, indent=2),
            TABLE: sweep_table.page(rows),
        }.items():
            host_files.write_whole(self._workdir / name, text)

    @contextlib.contextmanager
    def _passing_on(self) -> Iterator[None]:
        """Has a request to stop reach the run, which saves, and then end this."""

        def stop(number: int, frame: object) -> None:
            self._stopped = True
            if self._child is not None and self._child.poll() is None:
                self._child.send_signal(signal.SIGTERM)

        asked = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, stop) for number in asked}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _error(code: int, said: str) -> str:
    """The error of a run in one line, from its log."""
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    _, found, text = said.rpartition("error: ")
    lines = text.splitlines() if found else said.splitlines()[-1:]
    return f"{how}: {' '.join(lines)[:LONGEST_ERROR]}".rstrip(": ")


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
        print("\n".join(shlex.join(command(point, workdir)) for point in wanted))
        return errors.EXIT_DONE
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UserError(f"--workdir={workdir}: {error.strerror}") from error
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
