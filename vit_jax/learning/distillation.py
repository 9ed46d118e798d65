"""The objective of distillation: a model learns what another says of the same images.

FunMatch (arXiv 2106.05237) draws a student to its teacher's probabilities alone, both
seeing one view that is cropped, flipped and mixed; DeiT (arXiv 2012.12877) draws a
second head to the teacher's best class, and the first to the labels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax import errors, models
from vit_jax.learning import classification, losses, passes
from vit_jax.models import layers
from vit_jax.types import Batch, LossFn, Metrics, Params

# (the student's scores, the teacher's, temperature) -> float32 [b]
Distance = Callable[[jax.Array, jax.Array, float], jax.Array]


def soft(student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """Returns KL(teacher, student) of scores over a temperature, times its square."""
    wanted = jax.nn.log_softmax(teacher.astype(jnp.float32) / temperature)
    found = jax.nn.log_softmax(student.astype(jnp.float32) / temperature)
    return temperature**2 * (jnp.exp(wanted) * (wanted - found)).sum(axis=-1)


def hard(student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """Returns the cross-entropy of the student for the teacher's best class."""
    del temperature  # no class changes its place by it
    best = jax.nn.one_hot(jnp.argmax(teacher, axis=-1), teacher.shape[-1])
    return losses.softmax_xent(student, best)


KINDS: dict[str, Distance] = {"soft": soft, "hard": hard}


@dataclass(frozen=True)
class Distillation(classification.Classification):
    """A head over classes, drawn to a teacher and to the labels.

    A model with pool="distilled" has two: the first is drawn to the labels alone, the
    second to the teacher. Of another model the only one is drawn to both.

    Attributes:
        teacher: A checkpoint with a head for the same classes, as `vit_jax.load` takes.
        kind: A key of `KINDS`.
        temperature: Of "soft".
        share: How much of the loss is the teacher's; the rest is that of the labels.

    Raises:
        UserError: no teacher, labels that are numbers, or values without a meaning.
    """

    teacher: str
    kind: str
    temperature: float
    share: float

    def __post_init__(self) -> None:
        super().__post_init__()
        errors.lookup(KINDS, self.kind, "distill.kind")
        if not self.teacher:
            raise errors.UserError(
                "objective='distillation' learns from a model, and distill.teacher is "
                "empty: want a checkpoint, --config.distill.teacher=PATH"
            )
        if not self.temperature > 0 or not 0 < self.share <= 1:
            raise errors.UserError(
                f"distill.temperature={self.temperature}, distill.share={self.share}; "
                "want a temperature above 0, and a share above 0 and up to 1"
            )

    def frozen(self) -> tuple[str, ...]:
        """Returns the teacher."""
        return (self.teacher,)

    def make_loss(self, bound: passes.Bound) -> LossFn:
        """Returns the loss over raw batches, teacher and student on the same images.

        Its metrics hold "agreement", the share of images of which both say the same.
        """
        (beside,) = bound.beside
        known, wanted = beside.architecture.num_classes, self.info.num_classes
        if known != wanted:
            raise errors.UserError(
                f"distill.teacher={self.teacher} has a head of {known} classes, "
                f"{self.info.name} has {wanted}; want a teacher of the same classes"
            )
        by_labels = classification.scoring(
            loss=self.loss,
            label_smoothing=self.label_smoothing,
            num_classes=self.info.num_classes,
        )
        distance = KINDS[self.kind]

        def loss_fn(
            params: Params, batch: Batch, key: jax.Array, teacher: Params
        ) -> tuple[jax.Array, Metrics]:
            images = batch["image"]
            first, second = _scores(bound, params, images, key)
            wanted = beside.model(teacher)(beside.pixels(images))
            value, metrics = by_labels(first, batch["label"])
            far = distance(second, wanted, self.temperature).mean()
            value = self.share * far + (1.0 - self.share) * value
            agree = jnp.argmax(second, axis=-1) == jnp.argmax(wanted, axis=-1)
            agreement = agree.mean(dtype=jnp.float32)
            return value, metrics | {"loss": value, "agreement": agreement}

        return loss_fn


def _scores(
    bound: passes.Bound, params: Params, images: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What the student says in training: for the labels, and for the teacher."""
    model, architecture = bound.model(params), bound.architecture
    features = model.features(
        bound.pixels(images),
        deterministic=False,
        rngs=nnx.Rngs(dropout=key),
        placement=bound.placement,
    )
    if not isinstance(architecture, models.VitArchitecture) or (
        architecture.pool != "distilled"
    ):
        logits = model.classify(features)
        return logits, logits
    token, distilled = jnp.split(features, 2, axis=-1)
    dtype = architecture.compute_dtype
    return (
        layers.classify(model.head, token, dtype),
        layers.classify(model.head_dist, distilled, dtype),
    )
