"""The objective of FlexiViT: classification with patches of a size drawn each step.

"One Model for All Patch Sizes" (arXiv 2212.08013). The weights are those of one patch
size; before each step their kernel and their positions are resized to another. With a
teacher each size learns what distillation has it learn; the teacher's patches stay.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax import errors, models
from vit_jax.data import catalog
from vit_jax.learning import classification, distillation, passes
from vit_jax.models import flexible
from vit_jax.types import Batch, LossFn, Metrics, Params


@dataclass(frozen=True)
class Flexible(classification.Classification):
    """A head over classes, above patches of several sizes.

    Attributes:
        patches: Sizes in pixels, each as likely; all divide the images.
        distilled: What is trained at each size, with a teacher; None: classification.
    """

    patches: Sequence[int]
    distilled: distillation.Distillation | None = None

    def outputs(self, architecture: models.Architecture) -> models.Architecture:
        """Returns the model with a head over classes and none over patches.

        Raises:
            UserError: one whose patches cannot be resized, or sizes that cannot be.
        """
        if not self.patches:
            raise errors.UserError(
                "objective='flexible' draws the size of patches, and flexible.patches "
                "is empty: want pixels, as in (8, 12, 16, 24)"
            )
        if (
            not isinstance(architecture, models.VitArchitecture)
            or architecture.resnet is not None
            or architecture.posemb not in ("learned", "none")
            or architecture.posemb_at != "stem"
        ):
            raise errors.UserError(
                f"objective='flexible' resizes patches and positions of a plain ViT; "
                f"{architecture.name} as it is configured has others: want "
                "model.posemb='learned' at the stem"
            )
        for patch in self.patches:
            architecture.replace(patch=(patch, patch))  # says what does not divide
        return super().outputs(architecture)

    def frozen(self) -> tuple[str, ...]:
        """Returns the teacher, if there is one."""
        return self.distilled.frozen() if self.distilled else ()

    def make_loss(self, bound: passes.Bound) -> LossFn:
        """Returns the loss over raw batches, at a patch size that the key draws.

        All sizes are in one program, so that it compiles once.
        """
        plain = classification.Classification(
            self.info, self.loss, self.label_smoothing
        )
        trained = self.distilled or plain
        branches = [
            trained.make_loss(with_patch(bound, patch)) for patch in self.patches
        ]

        def loss_fn(
            params: Params, batch: Batch, key: jax.Array, *teacher: Params
        ) -> tuple[jax.Array, Metrics]:
            drawn = jax.random.fold_in(key, len(self.patches))
            index = jax.random.randint(drawn, (), 0, len(self.patches))
            return jax.lax.switch(index, branches, params, batch, key, *teacher)

        return loss_fn


def make(
    info: catalog.DatasetInfo,
    *,
    patches: Sequence[int],
    loss: str,
    label_smoothing: float,
    **teacher: Any,
) -> Flexible:
    """Returns the objective of a run.

    Args:
        info: The dataset that is trained on.
        patches: As `Flexible.patches`.
        loss: A key of `losses.LOSSES`.
        label_smoothing: How much of it.
        **teacher: The other fields of `distillation.Distillation`; of an empty path
            there is none.
    """
    of_labels = (info, loss, label_smoothing)
    distilled = None
    if teacher["teacher"]:
        distilled = distillation.Distillation(*of_labels, **teacher)
    return Flexible(*of_labels, patches, distilled)


def with_patch(bound: passes.Bound, patch: int) -> passes.Bound:
    """Returns how a model is called with patches of another size, its weights resized.

    Args:
        bound: Of a ViT with learned positions at the stem, or none.
        patch: In pixels; it divides the images.
    """
    source = bound.architecture
    assert isinstance(source, models.VitArchitecture), "`outputs` has looked"
    target = source.replace(patch=(patch, patch))
    assert isinstance(target, models.VitArchitecture)
    resize = _resized(source, target)

    def enter(params: Params) -> Params:
        return resize(bound.enter(params))

    graphdef = models.abstract(target)[0]
    return dataclasses.replace(
        bound, graphdef=graphdef, architecture=target, enter=enter
    )


def _resized(
    source: models.VitArchitecture, target: models.VitArchitecture
) -> Callable[[Params], Params]:
    """From the parameters of one architecture to those of the other."""
    rows, columns = flexible.kernel_matrices(source.patch, target.patch)
    prefix, width = source.positioned, source.width

    def resize(params: Params) -> Params:
        embed = params["patch_embed"]
        kernel = jnp.einsum(
            "ap,bq,pqcd->abcd",
            *(rows, columns, embed["kernel"].astype(jnp.float32)),
            precision="highest",
        )
        changed = {"patch_embed": embed | {"kernel": kernel}}
        if source.posemb == "learned":
            table = params["posemb"]
            grid = table[:, prefix:].reshape(1, *source.grid, width)
            shape = 1, *target.grid, width
            grid = jax.image.resize(grid.astype(jnp.float32), shape, "bilinear")
            flat = grid.reshape(1, -1, width)
            first = table[:, :prefix].astype(jnp.float32)
            changed["posemb"] = jnp.concatenate([first, flat], axis=1)
        return params | changed

    return resize
