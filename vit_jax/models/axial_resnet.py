"""The axial ResNet of the paper's appendix D.6.

A post-activation ResNet in whose units two attention layers, along the columns and
then along the rows of the feature map, stand for the 3x3 convolution. Attention as in
Axial-DeepLab (arXiv 2003.07853, equation 4) with learned relative positions for
queries, keys and values; sizes, initial values, norms and epsilons are those of
scenic's `axial_resnet`. One difference: scenic's code pairs the positions of queries
with the content of the key at the query's own place, the equation, Axial-DeepLab's code
and this one with the key that is attended to.
"""

import dataclasses
import math
import re
from dataclasses import field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax import errors
from vit_jax.models import bit, layers, resnet, resnet_sizes
from vit_jax.models.architecture import Family
from vit_jax.models.roles import SIZE

PREFIX = "AxialResNet"
NAMES: tuple[str, ...] = ("AxialResNet50",)

STYLE = resnet.Style(norm_epsilon=1e-4, standardize="variance", padding="same")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AxialResNetArchitecture(bit.ResNetArchitecture):
    """An axial ResNet; see `ResNetArchitecture` for the other attributes.

    Attributes:
        heads: Of every attention layer.
    """

    family: ClassVar[str] = "axial_resnet"

    heads: int = field(default=8, metadata=SIZE)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(1, "heads")
        if self.root_width % (2 * self.heads):
            raise errors.UserError(
                f"twice heads={self.heads} must divide the {self.root_width} channels "
                "of the first stage's units: queries and keys have half of a head's."
            )


class RelativeAttention(nnx.Module):
    """Self-attention along one axis with relative positions of q, k and v."""

    def __init__(self, width: int, heads: int, length: int, *, rngs: nnx.Rngs):
        head = width // heads
        kernel = nnx.initializers.normal(1 / width)
        table = nnx.initializers.normal(1 / head)
        epsilon = STYLE.norm_epsilon
        self.qkv = Projection(width, 2 * width, kernel_init=kernel, rngs=rngs)
        self.norm_qkv = resnet.GroupNorm(2 * width, epsilon=epsilon)
        self.relative = nnx.Param(
            table(rngs.params(), (2 * head, 2 * length - 1), jnp.float32)
        )
        self.norm_out = resnet.GroupNorm(width, epsilon=epsilon)
        self.heads = heads

    def __call__(
        self, x: jax.Array, taps: dict[str, jax.Array] | None = None
    ) -> jax.Array:
        """Maps [b, n, d] to the same; `taps` gets the "attention" [b, h, n, n].

        A head of e = d / heads channels has queries and keys of e / 2 and values of e.
        With r[j - i] the column of the table for the offset from place i to j:
        logits[i, j] = q[i] k[j] + q[i] rk[j - i] + rq[j - i] k[j], not scaled, and
        out[i] = sum over j of weights[i, j] (v[j] + rv[j - i]).
        """
        b, n, d = x.shape
        e = d // self.heads
        parts = [e // 2, e]
        qkv = self.norm_qkv(self.qkv(x)).reshape(b, n, self.heads, 2 * e)
        q, k, v = jnp.split(qkv.transpose(0, 2, 1, 3), parts, axis=-1)
        offsets = jnp.arange(n)[None, :] - jnp.arange(n)[:, None] + n - 1
        table = self.relative[...].astype(x.dtype)[:, offsets]
        rq, rk, rv = jnp.split(table, parts, axis=0)
        logits = jnp.einsum("bhie,bhje->bhij", q, k)
        logits += jnp.einsum("bhie,eij->bhij", q, rk)
        logits += jnp.einsum("bhje,eij->bhij", k, rq)
        weights = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
        if taps is not None:
            taps["attention"] = weights
        weights = weights.astype(x.dtype)
        y = jnp.einsum("bhij,bhje->bhie", weights, v)
        y += jnp.einsum("bhij,eij->bhie", weights, rv)
        return self.norm_out(y.transpose(0, 2, 1, 3).reshape(b, n, d))


class Projection(nnx.Module):
    """A linear map without a bias."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel_init: layers.Initializer,
        rngs: nnx.Rngs,
    ):
        kernel = kernel_init(rngs.params(), (inputs, outputs), jnp.float32)
        self.kernel = nnx.Param(kernel)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., i] to [..., o], of x's dtype."""
        return jnp.einsum("...i,io->...o", x, self.kernel[...].astype(x.dtype))


class AxialUnit(nnx.Module):
    """Bottleneck of attention along the columns, then along the rows."""

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        stride: int,
        size: tuple[int, int],
        heads: int,
        rngs: nnx.Rngs,
    ):
        outputs, epsilon = 4 * width, STYLE.norm_epsilon
        conv: dict[str, Any] = {"size": 1, "style": STYLE, "rngs": rngs}
        projects = stride != 1 or inputs != outputs
        if projects:
            self.conv_proj = resnet.StdConv(inputs, outputs, stride=stride, **conv)
            self.norm_proj = resnet.GroupNorm(outputs, epsilon=epsilon)
        self.conv1 = resnet.StdConv(inputs, width, stride=1, **conv)
        self.norm1 = resnet.GroupNorm(width, epsilon=epsilon)
        self.vertical = RelativeAttention(width, heads, size[0], rngs=rngs)
        self.horizontal = RelativeAttention(width, heads, size[1], rngs=rngs)
        self.conv3 = resnet.StdConv(width, outputs, stride=1, **conv)
        self.norm3 = resnet.GroupNorm(outputs, epsilon=epsilon, scale=0.0)
        self.projects = projects
        self.stride = stride

    def __call__(
        self, x: jax.Array, taps: dict[str, jax.Array] | None = None
    ) -> jax.Array:
        """Maps [b, *size, inputs] to [b, h / stride, w / stride, 4 * width]."""
        y = self.attend(jax.nn.relu(self.norm1(self.conv1(x))), taps)
        if self.stride > 1:
            window = (self.stride, self.stride)
            y = nnx.avg_pool(y, window, strides=window, padding="SAME")
        y = self.norm3(self.conv3(jax.nn.relu(y)))
        if self.projects:
            x = self.norm_proj(self.conv_proj(x))
        return jax.nn.relu(x + y)

    def attend(
        self, x: jax.Array, taps: dict[str, jax.Array] | None = None
    ) -> jax.Array:
        """Maps [b, h, w, c] to the same: each column by itself, then each row."""
        b, h, w, c = x.shape
        inside: list[dict[str, jax.Array] | None] = [None, None]
        if taps is not None:
            inside = [{}, {}]
        columns = x.transpose(0, 2, 1, 3).reshape(b * w, h, c)
        x = self.vertical(columns, inside[0])
        x = x.reshape(b, w, h, c).transpose(0, 2, 1, 3)
        x = self.horizontal(x.reshape(b * h, w, c), inside[1]).reshape(b, h, w, c)
        if taps is not None:
            for name, found in zip(("column", "row"), inside):
                assert found is not None, "what is asked for is given"
                weights = found["attention"]
                taps[name] = weights.reshape(b, -1, *weights.shape[1:])
        return x


