"""`vit_jax inspect CHECKPOINT [IMAGE ...] --out=DIR`: what a ViT looks at, in pictures.

Draws as PNG and SVG, of images: attention rollout, attention by layer and head, mean
attention distance, tokens like that of one patch; and of the model: similarity of its
positions, principal components of its filters. `index.html` is one page to look through
all of it in a browser. All numbers go to `inspection.npz`, what they are to
`inspection.json`. An IMAGE is a file, a folder, a pattern or `@LIST`, or there are
`--dataset` and `--split`; without any, what needs none is drawn. `--runs` draws
learning curves, with a checkpoint or without. The last line of standard output is JSON.
"""

from absl import flags

from vit_jax import cli, errors, models
from vit_jax.inspection import figure, looking, pictures, writing
from vit_jax.runs.bulk import inputs as inputs_lib
from vit_jax.weights import pretrained

_MOST_PICTURES = 128  # in one file, which is drawn at once


def _define_flags() -> None:
    flags.DEFINE_string("out", "", "The folder that pictures and numbers go to.")
    flags.DEFINE_list("draw", [], f"{','.join(pictures.NAMES)}; none: all.")
    flags.DEFINE_list("layers", [], "Numbers of layers, 0,5,-1; none: all.")
    flags.DEFINE_list("heads", [], "Numbers of heads; none: all.")
    flags.DEFINE_list("patch", [], "ROW,COLUMN to compare others to; none: the middle.")
    flags.DEFINE_string("image_size", "", "Pixels, 384 or 384x512; '': its own.")
    flags.DEFINE_string("dataset", "", "Instead of images: as evaluate takes it.")
    flags.DEFINE_string("split", "", "Of the dataset; '': test.")
    flags.DEFINE_string("data_dir", "", "Of TFDS; '': $TFDS_DATA_DIR.")
    flags.DEFINE_integer("most", 128, "Images to look at.", lower_bound=1)
    flags.DEFINE_integer(
        *("pictures", looking.DETAILED, "Of them, with pictures."),
        lower_bound=1,
        upper_bound=_MOST_PICTURES,
    )
    flags.DEFINE_list("runs", [], "Folders of runs whose curves are drawn.")
    flags.DEFINE_list("figures", [], "Of them, loss,val/top1; none: the usual ones.")
    flags.DEFINE_float("smooth", 0.0, "Of curves: factor of a moving average, 0.9.")
    flags.DEFINE_enum("theme", "light", list(figure.THEMES), "Of the pictures.")


def _whole(name: str) -> tuple[int, ...]:
    """The numbers of a flag."""
    texts: list[str] = flags.FLAGS[name].value or []
    try:
        return tuple(int(text) for text in texts)
    except ValueError:
        raise errors.UserError(
            f"--{name}={','.join(texts)}; want whole numbers with commas, as in 0,5,-1"
        ) from None


def _patch() -> tuple[int, int] | None:
    numbers = _whole("patch")
    if not numbers:
        return None
    if len(numbers) != 2:
        raise errors.UserError(f"--patch has {len(numbers)} numbers; want ROW,COLUMN")
    return numbers[0], numbers[1]


def _asked() -> pictures.Asked:
    given = flags.FLAGS
    return pictures.Asked(
        draw=tuple(given.draw),
        layers=_whole("layers"),
        heads=_whole("heads"),
        patch=_patch(),
        runs=tuple(given.runs),
        figures=tuple(given.figures),
        smooth=given.smooth,
        theme=given.theme,
        detailed=given.pictures,
    )


def _main(argv: list[str]) -> None:
    given = flags.FLAGS
    if not given.out:
        raise errors.UserError("want --out=DIR; --help lists the flags")
    asked = _asked()
    size = models.pair(given.image_size) if given.image_size else None
    checkpoint = argv[1] if len(argv) > 1 else None
    images = None
    if checkpoint is not None:
        looking.checked(pretrained.describe(checkpoint).architecture)
        if argv[2:] or given.dataset:
            images = inputs_lib.find(
                argv[2:],
                dataset=given.dataset,
                split=given.split,
                data_dir=given.data_dir,
            )
    elif given.dataset or given.image_size:
        raise errors.UserError("--dataset and --image_size want a CHECKPOINT")
    for name, wants, has in (
        *((name, "--dataset", bool(given.dataset)) for name in ("split", "data_dir")),
        *((name, "images", images is not None) for name in ("most", "pictures")),
    ):
        if given[name].present and not has:
            raise errors.UserError(f"--{name} means nothing without {wants}")
    cli.print_figures(
        writing.run(
            checkpoint, images, given.out, asked, image_size=size, most=given.most
        )
    )


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
