"""The Vision Transformer as an NNX module (the paper's section 3.1)."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax import errors
from vit_jax.models import layers, resnet, variants

Constrain = Callable[[jax.Array], jax.Array]

_policies = jax.checkpoint_policies
REMAT: dict[str, Callable[[Callable], Callable]] = {
    "none": lambda block: block,
    "dots": functools.partial(
        jax.checkpoint, policy=_policies.dots_saveable, prevent_cse=False
    ),
    "dots_nb": functools.partial(
        jax.checkpoint,
        policy=_policies.dots_with_no_batch_dims_saveable,
        prevent_cse=False,
    ),
    "full": functools.partial(jax.checkpoint, prevent_cse=False),
}


class VisionTransformer(nnx.Module):
    """Images to logits. Leaf names are public: checkpoints and rules use them."""

    def __init__(self, architecture: variants.VitArchitecture, *, rngs: nnx.Rngs):
        arch = architecture
        self.architecture = arch
        width = arch.width
        self.resnet = _resnet(arch, rngs) if arch.resnet_used else None
        self.patch_embed = layers.Linear(
            (*arch.patch, arch.feature_channels),
            (width,),
            kernel_init=layers.lecun_normal,
            rngs=rngs,
        )
        cls = jnp.zeros((1, 1, width), jnp.float32)
        self.cls = nnx.Param(cls) if arch.has_class_token else None
        table = jax.random.normal(rngs.params(), (1, arch.tokens, width), jnp.float32)
        self.posemb = nnx.Param(0.02 * table)
        self.blocks = _stacked_blocks(arch, rngs)
        self.norm = layers.LayerNorm(width, epsilon=arch.norm_epsilon)
        self.pre_logits = _pre_logits(arch, rngs) if arch.pre_logits else None
        self.head = _head(arch, rngs) if arch.num_classes else None
        self.mask_token = _token(arch, 1, rngs) if arch.mask_token else None
        self.patch_head = _patch_head(arch, rngs) if arch.patch_outputs else None

    def __call__(
        self,
        images: jax.Array,
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
        constrain: Constrain | None = None,
    ) -> jax.Array:
        """Returns logits [b, classes], or the features [b, width] without a head.

        Args:
            images: float [b, height, width, 3], normalised (the released weights
                expect [-1, 1]), of the architecture's size.
            deterministic: No dropout.
            rngs: Source of the dropout keys (its stream "dropout"); needed when
                something is to be dropped.
            constrain: Applied to the tokens [b, n, d] at the entry and exit of every
                block, e.g. to pin their sharding.

        Returns:
            float32.

        Raises:
            errors.UserError: images of another shape or of an integer dtype.
        """
        features = self.features(
            images, deterministic=deterministic, rngs=rngs, constrain=constrain
        )
        return self.classify(features)

    def classify(self, features: jax.Array) -> jax.Array:
        """Maps features to logits, float32; without a head, returns the features."""
        if self.head is None:
            return features
        x = features.astype(self.architecture.compute_dtype)
        return self.head(x, dtype=jnp.dtype(jnp.float32))

    def features(
        self,
        images: jax.Array,
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
        constrain: Constrain | None = None,
    ) -> jax.Array:
        """Returns what feeds the head, float32 [b, width]; arguments as the call's."""
        tokens = self.encode(
            self.embed(images),
            deterministic=deterministic,
            rngs=rngs,
            constrain=constrain,
        )
        pooled = self.pool(tokens)
        if self.pre_logits is not None:
            pooled = jnp.tanh(self.pre_logits(pooled))
        return pooled.astype(jnp.float32)

    def patch_embeddings(self, images: jax.Array) -> jax.Array:
        """Maps images to embedded patches [b, rows * columns, d] without positions."""
        arch = self.architecture
        check_images(images, arch)
        x = images.astype(arch.compute_dtype)
        if self.resnet is not None:
            x = self.resnet(x)
        return self.patch_embed(patches(x, arch))

    def tokens(self, patch_embeddings: jax.Array) -> jax.Array:
        """Puts the class token before patches [b, rows * columns, d]; adds positions.

        Returns:
            [b, n, d], what `encode` takes.
        """
        x = patch_embeddings
        if self.cls is not None:
            first = jnp.broadcast_to(self.cls[...], (x.shape[0], 1, x.shape[-1]))
            x = jnp.concatenate([first.astype(x.dtype), x], axis=1)
        return x + self.posemb[...].astype(x.dtype)

    def embed(self, images: jax.Array) -> jax.Array:
        """Maps images to tokens with positions [b, n, d]; the class token is first."""
        return self.tokens(self.patch_embeddings(images))

    def encode(
        self,
        tokens: jax.Array,
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
        constrain: Constrain | None = None,
    ) -> jax.Array:
        """Runs dropout, the blocks and the final LayerNorm: [b, n, d] to the same."""
        arch = self.architecture
        keys = None
        if not deterministic and (arch.dropout or arch.attention_dropout):
            if rngs is None:
                raise errors.UserError(
                    "deterministic=False with dropout needs random numbers: pass "
                    "rngs=nnx.Rngs(dropout=key)."
                )
            first, rest = jax.random.split(rngs.dropout())
            tokens = layers.dropout(tokens, arch.dropout, first)
            keys = jax.random.split(rest, arch.depth)
        graphdef, stacked = nnx.split(self.blocks)
        tokens = _run_blocks(
            graphdef,
            nnx.to_pure_dict(stacked),
            tokens,
            keys,
            unroll=arch.unroll or arch.depth,
            remat=arch.remat,
            constrain=constrain,
        )
        return self.norm(tokens)

    def pool(self, tokens: jax.Array) -> jax.Array:
        """Maps encoded tokens [b, n, d] to one vector an image [b, d]."""
        return POOLS[self.architecture.pool](tokens)

    def patch_logits(self, encoded: jax.Array) -> jax.Array:
        """Maps encoded tokens [b, n, d] to the patch head's output for every patch.

        Returns:
            float32 [b, rows * columns, patch_outputs].

        Raises:
            errors.UserError: the architecture has no patch head.
        """
        if self.patch_head is None:
            raise errors.UserError(
                f"this {self.architecture.name} has no patch head: make it with "
                "patch_outputs=N, the number of outputs a patch."
            )
        x = encoded[:, self.architecture.prefix :]
        return self.patch_head(x, dtype=jnp.dtype(jnp.float32))


