"""BiT ResNets: the CNN baseline of the paper (section 4.1), in both published forms.

"BiT-R50x1" has the pre-activation units of the BiT paper (arXiv 1912.11370, section
3.3; google-research/big_transfer and big_vision's `bit_paper`), "BiT-R50x1-post" the
post-activation ones of big_vision's `bit`, which are also those of the hybrids.
"""

import dataclasses
import re
from dataclasses import field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax import errors
from vit_jax.models import layers, model, resnet, resnet_sizes
from vit_jax.models.architecture import Architecture, Family
from vit_jax.models.placement import Placement
from vit_jax.models.roles import MEANING, RUN, SIZE, role
from vit_jax.types import Images

NAMES: tuple[str, ...] = (
    *("BiT-R26x1", "BiT-R50x1", "BiT-R50x2", "BiT-R50x3", "BiT-R101x1", "BiT-R101x3"),
    *("BiT-R152x1", "BiT-R152x2", "BiT-R152x4", "BiT-R200x3"),
    *("BiT-R50x1-post", "BiT-R152x2-post", "BiT-R152x4-post"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetArchitecture(Architecture):
    """What the ResNets with a head of their own have in common.

    Attributes:
        units: Of each stage.
        width: The factor after the "x" of the name: the root has 64 * width channels, a
            multiple of 32, and stage i puts out 256 * width * 2^i, i from 0.
        remat: What the backward pass computes again: "none", or "full": the inside of
            every unit.
    """

    units: tuple[int, ...]
    width: float = field(default=1, metadata=SIZE)
    remat: str = field(default="none", metadata=role(RUN))

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {"remat": ("none", "full")}

    def __post_init__(self) -> None:
        super().__post_init__()
        resnet_sizes.check_units(self.units, 64 * self.width)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of cells of the last feature map."""
        return resnet_sizes.stage_sizes(self.units, self.image_size)[-1]

    @property
    def root_width(self) -> int:
        """Channels of the root."""
        return int(64 * self.width)

    @property
    def feature_width(self) -> int:
        """Channels of what feeds the head."""
        return 4 * self.root_width * 2 ** (len(self.units) - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BitArchitecture(ResNetArchitecture):
    """A BiT ResNet; see `ResNetArchitecture` for the other attributes.

    Attributes:
        form: "pre" activation (ResNet-v2) or "post" (ResNet-v1).
        pool_padding: What the root's max pooling sees around its input, which in the
            "pre" form has no activation before it: "zero" in the code of the BiT paper
            and its PyTorch ports, "lowest", which is never the maximum, in big_vision.
            The "post" form pads as TF's "SAME": there it is "lowest".
    """

    family: ClassVar[str] = "bit"
    any_size: ClassVar[bool] = True
    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = ResNetArchitecture.CHOICES | {
        "form": ("pre", "post"),
        "pool_padding": ("zero", "lowest"),
    }

    form: str = field(default="pre", metadata=role(MEANING))
    pool_padding: str = field(default="zero", metadata=role(MEANING))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form == "post":
            object.__setattr__(self, "pool_padding", "lowest")

    @property
    def style(self) -> resnet.Style:
        """The arithmetic of the form."""
        if self.form == "post":
            return resnet.POST
        return resnet.Style(
            norm_epsilon=1e-5,
            standardize="variance",
            padding="fixed",
            pool=self.pool_padding,
        )


class Classifier(model.Model, resnet.Trunk):
    """A ResNet whose mean over the cells feeds a head.

    Arguments of the constructor beyond the architecture: see `resnet.Trunk`;
    `final_norm`: whether the cells are normalised and activated before the mean.
    """

    maps: ClassVar[str] = "stages"

    def __init__(
        self,
        architecture: ResNetArchitecture,
        *,
        make: resnet.MakeUnit,
        root_norm: bool,
        final_norm: bool,
        style: resnet.Style,
        rngs: nnx.Rngs,
    ):
        arch = architecture
        super().__init__(
            arch.units,
            arch.root_width,
            make=make,
            root_norm=root_norm,
            style=style,
            remat=arch.remat == "full",
            channels=arch.channels,
            rngs=rngs,
        )
        self.architecture = arch
        self.deterministic = True  # what `train()` and `eval()` set
        width, epsilon = arch.feature_width, style.norm_epsilon
        self.norm = resnet.GroupNorm(width, epsilon=epsilon) if final_norm else None
        self.head = layers.new_head(
            arch.feature_width, arch.num_classes, bias=arch.head_bias, rngs=rngs
        )

    def _features(
        self,
        images: Images,
        taps: model.Taps,
        *,
        deterministic: bool | None,
        rngs: nnx.Rngs | None,
        placement: Placement,
    ) -> jax.Array:
        """The mean of the last feature map over its cells, float32 [b, channels].

        Nothing here is random.
        """
        del deterministic, rngs
        self.check_images(images)
        x = jnp.asarray(images, self.architecture.compute_dtype)
        x = self.cells(x, placement=placement, taps=taps)
        if self.norm is not None:
            x = jax.nn.relu(self.norm(x))
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2))

    def _map(self, tapped: jax.Array, norm: bool) -> jax.Array:
        del norm  # that of the last stage alone
        return tapped


class BitResNet(Classifier):
    """Images to logits. Leaf names are public: checkpoints and rules use them."""

    def __init__(self, architecture: BitArchitecture, *, rngs: nnx.Rngs):
        post, style = architecture.form == "post", architecture.style
        super().__init__(
            architecture,
            make=resnet.units_of(resnet.Unit if post else resnet.PreUnit, style),
            root_norm=post,
            final_norm=not post,
            style=style,
            rngs=rngs,
        )


def parse(name: str) -> dict[str, Any]:
    """Returns the fields that a name such as "BiT-R152x4" or "BiT-R50x1-post" gives.

    Raises:
        errors.UserError: not such a name, or an unknown depth.
    """
    found = re.fullmatch(r"BiT-R(\d{1,4})x(\d{1,4}(?:\.5)?)(-post)?", name)
    if not found:
        raise errors.UserError(
            f"model {name!r} is not BiT-R DEPTH x WIDTH such as 'BiT-R50x1', or "
            "'BiT-R50x1-post'." + errors.suggest(name, NAMES)
        )
    depth, width, post = found.groups()
    return {
        "units": errors.lookup(resnet_sizes.UNITS, depth, "depth of a BiT ResNet"),
        "width": float(width) if "." in width else int(width),
        "form": "post" if post else "pre",
    }


def name_of(units: tuple[int, ...], width: float, form: str) -> str:
    """Returns the name; "BiT-custom-x1" where the table of depths has no such units."""
    known = {units: f"R{depth}" for depth, units in resnet_sizes.UNITS.items()}
    depth = known[units] if units in known else "custom-"
    return f"BiT-{depth}x{width:g}" + ("-post" if form == "post" else "")


def forward_macs(arch: BitArchitecture) -> int:
    """Multiply-adds of one image's forward pass; a train step's FLOPs are 6 times it.

    Convolutions and the head only, as the paper's exaFLOPs count them.
    """
    trunk = resnet_sizes.trunk_macs(
        arch.units, arch.root_width, arch.image_size, channels=arch.channels
    )
    return trunk + arch.feature_width * arch.num_classes


FAMILY = Family(BitArchitecture, BitResNet, forward_macs, parse, NAMES)
