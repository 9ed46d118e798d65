"""`Model`: what all families of models do, and what each must say of its own."""

import abc
import math
from collections.abc import Sequence
from typing import Any, ClassVar, overload

import jax
from flax import nnx

from vit_jax import errors
from vit_jax.models import inputs, layers
from vit_jax.models.architecture import Architecture, summary
from vit_jax.models.placement import NOWHERE, Placement
from vit_jax.types import Images

# Where a forward pass leaves what is inside, by name; None: nobody asked.
Taps = dict[str, jax.Array] | None


class Model(nnx.Module):
    """Images to logits. Leaf names are public: checkpoints and rules use them.

    `print(model)` is one line, `flax.nnx.display(model)` all of it.

    Attributes:
        architecture: All that decides its parameters and its forward pass.
        deterministic: Whether nothing is dropped; `train()` and `eval()` set it.
        head: From features to logits; None: there is none.
    """

    architecture: Architecture
    deterministic: bool
    head: layers.Linear | None
    maps: ClassVar[str] = "blocks"  # what `features` numbers its layers by

    def __call__(
        self,
        images: Images,
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | None = None,
        placement: Placement = NOWHERE,
    ) -> jax.Array:
        """Returns logits [b, classes], or the features without a head.

        Args:
            images: float [b, height, width, channels], normalised (the released
                weights expect [-1, 1]), of the architecture's size, or of any if it is
                for `any_size`.
            deterministic: No dropout, no branch dropped; None: as `train()` or
                `eval()`, the default, left it.
            rngs: Source of the dropout keys (its stream "dropout"); needed when
                something is to be dropped.
            placement: Of tokens, feature maps and weights on a mesh.

        Returns:
            float32. With pool="none" [b, n, classes]: the logits of every token.

        Raises:
            errors.UserError: images of another shape or of an integer dtype; nothing to
                draw dropout from.
        """
        features = self._features(
            images, None, deterministic=deterministic, rngs=rngs, placement=placement
        )
        return self.classify(features)

    def train(self, **attributes: Any) -> None:
        """Turns dropout on, as all NNX modules do."""
        super().train(**attributes)

    def eval(self, **attributes: Any) -> None:
        """Turns dropout off, as all NNX modules do."""
        super().eval(**attributes)

    @overload
    def features(
        self,
        images: Images,
        *,
        reshape: bool = True,
        norm: bool = False,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | None = None,
        placement: Placement = NOWHERE,
    ) -> jax.Array: ...

    @overload
    def features(
        self,
        images: Images,
        *,
        layers: Sequence[int],
        reshape: bool = True,
        norm: bool = False,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | None = None,
        placement: Placement = NOWHERE,
    ) -> tuple[jax.Array, ...]: ...

    def features(
        self,
        images: Images,
        *,
        layers: Sequence[int] | None = None,
        reshape: bool = True,
        norm: bool = False,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | None = None,
        placement: Placement = NOWHERE,
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Returns what feeds the head, or what comes out of some layers.

        Args:
            images: As the call's, as all that is not named here.
            layers: Blocks, or stages of a ResNet, from 0, or from -1 at the end; None:
                what feeds the head.
            reshape: Of layers: whether patches are put on their grid.
            norm: Of layers: whether the tokens go through the final LayerNorm.
            deterministic: See the call.
            rngs: See the call.
            placement: See the call.

        Returns:
            float32 [b, architecture.feature_width], or with pool="none" [b, n, d]. Of
            layers a tuple, for each [b, rows, columns, d], or without `reshape`
            [b, rows * columns, d]: without the tokens before the patches.

        Raises:
            errors.UserError: images that the call refuses; a layer that is not there.
        """
        how: dict[str, Any] = {
            "deterministic": deterministic,
            "rngs": rngs,
            "placement": placement,
        }
        if layers is None:
            return self._features(images, None, **how)
        taps: dict[str, jax.Array] = {}
        self._features(images, taps, **how)
        names = [name for name in taps if name.startswith(f"{self.maps}/")]
        for layer in layers:
            if not -len(names) <= layer < len(names):
                raise errors.UserError(
                    f"layers={tuple(layers)}: this {self.architecture.name} has "
                    f"{len(names)} {self.maps}; want numbers from 0 to "
                    f"{len(names) - 1}, or from -1 back."
                )
        found = (self._map(taps[names[layer]], norm) for layer in layers)
        if reshape:
            return tuple(found)
        return tuple(x.reshape(x.shape[0], -1, x.shape[-1]) for x in found)

    def classify(self, features: jax.Array) -> jax.Array:
        """Maps features to logits, float32; without a head, returns the features."""
        return layers.classify(self.head, features, self.architecture.compute_dtype)

    def intermediates(self, images: Images) -> dict[str, jax.Array]:
        """Returns what is inside a forward pass in which nothing is dropped, by name.

        Args:
            images: As the call's.

        Returns:
            "stages/0", ...: feature maps [b, rows, columns, c] of a ResNet's stages.
            "blocks/0", ...: tokens [b, n, d] after each block.
            "attention/0", ...: float32 [b, h, q, k], each block's probabilities.
            Axial blocks have "attention/0/row" [b, rows, h, columns, columns] and
            "attention/0/column" [b, columns, h, rows, rows] in its place, units of an
            axial ResNet the same by stage and unit, as "attention/0/0/row".
            "features": what feeds the head. What a family does not have is not there.
        """
        taps: dict[str, jax.Array] = {}
        features = self._features(
            images, taps, deterministic=True, rngs=None, placement=NOWHERE
        )
        return taps | {"features": features}

    def check_images(self, images: Images) -> None:
        """Raises `UserError` unless the call takes these images."""
        inputs.check_images(images, self.architecture)

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(self)))
        count = sum(math.prod(leaf.shape) for leaf in leaves)
        what = summary(self.architecture)
        return f"{type(self).__name__}({what}, {count:,} parameters)"

    __str__ = __repr__  # Flax has its own

    @abc.abstractmethod
    def _features(
        self,
        images: Images,
        taps: Taps,
        *,
        deterministic: bool | None,
        rngs: nnx.Rngs | None,
        placement: Placement,
    ) -> jax.Array:
        """What feeds the head; what is inside goes into `taps` if there are any."""

    @abc.abstractmethod
    def _map(self, tapped: jax.Array, norm: bool) -> jax.Array:
        """What a layer put out as a map [b, rows, columns, d]."""


def named_layers(stacked: dict[str, jax.Array], depth: int) -> dict[str, jax.Array]:
    """Returns "blocks/3" and "attention/3/row" of stacked "blocks", "attention/row"."""
    named = {}
    for i in range(depth):
        for name, leaf in stacked.items():
            first, slash, rest = name.partition("/")
            named[f"{first}/{i}{slash}{rest}"] = leaf[i]
    return named