POOLS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "token": lambda tokens: tokens[:, 0],
    "mean": lambda tokens: jnp.mean(tokens, axis=1),
}


def patches(images: jax.Array, arch: variants.VitArchitecture) -> jax.Array:
    """Cuts [b, H, W, c] into patches [b, rows * columns, p, q, c], row by row.

    With a matrix product this is the patch convolution.
    """
    (rows, columns), (p, q) = arch.grid, arch.patch
    batch, _, _, channels = images.shape
    x = images[:, : rows * p, : columns * q]
    x = x.reshape(batch, rows, p, columns, q, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, p, q, channels)


def check_images(images: jax.Array, arch: variants.VitArchitecture) -> None:
    """Raises `UserError` unless images are float [b, *image_size, 3]."""
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise errors.UserError(
            f"images are {images.dtype}; the model wants normalised floats, e.g. "
            "images / 127.5 - 1."
        )
    height, width = arch.image_size
    if images.ndim == 4 and images.shape[1:] == (height, width, 3):
        return
    message = (
        f"images have shape {tuple(images.shape)}; this {arch.name} wants "
        f"[batch, {height}, {width}, 3]."
    )
    if images.ndim == 4 and images.shape[3] == 3:
        size = tuple(images.shape[1:3])
        message += (
            f"\nResize them, or make a model for that size: create_model(..., "
            f"image_size={size}) or vit_jax.load(path, image_size={size}), which "
            "resamples the position embedding."
        )
    elif images.ndim == 3:
        message += "\nAdd a batch axis: images[None]."
    raise errors.UserError(message)


def _resnet(arch: variants.VitArchitecture, rngs: nnx.Rngs) -> resnet.ResNet:
    return resnet.ResNet(arch.resnet, arch.resnet_width, rngs=rngs)


def _pre_logits(arch: variants.VitArchitecture, rngs: nnx.Rngs) -> layers.Linear:
    width = (arch.width,)
    return layers.Linear(width, width, kernel_init=layers.lecun_normal, rngs=rngs)


def _head(arch: variants.VitArchitecture, rngs: nnx.Rngs) -> layers.Linear:
    return layers.Linear(
        (arch.width,),
        (arch.num_classes,),
        kernel_init=layers.zeros,
        bias_init=nnx.initializers.constant(arch.head_bias),
        rngs=rngs,
    )


def _patch_head(arch: variants.VitArchitecture, rngs: nnx.Rngs) -> layers.Linear:
    outputs = (arch.patch_outputs,)
    return layers.Linear((arch.width,), outputs, kernel_init=layers.zeros, rngs=rngs)


def _token(arch: variants.VitArchitecture, count: int, rngs: nnx.Rngs) -> nnx.Param:
    table = jax.random.normal(rngs.params(), (1, count, arch.width), jnp.float32)
    return nnx.Param(0.02 * table)


def _stacked_blocks(arch: variants.VitArchitecture, rngs: nnx.Rngs) -> layers.Block:
    @nnx.split_rngs(splits=arch.depth)
    @nnx.vmap
    def make(rngs: nnx.Rngs) -> layers.Block:
        return layers.Block(
            arch.width,
            arch.heads,
            arch.mlp_width,
            norm_epsilon=arch.norm_epsilon,
            gelu=arch.gelu,
            dropout=arch.dropout,
            attention_dropout=arch.attention_dropout,
            rngs=rngs,
        )

    return make(rngs)


@functools.partial(
    jax.jit, static_argnames=("graphdef", "unroll", "remat", "constrain")
)
def _run_blocks(
    graphdef: nnx.GraphDef,
    stacked: dict[str, Any],
    tokens: jax.Array,
    keys: jax.Array | None,
    *,
    unroll: int,
    remat: str,
    constrain: Constrain | None,
) -> jax.Array:
    """Scans one block over its stacked parameters; jitted once a graph definition."""
    pin = constrain or (lambda x: x)

    def body(x: jax.Array, layer: tuple) -> tuple[jax.Array, None]:
        params, key = layer
        return pin(nnx.merge(graphdef, params)(pin(x), key)), None

    xs = (stacked, keys)
    tokens, _ = jax.lax.scan(REMAT[remat](body), tokens, xs, unroll=unroll)
    return tokens


def block_macs(arch: variants.VitArchitecture) -> int:
    """Multiply-adds of one block on one image."""
    n, d = arch.tokens, arch.width
    return 4 * n * d * d + 2 * n * n * d + 2 * n * d * arch.mlp_width


def forward_macs(arch: variants.VitArchitecture) -> int:
    """Multiply-adds of one image's forward pass; a train step's FLOPs are 6 times it.

    Matrix products and convolutions only, as the paper's exaFLOPs count them.
    """
    d = arch.width
    patch = math.prod(arch.patch) * arch.feature_channels
    total = math.prod(arch.grid) * patch * d + arch.depth * block_macs(arch)
    total += resnet.macs(arch)
    total += math.prod(arch.grid) * d * arch.patch_outputs
    return total + arch.pre_logits * d * d + d * arch.num_classes
