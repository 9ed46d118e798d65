"""Figures of what is inside a trained model; the study `inside` runs it.

`python -m vit_jax.studies.looks --config=CONFIG --config.init_from=WORKDIR` looks at
the first test images of `data.dataset` and prints what `claims` makes of them.
"""

import statistics

import numpy as np
from absl import flags

import vit_jax
from vit_jax import cli, errors
from vit_jax.data import catalog
from vit_jax.inspection import looking
from vit_jax.settings import recipe
from vit_jax.studies import claims, clutter
from vit_jax.weights.loaded import Loaded

IMAGES = 128


def of_photographs(loaded: Loaded, dataset: str, data_dir: str) -> dict[str, float]:
    """Returns figures of positions, filters and attention distances.

    Args:
        loaded: A model with a table of positions.
        dataset: Whose test images are looked at.
        data_dir: Where it is.
    """
    source = catalog.open_source(dataset, f"test[:{IMAGES}]", data_dir=data_dir)
    images = [source[i]["image"] for i in range(len(source))]
    found = looking.inspect(loaded, images, detailed=0)
    if found.positions is None:
        raise errors.UserError("the model has no table of positions; want one that has")
    (similarity,) = found.positions.similarity.values()
    near = claims.nearness(similarity, found.architecture.grid)
    far = claims.distances(found.distances)
    return {
        **{f"positions/{name}": value for name, value in near._asdict().items()},
        "filters/low_share": claims.low_share(found.filters.components),
        **{f"distance/{name}": value for name, value in far._asdict().items()},
    }


def of_clutter(loaded: Loaded) -> dict[str, float]:
    """Returns how much of the rollout lies in the digit's box, and the box's share."""
    test = clutter.splits()["test"]
    images = [test[i][0] for i in range(IMAGES)]
    found = looking.inspect(loaded, images, detailed=IMAGES)
    arch = found.architecture
    pairs = [
        claims.in_box(
            np.reshape(one.rollout[arch.prefix :], arch.grid), test.box(i), arch.strides
        )
        for i, one in enumerate(found.seen)
    ]
    masses, areas = zip(*pairs, strict=True)
    return {
        "rollout/box_share": statistics.fmean(masses),
        "rollout/area_share": statistics.fmean(areas),
    }


def _define_flags() -> None:
    recipe.define_flag("cifar10")
    flags.DEFINE_string("workdir", "", "Of the run; nothing is written there.")


def _main(argv: list[str]) -> None:
    del argv
    config = recipe.plain(flags.FLAGS["config"].value or {})
    data = config["data"]
    loaded = vit_jax.load(config["init_from"])
    if data["dataset"].startswith("py:"):
        figures = of_clutter(loaded)
    else:
        figures = of_photographs(loaded, data["dataset"], data["data_dir"])
    cli.print_figures({"workdir": flags.FLAGS.workdir, **figures})


if __name__ == "__main__":
    _define_flags()
    cli.run(_main, parse=cli.parse_recipe)
