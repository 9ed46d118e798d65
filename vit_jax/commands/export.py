"""`vit_jax export CHECKPOINT --format=FORMAT --out=PATH`: a model for other tools.

FORMAT is stablehlo (jax.export, for CPU, CUDA and TPU in one file), savedmodel, tflite
or onnx. Normalisation and labels are inside; the file takes uint8 images of the model's
size, a batch of any size. It is run with the other tool before it counts. The last line
of standard output is JSON.
"""

from absl import flags

from vit_jax import cli, errors
from vit_jax.weights.exporting import formats, writing


def _define_flags() -> None:
    flags.DEFINE_enum("format", "stablehlo", list(formats.FORMATS), "Of the file.")
    flags.DEFINE_string("out", "", "The file, or the folder of a savedmodel.")
    flags.DEFINE_integer(
        "image_size", None, "Pixels of a side; the checkpoint's.", lower_bound=1
    )


def _main(argv: list[str]) -> None:
    given = flags.FLAGS
    if len(argv) != 2 or not given.out:
        raise errors.UserError("want one CHECKPOINT and --out=PATH; see --help")
    cli.print_figures(
        writing.export(
            argv[1], given.out, format=given.format, image_size=given.image_size
        )
    )


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