class AxialResNet(bit.Classifier):
    """Images to logits. Leaf names are public: checkpoints and rules use them."""

    def __init__(self, architecture: AxialResNetArchitecture, *, rngs: nnx.Rngs):
        arch = architecture
        sizes = resnet_sizes.stage_sizes(arch.units, arch.image_size)

        def make(
            stage: int, inputs: int, width: int, *, stride: int, rngs: nnx.Rngs
        ) -> nnx.Module:
            return AxialUnit(
                inputs,
                width,
                stride=stride,
                size=sizes[stage if stride > 1 else stage + 1],
                heads=arch.heads,
                rngs=rngs,
            )

        super().__init__(
            arch, make=make, root_norm=True, final_norm=False, style=STYLE, rngs=rngs
        )


def parse(name: str) -> dict[str, Any]:
    """Returns the fields that a name such as "AxialResNet50" gives.

    Raises:
        errors.UserError: not such a name, or an unknown depth.
    """
    found = re.fullmatch(rf"{PREFIX}(\d{{1,4}})", name)
    if not found:
        raise errors.UserError(
            f"model {name!r} is not {PREFIX} and a depth, such as 'AxialResNet50'."
            + errors.suggest(name, NAMES)
        )
    return {"units": errors.lookup(resnet_sizes.UNITS, found[1], "depth of a ResNet")}


def _attention_macs(before: tuple[int, int], after: tuple[int, int], width: int) -> int:
    """Both layers of a unit: the projections, three logit terms, two of values."""
    per_place = 7 * width * sum(before) // 2 + 2 * 2 * width * width
    return math.prod(before) * per_place


def forward_macs(arch: AxialResNetArchitecture) -> int:
    """Multiply-adds of one image's forward pass; a train step's FLOPs are 6 times it.

    Convolutions, attention and the head.
    """
    trunk = resnet_sizes.trunk_macs(
        arch.units,
        arch.root_width,
        arch.image_size,
        middle_macs=_attention_macs,
        channels=arch.channels,
    )
    return trunk + arch.feature_width * arch.num_classes


FAMILY = Family(AxialResNetArchitecture, AxialResNet, forward_macs, parse, NAMES)
