"""`vit_jax transfer CHECKPOINT TASK ... [--rates=...] [--config.KEY=VALUE ...]`.

Measures transfer as the paper does (its appendix B.1.1): each learning rate of Table 4
is trained on a part of the training set and judged on the rest of it, the dev split;
the best trains on all of it with three seeds, and the test split tells. TASK is one of
imagenet2012, imagenet_table2 (512 or 518 px, averaged), cifar10, cifar100, pets,
flowers, vtab_NAME, `vtab` for all 19, whose setting is chosen for all together, or a
dataset: folder:PATH, birds=folder:PATH, a TFDS name. The recipe is configs/finetune.py,
for BiT models HyperRule and Table 4, for Mixers 224 px; --config.KEY=VALUE changes
every run.

Rates are the paper's (sweep), one's own, or one of its authors (released) or of BiT
(hyperrule) alone; where there is one, nothing is chosen.

The same command again goes on, and beside it, on another GPU or host, it shares the
runs. What is not prepared is listed with the command that prepares it, and the rest
runs. DIR/transfer.json and DIR/transfer.md have the table, with the paper's figures.
Exit codes are training's; 42: run it again.
"""

import logging
import re
from pathlib import Path

from absl import flags

from vit_jax import cli, errors
from vit_jax.cli import tables
from vit_jax.commands import point_queue, sweep
from vit_jax.commands.transfer import model as model_lib
from vit_jax.commands.transfer import plan, table, targets
from vit_jax.settings import recipe, validation

_DATA_DIR = "--config.data.data_dir="
_MODEL = re.compile(r"[A-Za-z0-9_.+/-]*")
LONGEST_MODEL = 60  # letters
# What the protocol decides, and the flag of ours that changes it.
OURS = {
    "optimizer.lr": "--rates",
    "seed": "--seeds",
    "init_from": "the CHECKPOINT",
    "data.dataset": "a TASK",
    "data.label_column": "a TASK, as in NAME#label=COLUMN",
    "data.train_split": "--train_split",
}


def default_workdir(checkpoint: str) -> Path:
    """Returns `workdirs/transfer_ViT-B_16` for `models/ViT-B_16.npz`."""
    name = checkpoint.rstrip("/").rsplit("/", 1)[-1]
    name = re.sub(r"\.(npz|safetensors|pth?|bin)$", "", name)
    return Path("workdirs") / re.sub(r"[^A-Za-z0-9_.+-]+", "_", f"transfer_{name}"[:99])


def _define_flags() -> None:
    recipe.define_flag("configs/finetune.py:B/16,cifar10")
    text, integer = flags.DEFINE_string, flags.DEFINE_integer
    text("model", "", "As recipes call it, as in B/16; the checkpoint's own if ''.")
    text(
        "rates",
        targets.SWEEP,
        "Learning rates, or sweep, released, hyperrule: see above.",
    )
    text("seeds", "0,1,2", "Of the runs on all of the training set.")
    text("train_split", "", "Of your dataset; train if ''.")
    text(
        "dev_split",
        "",
        "Of your dataset; the last 10, 2 or 1 % of train, by its size, if ''.",
    )
    text("test_split", "", "Of your dataset; test, validation or val if ''.")
    text("workdir", "", "Of all runs; workdirs/transfer_CHECKPOINT if ''.")
    integer(
        *("retries", 3, "Starts again of a run that ends with 42 or is killed."),
        lower_bound=0,
    )
    flags.DEFINE_bool("dry_run", False, "Print the commands known so far and stop.")


def _parse(argv: list[str]) -> list[str]:
    """Parses our own flags; those of recipes are left as they are, for the runs."""
    of_runs = [word for word in argv if re.match(r"--?(no)?config\.", word)]
    rest = cli.parse_flags([word for word in argv if word not in of_runs])
    return [*rest, *of_runs]


def _checked(argv: list[str]) -> tuple[str, list[str], list[str]]:
    """The checkpoint, the tasks, and the flags of every run."""
    given = [word for word in argv[1:] if not word.startswith("-")]
    fixed = [word for word in argv[1:] if word.startswith("-")]
    if len(given) < 2:
        raise errors.UserError(
            "want a CHECKPOINT and a TASK, as in vit_jax transfer ViT-B_16.npz cifar10"
        )
    for word in fixed:
        key = re.sub(r"^--?(no)?config\.", "", word).partition("=")[0]
        if key in OURS:
            raise errors.UserError(f"{word}: the protocol has it; want {OURS[key]}")
    return given[0], targets.words(given[1:]), fixed


def _seeds(text: str) -> tuple[str, ...]:
    seeds = tuple(text.split(","))
    if not all(word.isdecimal() for word in seeds) or len(set(seeds)) < len(seeds):
        raise errors.UserError(f"--seeds={text}: want numbers, each once, as in 0,1,2")
    return seeds


def _planned(argv: list[str], workdir: Path) -> plan.Transfer:
    """The runs, checked as far as they are known."""
    given = flags.FLAGS
    checkpoint, names, fixed = _checked(argv)
    seeds, retries = _seeds(given.seeds), given.retries
    splits = targets.Splits(given.train_split, given.dev_split, given.test_split)
    rates = given.rates.split(",")
    if len(given.model) > LONGEST_MODEL or not _MODEL.fullmatch(given.model):
        raise errors.UserError(f"--model={given.model[:99]}: want a name, as in B/16")
    unread = bool(given.model) and not given.dry_run
    model = given.model or model_lib.of(checkpoint)
    dirs = [word.removeprefix(_DATA_DIR) for word in fixed if _DATA_DIR in word]
    data_dir = dirs[-1] if dirs else ""
    found = [targets.task(n, model, rates, splits, data_dir=data_dir) for n in names]
    if len({one.name for one in found}) < len(found):
        raise errors.UserError("two datasets have one name; want NAME=DATASET")
    absent = targets.missing(found, data_dir)
    about = table.About(checkpoint, model, seeds, absent, targets.groups())
    there = [one for one in found if one.name not in absent]
    for name, command in absent.items():
        logging.warning("%s is not prepared, and left out: %s", name, command)
    if not there:
        raise errors.UserError(
            "no task is prepared:\n" + "\n".join(list(absent.values())[:8])
        )
    transfer = plan.Transfer(
        *(there, workdir), about=about, fixed=fixed, retries=retries
    )
    for one in there:
        points = transfer.dev_points(one)
        for point in [*points, *transfer.test_points(one, one.settings[0])[:1]]:
            sweep.check(point.arguments)
    if unread:  # before each run says that there is none
        model_lib.of(checkpoint)
    return transfer


def _main(argv: list[str]) -> int:
    given = flags.FLAGS
    checkpoint = next((word for word in argv[1:] if not word.startswith("-")), "")
    workdir = Path(given.workdir or default_workdir(checkpoint))
    validation.check_local(workdir, "--workdir")
    dry_run = given.dry_run
    transfer = _planned(argv, workdir)
    if dry_run:
        point_queue.show(transfer.plan(), workdir)
        return errors.EXIT_DONE
    point_queue.make(workdir)
    code = transfer.run()
    results = transfer.results()
    tables.log("", table.lines(results, transfer.about))
    figures = {
        f"{one['task']}/test": one["test"] and one["test"]["mean"] for one in results
    }
    figures |= {one["of"]: one["test"]["mean"] for one in transfer.record()["means"]}
    cli.print_figures(
        {"workdir": str(workdir), "table": str(workdir / plan.TABLE), **figures}
    )
    return code


if __name__ == "__main__":
    _define_flags()
    cli.run(_main, parse=_parse)
