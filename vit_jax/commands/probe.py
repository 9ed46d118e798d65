"""`vit_jax probe --train=FILE --test=FILE`: logistic regression on features.

FILE is of `vit_jax features --dataset=NAME`, several by commas (the parts of several
machines); or --checkpoint=PATH [--dataset=NAME] computes the features. What is
minimised is scikit-learn's LogisticRegression with C = 1 / (l2 * examples), by L-BFGS;
of several --l2 the best on a tenth of the training examples, held out, is taken. The
last line of standard output is JSON. `configs/probe.py` trains a head by SGD instead.
"""

import functools

from absl import flags

from vit_jax import cli, errors
from vit_jax.commands import on_features
from vit_jax.evaluators import probe


def _define_flags() -> None:
    on_features.define_flags()
    flags.adopt_module_key_flags(on_features)  # so that --help lists them
    flags.DEFINE_list("l2", [f"{l2:g}" for l2 in probe.L2S], "Penalties to choose of.")
    flags.DEFINE_integer("max_iterations", probe.ITERATIONS, "Of L-BFGS, at most.")


def _main(argv: list[str]) -> int:
    given = flags.FLAGS
    try:
        l2 = [float(text) for text in given.l2]
    except ValueError as error:
        raise errors.UserError(f"--l2: {error}; want numbers, as in 1e-4") from error
    options = {"l2": l2, "max_iterations": given.max_iterations}
    measure = functools.partial(probe.figures, **options)
    return on_features.run(argv, "probe", options, measure)


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
