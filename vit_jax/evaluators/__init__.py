"""What is measured on a model: `EVALUATORS` by name, each a factory of functions.

An evaluator is a file with a factory, a row here, and a function in `configs/base.py`
that makes its options. The options are the keyword-only parameters of the factory.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax import errors
from vit_jax.evaluators import batches, classify, fewshot, masked
from vit_jax.evaluators.context import Context, Datasets
from vit_jax.types import Evaluator

__all__ = ["EVALUATORS", "Context", "Datasets", "Evaluator", "batches", "make"]

# (context, *, dataset, split, and options of its own) -> evaluator
EVALUATORS: dict[str, Callable[..., Evaluator]] = {
    "classify": classify.evaluator,
    "fewshot": fewshot.evaluator,
    "masked": masked.evaluator,
}

# Keys of an evaluation that say which, when and whether, and nothing of what it does.
_OF_THE_RUN = {"type", "every", "optional"}


def make(options: Mapping[str, Any], context: Context) -> Evaluator:
    """Opens the splits of a dataset and returns the evaluator over them.

    Args:
        options: "type", a key of `EVALUATORS`; "dataset" and "split", "" for the usual
            ones; and the options of that type.
        context: What is evaluated.

    Raises:
        UserError: an unknown type, dataset or split; a dataset that is not prepared;
            an option that is missing or unknown; what the type cannot measure.
    """
    kind = options["type"]
    factory = errors.lookup(EVALUATORS, kind, "evaluator type")
    given = {key: value for key, value in options.items() if key not in _OF_THE_RUN}
    _check_options(kind, factory, given)
    return factory(context, **given)


def _check_options(
    kind: str, factory: Callable[..., Evaluator], given: Mapping[str, Any]
) -> None:
    """Raises `UserError` unless the options given are the factory's."""
    parameters = inspect.signature(factory).parameters.values()
    wanted = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    missing = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in wanted]
    if missing or unknown:
        lacks = f"lacks {', '.join(missing)}" if missing else ""
        has = f"has no option {', '.join(unknown)}" if unknown else ""
        raise errors.UserError(
            f"an evaluation of type {kind!r} {' and '.join(filter(None, (lacks, has)))}"
            f"; it takes {', '.join(wanted)}: make it with base.{kind}(...)"
        )
