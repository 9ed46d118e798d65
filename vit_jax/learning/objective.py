"""What a run trains: an `Objective`, and the table of those there are.

An objective is a class with the methods of the Protocol, in a file of its own, and a
row here. It is made from the dataset and from its options, keys of the configuration;
its file is imported then.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax

from vit_jax import errors, models
from vit_jax.data import catalog
from vit_jax.learning import passes
from vit_jax.types import LossFn


class Objective(Protocol):
    """What the assembly of a run asks of what is trained."""

    def outputs(self, architecture: models.Architecture) -> models.Architecture:
        """Returns the architecture with the outputs that are trained, and no others.

        Raises:
            UserError: a model that cannot be trained so.
        """
        ...

    def labels(self, rows: int) -> jax.ShapeDtypeStruct:
        """Returns the shape and type of "label" in a batch, as the loader gives it."""
        ...

    def frozen(self) -> tuple[str, ...]:
        """Returns checkpoints of models that the loss reads and nobody trains.

        Each as `vit_jax.load` takes it: a teacher, for instance. The assembly lays
        their weights out over the mesh and hands them to the step.
        """
        ...

    def make_loss(self, bound: passes.Bound) -> LossFn:
        """Returns the loss of a step, over batches as the loader gives them.

        Its metrics hold "loss". Of `bound.beside` it is handed the parameters behind
        the key, one after the other.
        """
        ...

    def make_evaluation(self, bound: passes.Bound) -> Any:
        """Returns what evaluators of this objective measure, besides the forward pass.

        They alone know what it is; None where features and logits are enough.
        """
        ...


@dataclass(frozen=True)
class Row:
    """How an objective is made.

    Attributes:
        make: Called with the dataset's `DatasetInfo` and, by keyword, the options.
        options: Keys of the configuration; those in a group are given one by one.
    """

    make: Callable[..., Objective]
    options: tuple[str, ...]


def _classification(info: catalog.DatasetInfo, **options: Any) -> Objective:
    from vit_jax.learning import classification

    return classification.Classification(info, **options)


def _distillation(info: catalog.DatasetInfo, **options: Any) -> Objective:
    from vit_jax.learning import distillation

    return distillation.Distillation(info, **options)


def _flexible(info: catalog.DatasetInfo, **options: Any) -> Objective:
    from vit_jax.learning import flexible

    return flexible.make(info, **options)


def _masked_patches(info: catalog.DatasetInfo, **options: Any) -> Objective:
    from vit_jax.learning import masked

    return masked.MaskedPatches(info, **options)


def _regression(info: catalog.DatasetInfo, **options: Any) -> Objective:
    from vit_jax.learning import regression

    return regression.Regression(info, **options)


OBJECTIVES: dict[str, Row] = {
    "classification": Row(_classification, ("loss", "label_smoothing")),
    "distillation": Row(_distillation, ("loss", "label_smoothing", "distill")),
    "flexible": Row(_flexible, ("loss", "label_smoothing", "flexible", "distill")),
    "masked_patches": Row(_masked_patches, ("masked",)),
    "regression": Row(_regression, ("loss",)),
}


def make(
    name: str, info: catalog.DatasetInfo, settings: Mapping[str, Any]
) -> Objective:
    """Returns the objective of a run.

    Args:
        name: A key of `OBJECTIVES`.
        info: The dataset that is trained on.
        settings: Values by key, at least those that are the objective's options.

    Raises:
        UserError: an unknown name, or options that no run could have.
    """
    row = errors.lookup(OBJECTIVES, name, "objective")
    options: dict[str, Any] = {}
    for key in row.options:
        value = settings[key]
        options |= value if isinstance(value, Mapping) else {key: value}
    return row.make(info, **options)
