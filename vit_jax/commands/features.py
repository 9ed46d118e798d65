"""`vit_jax features --checkpoint=PATH --out=FILE IMAGE ...`: an embedding each.

An IMAGE is a file, a folder, a pattern or `@LIST`, a file with a path on each line; or
`--dataset` and `--split`. FILE ends in `.npy` (names in `FILE.ids.jsonl`),
`.safetensors` or `.parquet`; a row each, in the order of the images, NaN (null in
Parquet) for one that could not be read, and why beside its name. The same command again
goes on where it ended; the exit code is 2 where no image could be read. The last line
of standard output is JSON.
"""

from absl import flags

from vit_jax import cli, errors
from vit_jax.host import programs
from vit_jax.runs.bulk import arrays, bulk_flags, features
from vit_jax.weights import pretrained


def _define_flags() -> None:
    flags.DEFINE_string("checkpoint", None, "Workdir, file, folder or URL.")
    bulk_flags.define(", ".join(arrays.FORMATS))
    flags.adopt_module_key_flags(bulk_flags)  # so that --help lists them
    flags.DEFINE_integer("layer", None, "The mean of a block's patches; -1: the last.")
    flags.DEFINE_bool("tokens", False, "All patches in the place of one vector.")
    flags.DEFINE_enum("dtype", "float32", features.DTYPES, "Of the file's numbers.")


def _main(argv: list[str]) -> int:
    given = flags.FLAGS
    if not given.checkpoint or not given.out:
        raise errors.UserError("want --checkpoint=... and --out=FILE; see --help")
    pretrained.describe(given.checkpoint)  # before a long look for images
    programs.keep()
    figures = features.run(
        given.checkpoint,
        bulk_flags.inputs(argv[1:]),
        given.out,
        layer=given.layer,
        tokens=given.tokens,
        dtype=given.dtype,
        **bulk_flags.options(),
    )
    cli.print_figures(figures)
    bulk_flags.check_some_read(figures)
    return errors.EXIT_DONE


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
