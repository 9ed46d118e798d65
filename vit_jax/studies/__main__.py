"""`vit_jax studies list` or `vit_jax studies run NAME [--config.KEY=VALUE ...]`.

A study compares a few ways to train: its question, the rule that decides and all its
runs are fixed in a file of vit_jax/studies/. `run` trains what is missing, each run as
its own `python -m vit_jax.main` in DIR/RUN (`inside` looks at some), and says what the
rule says of the figures. The same command again goes on where it was; beside it, on
another GPU or host, it shares the runs. --config.KEY=VALUE changes every run, as for
data.data_dir. DIR/NAME.md has the table and the verdict, DIR/results.jsonl a line a
run. Exit codes are training's, whatever the verdict; 42: run it again.
"""

import re
from pathlib import Path

from absl import flags

from vit_jax import cli, errors, studies
from vit_jax.cli import tables
from vit_jax.commands import point_queue, sweep
from vit_jax.settings import recipe, validation
from vit_jax.studies import report, running


def _define_flags() -> None:
    recipe.define_flag("cifar10")
    flags.DEFINE_string("workdir", "", "Of all runs; workdirs/study_NAME if ''.")
    flags.DEFINE_integer(
        *("retries", 3, "Starts again of a run that ends with 42 or is killed."),
        lower_bound=0,
    )
    flags.DEFINE_bool("dry_run", False, "Print the commands known so far and stop.")


def _parse(argv: list[str]) -> list[str]:
    """Parses our own flags; those of recipes are left as they are, for the runs."""
    if any(re.match(r"--?config(_json)?(=|$)", word) for word in argv):
        raise errors.UserError("--config: a study has its own recipe")
    of_runs = [word for word in argv if re.match(r"--?(no)?config\.", word)]
    rest = cli.parse_flags([word for word in argv if word not in of_runs])
    return [*rest, *of_runs]


def _list() -> None:
    for name, study in studies.STUDIES.items():
        print(f"{name}: {study.question}")


def _checked(argv: list[str]) -> tuple[str, list[str]]:
    """The name of the study and the flags of every run; "" lists."""
    words = [word for word in argv[1:] if not word.startswith("-")]
    fixed = [word for word in argv[1:] if word.startswith("-")]
    if [word.lower() for word in words] == ["list"]:
        return "", fixed
    if len(words) != 2 or words[0].lower() != "run":
        raise errors.UserError("want list, or run NAME, as in vit_jax studies list")
    study = errors.lookup(studies.STUDIES, words[1], "study")
    for word in fixed:
        key = _key(word)
        if key == "seed":
            raise errors.UserError(f"{word}: a study has its own seeds")
        if any(_key(flag) == key for flag in study.compared):
            raise errors.UserError(
                f"{word}: the runs of {words[1]} differ in {key}, or are judged by it; "
                "want a key that all of them share"
            )
    return words[1], fixed


def _key(word: str) -> str:
    """The key of the recipe that a flag sets."""
    return re.sub(r"^--?(no)?config\.", "", word).partition("=")[0]


def _main(argv: list[str]) -> int:
    given = flags.FLAGS
    name, fixed = _checked(argv)
    if not name:
        _list()
        return errors.EXIT_DONE
    workdir = Path(given.workdir or Path("workdirs", f"study_{name}"))
    validation.check_local(workdir, "--workdir")
    workdir = workdir.absolute()  # arms name the runs before them, from anywhere
    retries, dry_run = given.retries, given.dry_run
    study = studies.STUDIES[name]
    run = running.Running(name, study, workdir, fixed=fixed, retries=retries)
    points = run.before_points()
    for arm in study.arms:
        first = next(iter(study.settings_of(arm)))
        points += [*run.dev_points(arm), run.test_points(arm, first)[0]]
    for point in points:
        sweep.check(point.arguments)
    if dry_run:
        point_queue.show(run.plan(), workdir)
        return errors.EXIT_DONE
    point_queue.make(workdir)
    code = run.run()
    found = run.results()
    tables.log("", report.table(study, run.known(), found))
    cli.print_figures(
        {
            "workdir": str(workdir),
            "table": str(workdir / f"{name}.md"),
            "holds": found.holds,
            "verdict": found.verdict,
        }
    )
    return code


if __name__ == "__main__":
    _define_flags()
    cli.run(_main, parse=_parse)
