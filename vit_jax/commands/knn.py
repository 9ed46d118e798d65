"""`vit_jax knn --train=FILE --test=FILE`: the classes of the nearest examples.

FILE is of `vit_jax features --dataset=NAME`, several by commas (the parts of several
machines); or --checkpoint=PATH [--dataset=NAME] computes the features. The k examples
with the highest cosines vote, --weights=exp by exp(cosine / temperature) as DINO's do.
The last line of standard output is JSON: "20nn" is the accuracy with --k=20.
"""

import functools

from absl import flags

from vit_jax import cli, errors
from vit_jax.commands import on_features
from vit_jax.evaluators import knn


def _define_flags() -> None:
    on_features.define_flags()
    flags.adopt_module_key_flags(on_features)  # so that --help lists them
    flags.DEFINE_list("k", ["20"], "Numbers of neighbours, a figure each.")
    flags.DEFINE_enum("weights", "exp", knn.WEIGHTS, "Of a neighbour's vote.")
    flags.DEFINE_float("temperature", 0.07, "Of --weights=exp.")


def _main(argv: list[str]) -> int:
    given = flags.FLAGS
    try:
        ks = [int(text) for text in given.k]
    except ValueError as error:
        said = errors.shown(",".join(given.k))
        raise errors.UserError(f"--k={said}; want numbers, as in 10,20") from error
    options = {"weights": given.weights, "temperature": given.temperature}
    measure = functools.partial(knn.accuracies, ks=ks, **options)
    return on_features.run(argv, "knn", {"k": ks, **options}, measure)


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
