"""The figures of an evaluation that say how good a model is, before it has run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vit_jax.evaluators import classify, fewshot


class Told(NamedTuple):
    """What is known of an evaluation before it runs.

    Attributes:
        dataset: Of it, as evaluators take it.
        options: Of its kind.
        classes: How many outputs the model has.
        multi_label: Whether these are one sigmoid each.
    """

    dataset: str
    options: Mapping[str, Any]
    classes: int
    multi_label: bool


def _classify(told: Told) -> Sequence[str]:
    found = ["top1", *(["top5"] if told.classes > classify.TOP else []), "loss"]
    if told.multi_label:
        found.append("map")
        if "f1_at" in told.options and told.options["f1_at"]:
            found += ["f1_micro", "f1_macro"]
    return found


def _fewshot(told: Told) -> Sequence[str]:
    options, datasets = told.options, told.dataset.split(fewshot.BETWEEN)
    several = [f"{fewshot.short(one)}_" for one in datasets] if datasets[1:] else []
    starts = several or [""]
    seeds = 0 if fewshot.CHOICES[options["choice"]] else options["seeds"]
    return [
        *(f"{start}{k}shot" for start in ["", *several] for k in options["shots"]),
        *(
            f"{start}{k}shot_seed{seed}"
            for start in starts
            for k in options["shots"]
            for seed in range(seeds)
        ),
    ]


# By kind; of a kind without a row its first evaluation tells.
ROWS: dict[str, Callable[[Told], Sequence[str]]] = {
    "classify": _classify,
    "fewshot": _fewshot,
    "knn": lambda told: [f"{k}nn" for k in told.options["k"]],
    "probe": lambda told: ["top1", "dev"],
    "regress": lambda told: ["mse", "mae", "r2"],
    "masked": lambda told: ["loss", "accuracy"],
}


def deciding(kind: str, told: Told) -> Sequence[str]:
    """Returns the figures that tell better from worse; none where that is not known.

    Args:
        kind: A key of `evaluators.EVALUATORS`.
        told: What is known of the evaluation.
    """
    try:
        return ROWS[kind](told) if kind in ROWS else ()
    except (KeyError, TypeError):  # options that its factory refuses, and says why
        return ()
