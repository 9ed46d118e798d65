"""What the commands that classify features share: where these are from."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import flags

from vit_jax import cli, errors, evaluate
from vit_jax.evaluators.features import Labelled
from vit_jax.runs import distributed, metrics
from vit_jax.runs.bulk import labelled

# Flags that say how features are computed, which those of files do not need.
_COMPUTED = ("dataset", "split", "train_split", "data_dir", "batch_size")


def define_flags() -> None:
    """Defines them."""
    flags.DEFINE_list("train", [], "Files of vit_jax features, to learn from.")
    flags.DEFINE_list("test", [], "Likewise, to classify.")
    flags.DEFINE_string("checkpoint", "", "Instead of files: computes features.")
    flags.DEFINE_string("dataset", "", "With --checkpoint; '': that of its run.")
    flags.DEFINE_string("split", "", "Of the dataset, to classify; '': test.")
    flags.DEFINE_string("train_split", "train", "Of the dataset, to learn from.")
    flags.DEFINE_string("data_dir", "", "Of TFDS; '': $TFDS_DATA_DIR.")
    flags.DEFINE_integer("batch_size", 256, "Images at a time, over all devices.")
    distributed.define_flags()


def run(
    argv: list[str],
    kind: str,
    options: Mapping[str, Any],
    measure: Callable[[Labelled, Labelled], dict[str, float]],
) -> int:
    """Prints the figures of features that are read, or of a checkpoint.

    Args:
        argv: Of the command; flags only.
        kind: Of evaluation, a key of `evaluators.EVALUATORS`.
        options: What it takes.
        measure: The figures of features to learn from and to classify.

    Raises:
        errors.UserError: bad input.
    """
    given = flags.FLAGS
    if argv[1:]:
        raise errors.UserError(f"what is {argv[1]!r}? Want flags only; see --help")
    if bool(given.checkpoint) == bool(given.train or given.test):
        raise errors.UserError(
            "want --train=FILE and --test=FILE of vit_jax features, or "
            "--checkpoint=PATH with --dataset=NAME"
        )
    if not given.checkpoint:
        cli.print_figures(_of_files(measure))
        return errors.EXIT_DONE
    with distributed.joined():
        computed: dict[str, Any] = {name: given[name].value for name in _COMPUTED}
        figures = evaluate.run(
            given.checkpoint, kind=kind, options_of_kind=options, **computed
        )
        if jax.process_index() == 0:
            cli.print_figures(figures)
    return errors.EXIT_DONE


def _of_files(
    measure: Callable[[Labelled, Labelled], dict[str, float]],
) -> dict[str, Any]:
    given = flags.FLAGS
    unused = [name for name in _COMPUTED if given[name].present]
    if unused or not (given.train and given.test):
        raise errors.UserError(
            f"--{unused[0]} wants --checkpoint"
            if unused
            else "want both --train=FILE and --test=FILE"
        )
    train, test = labelled.read(given.train), labelled.read(given.test)
    found = {name: metrics.json_number(v) for name, v in measure(train, test).items()}
    said = {"train": train.what, "test": test.what}
    return said | found | {"examples": len(test.labels)}
