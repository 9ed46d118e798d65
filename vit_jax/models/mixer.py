"""MLP-Mixer (arXiv 2105.01601): MLPs over the patches in place of attention.

Sizes and the forward pass are those of the released code: google-research's
vision_transformer, and big_vision's for stochastic depth.
"""

import dataclasses
import functools
import math
import re
from dataclasses import field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax import errors
from vit_jax.models import gelus, inputs, layers, model, stack
from vit_jax.models.architecture import Architecture, Family, size_text
from vit_jax.models.placement import Placement
from vit_jax.models.roles import MEANING, RUN, SIZE, role
from vit_jax.types import Images

PREFIX = "Mixer-"


@dataclasses.dataclass(frozen=True)
class Size:
    """Width of the tokens, blocks, and hidden widths of a block's two MLPs."""

    width: int
    depth: int
    tokens_mlp_width: int
    channels_mlp_width: int


SIZES: dict[str, Size] = {
    "S": Size(512, 8, 256, 2048),
    "B": Size(768, 12, 384, 3072),
    "L": Size(1024, 24, 512, 4096),
}
NAMES = tuple(f"{PREFIX}{size}/{patch}" for size in SIZES for patch in (16, 32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixerArchitecture(Architecture):
    """An MLP-Mixer. The number of patches, so the image size, decides its weights.

    Attributes:
        width: D, the width of the tokens.
        depth: Blocks.
        tokens_mlp_width: Hidden width of the MLPs over the patches.
        channels_mlp_width: Hidden width of the MLPs over the channels.
        patch: (height, width) of a patch in pixels.
        drop_path: Rate at which the last block's branches are dropped whole, an image
            at a time; linear in depth from 0, what is kept is rescaled (big_vision
            does not rescale).
        crop: "error": the patch must divide the image; "valid": what is left over at
            the bottom and right is not seen.
        gelu: "tanh": the approximation of Google's code; "erf": exact.
        unroll: Blocks a loop iteration; 0: all of them, a flat program.
        remat: What a block's backward pass computes again; see `VitArchitecture`.
    """

    family: ClassVar[str] = "mixer"
    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        "crop": ("error", "valid"),
        "gelu": tuple(gelus.GELU),
        "remat": tuple(stack.REMAT),
    }

    width: int = field(metadata=SIZE)
    depth: int = field(metadata=SIZE)
    tokens_mlp_width: int
    channels_mlp_width: int
    patch: tuple[int, int]
    drop_path: float = field(default=0.0, metadata=role(RUN))
    crop: str = field(default="error", metadata=role(RUN, harmless=True))
    gelu: str = field(default="tanh", metadata=role(MEANING))
    unroll: int = field(default=0, metadata=role(RUN))
    remat: str = field(default="none", metadata=role(RUN))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_pair("patch")
        self.check_least(1, "width", "depth", "tokens_mlp_width", "channels_mlp_width")
        self.check_least(0, "unroll")
        self.check_rates("drop_path")
        divided = all(s % p == 0 for s, p in zip(self.image_size, self.patch))
        if min(self.grid) < 1 or not (divided or self.crop == "valid"):
            raise errors.UserError(
                f"image_size={size_text(self.image_size)} is not a whole number of "
                f"{size_text(self.patch)} patches; crop='valid' leaves out the rest at "
                "the bottom and right."
            )

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        (height, width), (p, q) = self.image_size, self.patch
        return height // p, width // q

    @property
    def strides(self) -> tuple[int, int]:
        """(height, width) of a patch in pixels."""
        return self.patch

    @property
    def tokens(self) -> int:
        """Patches."""
        return math.prod(self.grid)

    @property
    def feature_width(self) -> int:
        """Width of what feeds the head."""
        return self.width


def parse(name: str) -> dict[str, Any]:
    """Returns the fields that a name such as "Mixer-B/16" or "Mixer-S/16x8" gives.

    Raises:
        errors.UserError: not such a name, or an unknown size.
    """
    found = re.fullmatch(PREFIX + r"(\w+)/(\d{1,5})(?:x(\d{1,5}))?", name)
    if not found:
        raise errors.UserError(
            f"model {name!r} is not Mixer-SIZE/PATCH such as 'Mixer-B/16'."
            + errors.suggest(name, NAMES)
        )
    size, height, width = found.groups()
    fields = dataclasses.asdict(errors.lookup(SIZES, size, "Mixer size"))
    return fields | {"patch": (int(height), int(width or height))}


class Mlp(nnx.Module):
    """Two dense layers with GELU between them, initialised as Flax's own."""

    def __init__(self, width: int, hidden: int, *, gelu: str, rngs: nnx.Rngs):
        make = functools.partial(
            layers.Linear, kernel_init=layers.lecun_normal, rngs=rngs
        )
        self.up = make((width,), (hidden,))
        self.down = make((hidden,), (width,))
        self.gelu = gelu

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., d] to the same."""
        return self.down(self.up.gelu(x, self.gelu))


class MixerBlock(nnx.Module):
    """Pre-norm MLPs, over the patches and then over the channels, with residuals."""

    def __init__(self, arch: MixerArchitecture, *, rngs: nnx.Rngs):
        width = arch.width
        make = functools.partial(Mlp, gelu=arch.gelu, rngs=rngs)
        self.norm1 = layers.LayerNorm(width, epsilon=1e-6)
        self.tokens = make(arch.tokens, arch.tokens_mlp_width)
        self.norm2 = layers.LayerNorm(width, epsilon=1e-6)
        self.channels = make(width, arch.channels_mlp_width)

    def __call__(
        self, x: jax.Array, key: jax.Array | None, rate: jax.Array
    ) -> jax.Array:
        """Maps [b, n, d] to the same; without a key no branch is dropped."""
        keys = [None] * 2 if key is None else list(jax.random.split(key))
        mixed = self.tokens(self.norm1(x).swapaxes(1, 2)).swapaxes(1, 2)
        x = x + layers.drop_path(mixed, rate, keys[0])
        return x + layers.drop_path(self.channels(self.norm2(x)), rate, keys[1])


class MlpMixer(model.Model):
    """Images to logits. Leaf names are public: checkpoints and rules use them."""

    architecture: MixerArchitecture

    def __init__(self, architecture: MixerArchitecture, *, rngs: nnx.Rngs):
        arch = architecture
        # Narrower than a `Model`'s, which nobody sets from outside.
        self.architecture = arch  # pyright: ignore[reportIncompatibleVariableOverride]
        self.deterministic = True  # what `train()` and `eval()` set
        self.patch_embed = layers.Linear(
            (*arch.patch, arch.channels),
            (arch.width,),
            kernel_init=layers.lecun_normal,
            rngs=rngs,
        )
        make_blocks = nnx.split_rngs(splits=arch.depth)(
            nnx.vmap(lambda rngs: MixerBlock(arch, rngs=rngs))
        )
        self.blocks = make_blocks(rngs)
        self.norm = layers.LayerNorm(arch.width, epsilon=1e-6)
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
        """The mean of the tokens, float32 [b, width]."""
        arch = self.architecture
        self.check_images(images)
        keys = None
        if arch.drop_path and not layers.is_deterministic(self, deterministic):
            keys = jax.random.split(layers.checked_rngs(rngs).dropout(), arch.depth)
        x = jnp.asarray(images, arch.compute_dtype)
        x = self.patch_embed(inputs.patches(x, arch.grid, arch.patch))
        graphdef, stacked = nnx.split(self.blocks)
        x, tapped = _run_blocks(
            graphdef,
            nnx.to_pure_dict(stacked),
            x,
            keys,
            jnp.linspace(0, arch.drop_path, arch.depth, dtype=jnp.float32),
            unroll=arch.unroll,
            remat=arch.remat,
            placement=placement,
            tapped=taps is not None,
        )
        if taps is not None:
            taps |= model.named_layers(tapped, arch.depth)
        return jnp.mean(self.norm(x), axis=1).astype(jnp.float32)

    def _map(self, tapped: jax.Array, norm: bool) -> jax.Array:
        x = self.norm(tapped) if norm else tapped
        return x.reshape(x.shape[0], *self.architecture.grid, x.shape[-1])


@functools.partial(
    jax.jit, static_argnames=("graphdef", "unroll", "remat", "placement", "tapped")
)
def _run_blocks(
    graphdef: nnx.GraphDef,
    stacked: dict[str, Any],
    tokens: jax.Array,
    keys: jax.Array | None,
    rates: jax.Array,
    *,
    unroll: int,
    remat: str,
    placement: Placement,
    tapped: bool,
) -> tuple[jax.Array, stack.Tapped | None]:
    """Runs the blocks; jitted once a graph definition."""

    def block(
        x: jax.Array, params: dict[str, Any], rest: tuple, taps: model.Taps
    ) -> jax.Array:
        del taps  # no attention in it
        return nnx.merge(graphdef, params)(x, *rest)

    return stack.scan_blocks(
        block,
        tokens,
        stacked,
        (keys, rates),
        remat=remat,
        unroll=unroll,
        placement=placement,
        tapped=tapped,
    )


def forward_macs(arch: MixerArchitecture) -> int:
    """Multiply-adds of one image's forward pass; matrix products only."""
    n, d = arch.tokens, arch.width
    block = 2 * n * d * (arch.tokens_mlp_width + arch.channels_mlp_width)
    patch = math.prod(arch.patch) * arch.channels
    return n * patch * d + arch.depth * block + d * arch.num_classes


FAMILY = Family(MixerArchitecture, MlpMixer, forward_macs, parse, NAMES)
