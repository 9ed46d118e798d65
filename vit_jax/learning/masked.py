"""Masked patch prediction (the paper's 4.6 and B.1.2): corruption, targets, loss.

Half of an image's patch embeddings are corrupted, and the encoder's output at those
places predicts what was there. The paper leaves open, and here:

- exactly `round(rate * patches)` patches of every image are corrupted, chosen at
  random; which of the three corruptions each one gets is drawn independently;
- "a random other patch embedding" is one of another place in the same image, before
  its positions are added;
- several predictions of one patch count by their mean, and the squared distance of
  pixels scaled to [-1, 1] is a mean over the patch;
- the class token, where the pool wants one, is there though nothing is read from it, so
  that fine-tuning finds it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from vit_jax import errors
from vit_jax.data import catalog
from vit_jax.learning import losses, passes, patch_targets
from vit_jax.models.architecture import Architecture
from vit_jax.models.placement import NOWHERE, Placement
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.types import Batch, LossFn, Metrics, Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Corruption:
    """What happens to the patches of a batch.

    Attributes:
        positions: The places that are predicted, int32 [b, corrupted].
        source: Whose embedding each place gets, int32 [b, patches]; the number of
            patches stands for the mask token.
    """

    positions: jax.Array
    source: jax.Array


@dataclass(frozen=True)
class Task:
    """Masked prediction on images of one size; from `make_task`.

    Attributes:
        target: A key of `patch_targets.TARGETS`.
        rate: The share of an image's patches that are corrupted.
        mask: The share of those that become the mask token.
        replace: The share of those that get another patch's embedding; the rest stays.
        grid: The (rows, columns) of patches.
        patch: The (height, width) of a patch in pixels.
    """

    target: str
    rate: float
    mask: float
    replace: float
    grid: tuple[int, int]
    patch: tuple[int, int]

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return math.prod(self.grid)

    @property
    def corrupted(self) -> int:
        """Corrupted patches of an image."""
        return round(self.rate * self.patches)

    @property
    def outputs(self) -> int:
        """Numbers that the model gives for a patch."""
        return patch_targets.TARGETS[self.target].outputs(self.patch)

    @property
    def classes(self) -> bool:
        """Whether colours are predicted."""
        return patch_targets.TARGETS[self.target].classes

    def draw(self, keys: jax.Array) -> Corruption:
        """Draws the corruption of each image from its own key.

        Args:
            keys: Typed keys [b].
        """
        return jax.vmap(self._draw)(keys)

    def _draw(self, key: jax.Array) -> Corruption:
        order_key, kind_key, other_key = jax.random.split(key, 3)
        count, corrupted = self.patches, self.corrupted
        positions = jax.random.permutation(order_key, count)[:corrupted]
        kind = jax.random.uniform(kind_key, (corrupted,))
        offset = jax.random.randint(other_key, (corrupted,), 1, count)
        replaced = kind < self.mask + self.replace
        source = jnp.where(replaced, (positions + offset) % count, positions)
        source = jnp.where(kind < self.mask, count, source)
        whole = jnp.arange(count).at[positions].set(source)
        return Corruption(positions.astype(jnp.int32), whole.astype(jnp.int32))

    def targets(self, images: jax.Array, positions: jax.Array) -> jax.Array:
        """Returns what is to be predicted: [b, corrupted, predictions].

        Args:
            images: What the model sees, but raw: uint8 [b, height, width, 3].
            positions: Places of the corrupted patches, int32 [b, corrupted].
        """
        (rows, columns), (p, q) = self.grid, self.patch
        x = images[:, : rows * p, : columns * q]
        x = x.reshape(len(x), rows, p, columns, q, x.shape[3])
        return _at(patch_targets.TARGETS[self.target].of(x), positions)

    def loss(self, predictions: jax.Array, targets: jax.Array) -> jax.Array:
        """Returns the loss of each corrupted patch: float32 [b, corrupted].

        Args:
            predictions: What the model says, float32 [b, corrupted, outputs].
            targets: What `targets` returns, [b, corrupted, predictions].
        """
        if not self.classes:
            return jnp.square(predictions - targets).mean(axis=-1)
        logits = self._logits(predictions, targets)
        xent = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return xent.mean(axis=-1)

    def hits(self, predictions: jax.Array, targets: jax.Array) -> jax.Array:
        """Returns which colours are right: bool [b, corrupted, predictions]."""
        return jnp.argmax(self._logits(predictions, targets), axis=-1) == targets

    @staticmethod
    def _logits(predictions: jax.Array, targets: jax.Array) -> jax.Array:
        return predictions.reshape(*targets.shape, patch_targets.COLORS)


def make_task(
    architecture: Architecture,
    *,
    target: str,
    rate: float,
    mask: float,
    replace: float,
) -> Task:
    """Returns the masked prediction for a model's patches.

    Args:
        architecture: A ViT, or a hybrid: its patches are those of the pixels.
        target: A key of `patch_targets.TARGETS`.
        rate: The share of an image's patches that are corrupted.
        mask: The share of the corrupted patches that become the mask token.
        replace: The share of them that get another patch's embedding.

    Raises:
        UserError: another family of models, an unknown target, shares that are none,
            an image in which nothing can be corrupted, or a hybrid's patches that
            reach over its edge.
    """
    if not isinstance(architecture, VitArchitecture):
        raise errors.UserError(
            f"objective='masked_patches' is for Vision Transformers and hybrids, and "
            f"{architecture.name} is neither; choose another model.name"
        )
    errors.lookup(patch_targets.TARGETS, target, "masked.target")
    if min(mask, replace) < 0 or mask + replace > 1 + 1e-6:
        raise errors.UserError(
            f"masked.mask={mask} and masked.replace={replace}: want shares of the "
            "corrupted patches, together at most 1; the rest is left unchanged"
        )
    stride = architecture.resnet_stride
    patch = (architecture.patch[0] * stride, architecture.patch[1] * stride)
    result = Task(target, rate, mask, replace, architecture.grid, patch)
    if result.patches < 2 or not 1 <= result.corrupted <= result.patches:
        raise errors.UserError(
            f"masked.rate={rate} of {result.patches} patches is {result.corrupted}; "
            "want one or more: raise the rate, the image size, or take smaller patches"
        )
    spans = [g * p for g, p in zip(result.grid, patch, strict=True)]
    if any(s > size for s, size in zip(spans, architecture.image_size, strict=True)):
        raise errors.UserError(
            f"masked prediction: {architecture.name} has patches of {patch} pixels, "
            f"which reach over the edge of an image of {architecture.image_size}; "
            "want an image_size that they divide"
        )
    return result


def _at(values: jax.Array, positions: jax.Array) -> jax.Array:
    """Picks rows of [b, n, d] at positions [b, k]: [b, k, d]."""
    return jnp.take_along_axis(values, positions[:, :, None], axis=1)


def corrupt(
    embeddings: jax.Array, mask_token: jax.Array, source: jax.Array
) -> jax.Array:
    """Returns patch embeddings [b, n, d] with each place's taken from `source`.

    Args:
        embeddings: The patch embeddings [b, n, d].
        mask_token: The token [1, 1, d] that stands for place n.
        source: Places int32 [b, n] in 0..n; see `Corruption`.
    """
    shape = (embeddings.shape[0], 1, embeddings.shape[2])
    token = jnp.broadcast_to(mask_token.astype(embeddings.dtype), shape)
    return _at(jnp.concatenate([embeddings, token], axis=1), source)


def predict(
    model: Any,
    images: jax.Array,
    corruption: Corruption,
    key: jax.Array | None,
    *,
    placement: Placement = NOWHERE,
) -> jax.Array:
    """Returns the model's predictions of the corrupted patches.

    Args:
        model: A Vision Transformer with a mask token and a patch head.
        images: Normalised images, float [b, height, width, 3].
        corruption: What happens to their patches.
        key: The key of dropout; None for no dropout.
        placement: Says where tokens and weights are on a mesh.

    Returns:
        float32 [b, corrupted, patch outputs].
    """
    embeddings = model.patch_embeddings(images)
    tokens = model.tokens(corrupt(embeddings, model.mask_token[...], corruption.source))
    rngs = None if key is None else nnx.Rngs(dropout=key)
    encoded = model.encode(
        tokens, deterministic=key is None, rngs=rngs, placement=placement
    )
    # The head is wide: it sees only what is predicted.
    prefix = model.architecture.prefix
    chosen = _at(encoded, corruption.positions + prefix)
    return model.patch_logits(jnp.concatenate([encoded[:, :prefix], chosen], axis=1))


# (params, uint8 images, corruption, key of dropout or None) -> predictions
Apply = Callable[[Params, jax.Array, Corruption, jax.Array | None], jax.Array]


@dataclass(frozen=True)
class Masked:
    """A run's masked prediction.

    Attributes:
        task: What is corrupted and predicted.
        apply: The model, with the run's normalisation of images.
    """

    task: Task
    apply: Apply


@dataclass(frozen=True)
class MaskedPatches:
    """The objective: a head over patches and a mask token, and no head over classes.

    Attributes:
        info: The dataset that is trained on, whose labels nobody reads.
        target: A key of `patch_targets.TARGETS`.
        rate: The share of an image's patches that are corrupted.
        mask: The share of the corrupted patches that become the mask token.
        replace: The share of them that get another patch's embedding.
    """

    info: catalog.DatasetInfo
    target: str
    rate: float
    mask: float
    replace: float

    def _task(self, architecture: Architecture) -> Task:
        return make_task(
            architecture,
            target=self.target,
            rate=self.rate,
            mask=self.mask,
            replace=self.replace,
        )

    def outputs(self, architecture: Architecture) -> Architecture:
        """Returns the model with outputs for what is predicted; see `make_task`."""
        none = {"num_classes": 0, "pre_logits": False}
        count = self._task(architecture).outputs
        return architecture.replace(mask_token=True, patch_outputs=count, **none)

    def labels(self, rows: int) -> jax.ShapeDtypeStruct:
        """Returns the labels as the dataset has them."""
        return losses.labels_of(self.info, rows)

    def frozen(self) -> tuple[str, ...]:
        """Returns none: there is no model beside the one that is trained."""
        return ()

    def make_loss(self, bound: passes.Bound) -> LossFn:
        """Returns the loss over raw batches; see `make_loss`."""
        return make_loss(self.make_evaluation(bound))

    def make_evaluation(self, bound: passes.Bound) -> Masked:
        """Returns a run's masked prediction, as `evaluators.masked` measures it."""

        def apply(
            params: Params,
            images: jax.Array,
            corruption: Corruption,
            key: jax.Array | None,
        ) -> jax.Array:
            model, pixels = bound.model(params), bound.pixels(images)
            return predict(model, pixels, corruption, key, placement=bound.placement)

        return Masked(self._task(bound.architecture), apply)


def make_loss(masked: Masked) -> LossFn:
    """Returns `loss_fn(params, batch, key) -> (loss, metrics)`.

    The loss is a mean over the corrupted patches of the batch's "image" (uint8); the
    metrics are "loss" and, for colours, "accuracy": the share that is right.
    """
    task = masked.task

    def loss_fn(
        params: Params, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        images = batch["image"]
        draw_key, dropout_key = jax.random.split(key)
        corruption = task.draw(jax.random.split(draw_key, len(images)))
        predictions = masked.apply(params, images, corruption, dropout_key)
        targets = task.targets(images, corruption.positions)
        metrics = {"loss": task.loss(predictions, targets).mean()}
        if task.classes:
            hits = task.hits(predictions, targets)
            metrics["accuracy"] = hits.mean(dtype=jnp.float32)
        return metrics["loss"], metrics

    return loss_fn
