"""`vit_jax prepare NAME [--data_dir=DIR]`: a dataset of TFDS, downloaded and prepared.

NAME is "cifar10", "eurosat/rgb" or "cifar10:3.0.2". It is written as ArrayRecord, which
training reads without TensorFlow; builders that need it say so. The last line of
standard output is JSON: splits and classes.
"""

from absl import flags

from vit_jax import cli, errors
from vit_jax.data import preparing


def _define_flags() -> None:
    flags.DEFINE_string(
        "data_dir", "", "Where to; '': $TFDS_DATA_DIR or ~/tensorflow_datasets."
    )


def _main(argv: list[str]) -> int:
    if len(argv) != 2:
        raise errors.UserError("want vit_jax prepare NAME, as in vit_jax prepare dtd")
    info = preparing.run(argv[1], data_dir=flags.FLAGS.data_dir)
    figures = {"dataset": argv[1], "num_classes": info.num_classes}
    cli.print_figures(figures | {"splits": info.splits})
    return errors.EXIT_DONE


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
