"""The objective of classification: the labels of an image, from its class scores."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax import errors, models
from vit_jax.data import catalog
from vit_jax.learning import losses, passes
from vit_jax.types import Batch, LossFn, Metrics, Params

# (params, raw images, key) -> logits [b, classes], in training mode
Apply = Callable[[Params, jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class Classification:
    """A head over classes, trained with a key of `losses.LOSSES`.

    Attributes:
        info: The dataset that is trained on.
        loss: A key of `losses.LOSSES`.
        label_smoothing: How much of it; 0 is off, its meaning is the loss's own.

    Raises:
        UserError: labels that are numbers.
    """

    info: catalog.DatasetInfo
    loss: str
    label_smoothing: float

    def __post_init__(self) -> None:
        if self.info.numeric:
            raise errors.UserError(
                f"the labels of {self.info.name} are numbers and no classes; want "
                "--config.objective=regression --config.loss=squared"
            )

    def outputs(self, architecture: models.Architecture) -> models.Architecture:
        """Returns the model with a head over classes and none over patches."""
        none = {"mask_token": False, "patch_outputs": 0}
        return models.with_options(architecture, none)

    def labels(self, rows: int) -> jax.ShapeDtypeStruct:
        """Returns the labels as the dataset has them."""
        return losses.labels_of(self.info, rows)

    def frozen(self) -> tuple[str, ...]:
        """Returns none: there is no model beside the one that is trained."""
        return ()

    def make_loss(self, bound: passes.Bound) -> LossFn:
        """Returns the loss over raw batches; see `make_loss`."""
        return make_loss(
            apply_in_training(bound),
            loss=self.loss,
            label_smoothing=self.label_smoothing,
            num_classes=self.info.num_classes,
        )

    def make_evaluation(self, bound: passes.Bound) -> None:
        """Returns None: the logits of every model's forward pass are all there is."""


def apply_in_training(bound: passes.Bound) -> Apply:
    """Returns `(params, raw images, key) -> logits`, dropout drawn from the key."""

    def apply(params: Params, images: jax.Array, key: jax.Array) -> jax.Array:
        return bound.model(params)(
            bound.pixels(images),
            deterministic=False,
            rngs=nnx.Rngs(dropout=key),
            placement=bound.placement,
        )

    return apply


def make_loss(
    apply: Apply, *, loss: str, label_smoothing: float, num_classes: int
) -> LossFn:
    """Returns `loss_fn(params, batch, key) -> (loss, {"loss", "accuracy"})`.

    The batch holds "image" and "label" (int [b], multi-hot or mixed [b, classes]). Both
    figures are means over the batch; accuracy looks at the labels unsmoothed.

    Args:
        apply: Goes from parameters, images and a key to logits, in training mode.
        loss: A key of `losses.LOSSES`.
        label_smoothing: How much of it; 0 is off, its meaning is the loss's own.
        num_classes: The width of the logits.

    Raises:
        UserError: unknown loss, or one without the smoothing that is asked for.
    """
    scored = scoring(
        loss=loss, label_smoothing=label_smoothing, num_classes=num_classes
    )

    def loss_fn(
        params: Params, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        return scored(apply(params, batch["image"], key), batch["label"])

    return loss_fn


def scoring(
    *, loss: str, label_smoothing: float, num_classes: int
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, Metrics]]:
    """Returns what goes from logits and labels to `make_loss`'s figures; see there."""
    chosen = errors.lookup(losses.LOSSES, loss, "loss")
    if label_smoothing and chosen.smooth is None:
        raise errors.UserError(
            f"label_smoothing={label_smoothing} with loss={loss!r}, which takes every "
            "target above 0 for 1: want 0.0"
        )

    def scored(logits: jax.Array, given: jax.Array) -> tuple[jax.Array, Metrics]:
        labels = targets = losses.multi_hot(given, num_classes)
        if label_smoothing and chosen.smooth is not None:
            targets = chosen.smooth(labels, label_smoothing)
        value = chosen.per_example(logits, targets).mean()
        accuracy = losses.is_hit(logits, labels).mean(dtype=jnp.float32)
        return value, {"loss": value, "accuracy": accuracy}

    return scored
