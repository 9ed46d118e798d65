"""The flags that the commands which go over many images share."""

from collections.abc import Mapping
from typing import Any

from absl import flags

from vit_jax import errors
from vit_jax.runs.bulk import inputs as inputs_lib
from vit_jax.runs.bulk import job


def define(suffixes: str) -> None:
    """Defines them.

    Args:
        suffixes: Of the files that a command writes.
    """
    flags.DEFINE_string("out", "", f"File for a row of each image: {suffixes}.")
    flags.DEFINE_string("dataset", "", "Instead of images: as evaluate takes it.")
    flags.DEFINE_string("split", "", "Of the dataset; '': test.")
    flags.DEFINE_string("data_dir", "", "Of TFDS; '': $TFDS_DATA_DIR.")
    flags.DEFINE_string("part", "", "K/N: the share K, from 0, of N machines.")
    flags.DEFINE_integer("batch_size", job.BATCH_SIZE, "Images at a time.")
    flags.DEFINE_integer("threads", 0, "That decode; 0: one a core.")
    flags.DEFINE_bool("overwrite", False, "Replace what is at --out.")


def inputs(words: list[str]) -> inputs_lib.Inputs:
    """Returns the images that a command line names.

    Raises:
        errors.UserError: none are there.
    """
    given = flags.FLAGS
    return inputs_lib.find(
        words,
        dataset=given.dataset,
        split=given.split,
        data_dir=given.data_dir,
        part=given.part,
    )


def options() -> dict[str, Any]:
    """Returns the other values, as `predictions.run` and `features.run` take them."""
    given = flags.FLAGS
    return {
        "batch_size": given.batch_size,
        "threads": given.threads,
        "overwrite": given.overwrite,
    }


def check_some_read(figures: Mapping[str, Any]) -> None:
    """Raises `UserError` for a file without a single image that could be read.

    Args:
        figures: Of `job.run`.
    """
    if figures["errors"] == figures["rows"]:
        raise errors.UserError(
            f"none of {figures['rows']} images could be read; {figures['out']} has a "
            "row for each, with what is wrong with it"
        )


def check_unused() -> None:
    """Raises `UserError` for a flag that means nothing without --out."""
    for name in ("dataset", "split", "part", "logits", "overwrite"):
        if flags.FLAGS[name].value:
            raise errors.UserError(f"--{name} wants --out=FILE as well")
