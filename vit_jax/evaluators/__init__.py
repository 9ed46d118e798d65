"""What is measured on a model: `EVALUATORS` by name, each a factory of functions.

An evaluator is a file with a factory, a row here, and a function that makes its options
in `configs/base_evals.py`. The options are the keyword-only parameters of the factory.
A row is a function that imports the file, so that a run loads what it measures alone.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax import errors
from vit_jax.evaluators.context import Context, Datasets, Resized
from vit_jax.settings import sections
from vit_jax.types import Evaluator

__all__ = [
    "EVALUATORS",
    "Context",
    "Datasets",
    "Evaluator",
    "Resized",
    "make",
    "options_of",
]

# (context, *, dataset, split, and options of its own) -> evaluator
Factory = Callable[..., Evaluator]


def _classify() -> Factory:
    from vit_jax.evaluators import classify

    return classify.evaluator


def _fewshot() -> Factory:
    from vit_jax.evaluators import fewshot

    return fewshot.evaluator


def _masked() -> Factory:
    from vit_jax.evaluators import masked

    return masked.evaluator


def _knn() -> Factory:
    from vit_jax.evaluators import knn

    return knn.evaluator


def _probe() -> Factory:
    from vit_jax.evaluators import probe

    return probe.evaluator


def _regress() -> Factory:
    from vit_jax.evaluators import regress

    return regress.evaluator


EVALUATORS: dict[str, Callable[[], Factory]] = {
    "classify": _classify,
    "fewshot": _fewshot,
    "masked": _masked,
    "knn": _knn,
    "probe": _probe,
    "regress": _regress,
}


def make(options: Mapping[str, Any], context: Context) -> Evaluator:
    """Opens the splits of a dataset and returns the evaluator over them.

    Args:
        options: "type", a key of `EVALUATORS`; "dataset" and "split", "" for the usual
            ones; how images are prepared, see `images.prepared`, where not as in the
            run; and the options of that type.
        context: What is evaluated.

    Raises:
        UserError: an unknown type, dataset or split; a dataset that is not prepared;
            an option that is missing or unknown; what the type cannot measure.
    """
    kind = options["type"]
    own = {key: options[key] for key in sections.EVAL_IMAGES if key in options}
    elsewhere = (*sections.EVAL_OF_THE_RUN, *own)
    given = {k: v for k, v in options.items() if k not in elsewhere}
    _check_options(kind, given)
    context, fit = context.seeing(**own)
    evaluate = EVALUATORS[kind]()(context, **given)
    return lambda params: evaluate(fit(params))


def options_of(kind: str) -> list[str]:
    """Returns the options of a kind of evaluation, "dataset" and "split" among them.

    Raises:
        UserError: an unknown kind.
    """
    return [option.name for option in _options(kind)]


def _options(kind: str) -> list[inspect.Parameter]:
    factory = errors.lookup(EVALUATORS, kind, "evaluator type")()
    parameters = inspect.signature(factory).parameters.values()
    return [p for p in parameters if p.kind is p.KEYWORD_ONLY]


def _check_options(kind: str, given: Mapping[str, Any]) -> None:
    """Raises `UserError` unless the options given are the kind's."""
    wanted = options_of(kind)
    missing = [
        option.name
        for option in _options(kind)
        if option.name not in given and option.default is option.empty
    ]
    unknown = [name for name in given if name not in wanted]
    if missing or unknown:
        lacks = f"lacks {', '.join(missing)}" if missing else ""
        has = f"has no option {', '.join(unknown)}" if unknown else ""
        raise errors.UserError(
            f"an evaluation of type {kind!r} {' and '.join(filter(None, (lacks, has)))}"
            f"; it takes {', '.join(wanted)}: make it with base.{kind}(...)"
        )
