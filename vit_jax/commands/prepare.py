"""`vit_jax prepare NAME ... [--data_dir=DIR]`: datasets of TFDS, made ready.

NAME is "cifar10", "eurosat/rgb" or "cifar10:3.0.2". It is downloaded and written as
ArrayRecord, which training reads without TensorFlow; builders that need it say so. Of
several names, those that cannot be prepared are named at the end. Standard output is a
line of JSON for each that is there: splits and classes.
"""

import logging

from absl import flags

from vit_jax import cli, errors
from vit_jax.data import preparing


def _define_flags() -> None:
    flags.DEFINE_string(
        "data_dir", "", "Where to; '': $TFDS_DATA_DIR or ~/tensorflow_datasets."
    )


def _main(argv: list[str]) -> int:
    names = argv[1:]
    if not names:
        raise errors.UserError("want vit_jax prepare NAME, as in vit_jax prepare dtd")
    failed = []
    for name in names:
        try:
            info = preparing.run(name, data_dir=flags.FLAGS.data_dir)
        except errors.UserError as error:
            if len(names) == 1:
                raise
            logging.error("%s", error)
            failed.append(name)
            continue
        figures = {"dataset": name, "num_classes": info.num_classes}
        cli.print_figures(figures | {"splits": info.splits})
    if failed:
        raise errors.UserError(
            f"{len(failed)} of {len(names)} are not prepared: {errors.some(failed)}; "
            "each says above what it wants"
        )
    return errors.EXIT_DONE


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
