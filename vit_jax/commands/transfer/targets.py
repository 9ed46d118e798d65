"""From words to tasks: rows of `configs/tasks.py`, datasets in the row of a size."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vit_jax import errors
from vit_jax.data import catalog
from vit_jax.settings import naming, packaged

VTAB = "vtab"  # all of its tasks
SWEEP, RELEASED, HYPERRULE = "sweep", "released", "hyperrule"
_UNSAFE = re.compile(r"[^A-Za-z0-9_.+-]+")
_NAMED = re.compile(r"([A-Za-z][\w.-]*)=(.+)")


class Setting(NamedTuple):
    """What is chosen on the dev split.

    Attributes:
        name: In tables and folders.
        words: What the recipe's argument ends with.
        flags: Of training.
    """

    name: str
    words: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


class Task(NamedTuple):
    """A dataset to transfer to.

    Attributes:
        name: In tables and folders.
        words: Of the recipe's argument.
        dataset: With its label, as the catalog takes it.
        settings: To choose among.
        part: Flags of training for the dev split, of a dataset of the user's.
        whole: Likewise for all of the training set.
        shared: Tasks with the same value take the same setting, the best on average;
            "" takes its own.
    """

    name: str
    words: tuple[str, ...]
    dataset: str
    settings: tuple[Setting, ...]
    part: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    shared: str = ""


class Splits(NamedTuple):
    """Of datasets of the user's; "" is the protocol's."""

    train: str
    dev: str
    test: str


def known() -> Mapping[str, Any]:
    """Returns the rows of `configs/tasks.py` by their names."""
    with packaged.importable():
        from configs import tasks

        return tasks.TASKS


def groups() -> dict[str, str]:
    """Returns the group of each task of VTAB, in their order."""
    with packaged.importable():
        from configs import tasks

        return {name: task.group for name, task in tasks.VTAB.items()}


def settings(model: str, name: str, rates: Sequence[str]) -> tuple[Setting, ...]:
    """Returns the settings of a task.

    Args:
        model: As recipes call it. BiT's are its HyperRule, and the paper's as well.
        name: A key of `configs.tasks.TASKS` or `OTHERS`.
        rates: "sweep", "released", "hyperrule", or learning rates.

    Raises:
        UserError: something else, or the rule of BiT for another model.
    """
    with packaged.importable():
        from configs import tasks

        row = {**tasks.TASKS, **tasks.OTHERS}[name]
        released = tasks.default_rate(model, name)
    bit = model.startswith("BiT-")
    rule = [Setting(HYPERRULE)] if bit else []
    if list(rates) == [HYPERRULE]:
        if not bit:
            raise errors.UserError(f"--rates=hyperrule is of BiT; the model is {model}")
        return tuple(rule)
    wanted = {SWEEP: row.sweep, RELEASED: (released,)}
    if len(rates) == 1 and rates[0] in wanted:
        found = [float(rate) for rate in wanted[rates[0]]]
        rule = rule if rates[0] == SWEEP else []
    else:
        found, rule = [_rate(word) for word in rates], []
        if len(set(found)) < len(found):
            raise errors.UserError(f"--rates={','.join(rates)}: want each once")
    words = ("table4",) if bit else ()
    return tuple(rule) + tuple(
        Setting(f"lr={rate:g}", words, (f"--config.optimizer.lr={rate!r}",))
        for rate in found
    )


def _rate(word: str) -> float:
    try:
        rate = float(word)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise errors.UserError(
            f"--rates: what is {word!r}? Want rates, as in 0.003,0.01, or one of "
            f"{SWEEP} (the paper's), {RELEASED} (its authors' default), {HYPERRULE} "
            "(BiT's)"
        )
    return rate


def task(
    word: str,
    model: str,
    rates: Sequence[str],
    splits: Splits,
    *,
    data_dir: str,
) -> Task:
    """Returns a task by its name, or that of a dataset, which NAME= may call.

    Raises:
        UserError: a dataset that is not there, or whose splits are not said.
    """
    rows = known()
    if word in rows:
        row = rows[word]
        dataset = naming.join(row.dataset, naming.Columns(label=row.label))
        shared = VTAB if row.group else ""
        return Task(word, (word,), dataset, settings(model, word, rates), shared=shared)
    match = _NAMED.fullmatch(word)
    name, word = (match[1], match[2]) if match else (_short(word), word)
    info = catalog.describe(word, data_dir=data_dir)
    train = splits.train or "train"
    size = _size(catalog.num_examples(info, train))
    part, whole = _flags(word, train, splits, info)
    return Task(
        *(name, ("dataset", size), word, settings(model, size, rates)),
        part=(f"--config.data.dataset={word}", *part),
        whole=(f"--config.data.dataset={word}", *whole),
    )


def _short(word: str) -> str:
    """The last word of a dataset's name that is no pattern."""
    parts = re.split("[/:]", naming.split(word)[0].rstrip("/"))
    plain = [part for part in parts if part and not re.search(r"[*?{}\[\]]", part)]
    return _UNSAFE.sub("-", plain[-1] if plain else word)[:60]


def _size(examples: int) -> str:
    with packaged.importable():
        from configs import tasks

        below = (n for n, most in tasks.RULE_BELOW.items() if examples < most)
        return next(below, list(tasks.OTHERS)[-1])


def _flags(
    word: str, train: str, splits: Splits, info: catalog.DatasetInfo
) -> tuple[list[str], list[str]]:
    """Flags of the splits of a dataset, on the dev split and on the test's."""
    if train != "train" and not splits.dev:
        raise errors.UserError(
            f"--train_split={train}: want a --dev_split to choose the rate on, too"
        )
    if not splits.test and not set(catalog.TEST_SPLITS) & set(info.splits):
        raise errors.UserError(
            f"{word} has the splits {', '.join(info.splits)}: want --test_split, and "
            "--train_split and --dev_split beside it"
        )
    for split in filter(None, (splits.dev, splits.test)):
        catalog.num_examples(info, split)
    part = [f"--config.data.train_split={train}"] if splits.dev else []
    part += [f"--config.evals.dev.split={splits.dev}"] if splits.dev else []
    whole = [f"--config.data.train_split={train}"]
    whole += [f"--config.evals.test.split={splits.test}"] if splits.test else []
    return part, whole


def words(given: Sequence[str]) -> list[str]:
    """Returns the tasks that words name: "cifar10,pets", "vtab", datasets.

    Raises:
        UserError: none, or one twice.
    """
    rows, found = known(), []
    for word in given:
        parts = word.split(",")
        found += parts if all(p in rows or p == VTAB for p in parts) else [word]
    at = found.index(VTAB) if VTAB in found else -1
    if at >= 0:
        found[at : at + 1] = [f"vtab_{name}" for name in groups()]
    if not found or len(set(found)) < len(found):
        raise errors.UserError(
            f"want tasks, each once: {', '.join(rows)}, {VTAB} for all of its, or the "
            "name of a dataset, as in folder:PATH or birds=folder:PATH"
        )
    return found


def missing(tasks: Sequence[Task], data_dir: str) -> dict[str, str]:
    """Returns the command that prepares each task that is not prepared."""
    found = {}
    place = f" --data_dir={shlex.quote(data_dir)}" if data_dir else ""
    for one in tasks:
        if not catalog.describe(one.dataset, data_dir=data_dir).prepared:
            name = naming.split(one.dataset)[0]
            found[one.name] = f"vit_jax prepare {shlex.quote(name)}{place}"
    return found
