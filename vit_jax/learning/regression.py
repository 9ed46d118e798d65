"""The objective of a regression: the numbers of an image, from as many outputs."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from vit_jax import errors, models
from vit_jax.data import catalog
from vit_jax.learning import classification, losses, passes
from vit_jax.types import Batch, LossFn, Metrics, Params


def _squared(difference: jax.Array) -> jax.Array:
    return jnp.square(difference)


# Rows of `losses.OF_NUMBERS`, of the difference between outputs and labels.
LOSSES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "squared": _squared,
    "absolute": jnp.abs,
}


@dataclass(frozen=True)
class Regression:
    """A head with an output for each number of a label.

    Attributes:
        info: The dataset that is trained on, a numeric one.
        loss: A key of `LOSSES`.

    Raises:
        UserError: another loss, or labels that are classes.
    """

    info: catalog.DatasetInfo
    loss: str

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise errors.UserError(
                f"loss={self.loss!r} with objective=regression; want "
                f"{' or '.join(LOSSES)}"
            )
        if not self.info.numeric:
            raise errors.UserError(
                f"objective=regression, and the labels of {self.info.name} are "
                "classes; want --config.data.label_column=number:COLUMN"
            )

    def outputs(self, architecture: models.Architecture) -> models.Architecture:
        """Returns the model with a head and none over patches."""
        none = {"mask_token": False, "patch_outputs": 0}
        return models.with_options(architecture, none)

    def labels(self, rows: int) -> jax.ShapeDtypeStruct:
        """Returns float32 [rows, numbers]."""
        return losses.labels_of(self.info, rows)

    def frozen(self) -> tuple[str, ...]:
        """Returns none: there is no model beside the one that is trained."""
        return ()

    def make_loss(self, bound: passes.Bound) -> LossFn:
        """Returns the loss over raw batches; "loss" and "mae" are of all numbers."""
        apply, loss = classification.apply_in_training(bound), LOSSES[self.loss]

        def loss_fn(
            params: Params, batch: Batch, key: jax.Array
        ) -> tuple[jax.Array, Metrics]:
            outputs = apply(params, batch["image"], key).astype(jnp.float32)
            difference = outputs - batch["label"]
            value = loss(difference).mean()
            return value, {"loss": value, "mae": jnp.abs(difference).mean()}

        return loss_fn

    def make_evaluation(self, bound: passes.Bound) -> None:
        """Returns None: the outputs of every model's forward pass are all there is."""
