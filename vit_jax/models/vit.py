"""The Vision Transformer as an NNX module (the paper's section 3.1)."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax import errors
from vit_jax.models import (
    attention,
    blocks,
    heads,
    inputs,
    layers,
    model,
    posemb,
    resnet,
    resnet_sizes,
    stack,
    variants,
)
from vit_jax.models.architecture import Family
from vit_jax.models.placement import NOWHERE, Placement
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.types import Images


class VisionTransformer(model.Model):
    """Images to logits. Leaf names are public: checkpoints and rules use them."""

    architecture: VitArchitecture

    def __init__(self, architecture: VitArchitecture, *, rngs: nnx.Rngs):
        arch = architecture
        # Narrower than a `Model`'s, which nobody sets from outside.
        self.architecture = arch  # pyright: ignore[reportIncompatibleVariableOverride]
        self.deterministic = True  # what `train()` and `eval()` set
        width = arch.width
        self.resnet = _resnet(arch, rngs) if arch.resnet is not None else None
        self.patch_embed = layers.Linear(
            (*arch.patch, arch.feature_channels),
            (width,),
            kernel_init=layers.lecun_normal,
            bias=arch.patch_bias,
            rngs=rngs,
        )
        cls = jnp.zeros((1, 1, width), jnp.float32)
        self.cls = nnx.Param(cls) if arch.has_class_token else None
        every = arch.posemb_at == "every"
        self.posemb = None if every else posemb.create(arch, rngs)
        self.blocks = blocks.stacked(arch, rngs)
        norm = functools.partial(layers.LayerNorm, epsilon=arch.norm_epsilon)
        self.stem_norm = norm(width) if arch.stem_norm else None
        normed = arch.pooled_width if arch.final_norm == "pooled" else width
        self.norm = None if arch.final_norm == "none" else norm(normed)
        self.map = heads.MapHead(arch, rngs=rngs) if arch.pool == "map" else None
        self.pre_logits = _pre_logits(arch, rngs) if arch.pre_logits else None
        head = functools.partial(
            layers.new_head, arch.head_inputs, arch.num_classes, bias=arch.head_bias
        )
        self.head = head(rngs=rngs)
        token = functools.partial(posemb.parameter, rngs=rngs)
        self.registers = token((1, arch.registers, width)) if arch.registers else None
        self.mask_token = token((1, 1, width)) if arch.mask_token else None
        self.patch_head = _patch_head(arch, rngs) if arch.patch_outputs else None
        self.head_dist = head(rngs=rngs) if arch.pool == "distilled" else None
        split = arch.heads, arch.head_width
        shared = arch.posemb == "relative" and not every
        self.relative = (
            attention.offset_table(arch.patches, split, rngs) if shared else None
        )

    def classify(self, features: jax.Array) -> jax.Array:
        """Maps features to logits, float32; without a head, returns the features.

        With pool="distilled" the mean of what both heads say; without heads, of what
        both tokens are.
        """
        dtype = self.architecture.compute_dtype
        if self.architecture.pool != "distilled":
            return layers.classify(self.head, features, dtype)
        token, distilled = jnp.split(features, 2, axis=-1)
        logits = layers.classify(self.head, token, dtype)
        return (logits + layers.classify(self.head_dist, distilled, dtype)) / 2

    def _features(
        self,
        images: Images,
        taps: model.Taps,
        *,
        deterministic: bool | None,
        rngs: nnx.Rngs | None,
        placement: Placement,
    ) -> jax.Array:
        """What feeds the head, or with pool="none" [b, n, d]."""
        tokens = self.encode(
            self.tokens(self.patch_embeddings(images, taps)),
            deterministic=deterministic,
            rngs=rngs,
            placement=placement,
            taps=taps,
        )
        pooled = self.pool(tokens)
        if self.pre_logits is not None:
            pooled = jnp.tanh(self.pre_logits(pooled))
        return pooled.astype(jnp.float32)

    def _map(self, tapped: jax.Array, norm: bool) -> jax.Array:
        arch = self.architecture
        x = self._normed(tapped, "tokens") if norm else tapped
        return x[:, arch.prefix :].reshape(x.shape[0], *arch.grid, x.shape[-1])

    def patch_embeddings(self, images: Images, taps: model.Taps = None) -> jax.Array:
        """Maps images to embedded patches [b, rows * columns, d] without positions."""
        arch = self.architecture
        self.check_images(images)
        x = jnp.asarray(images, arch.compute_dtype)
        if self.resnet is not None:
            x = self.resnet(x, taps)
        return self.patch_embed(inputs.patches(x, arch.grid, arch.patch))

    def tokens(self, patch_embeddings: jax.Array) -> jax.Array:
        """Puts class token and registers before patches [b, rows * columns, d].

        Positions are added if they are at the stem.

        Returns:
            [b, n, d], what `encode` takes.
        """
        arch, x = self.architecture, patch_embeddings
        first = [
            jnp.broadcast_to(leaf[...], (x.shape[0], *leaf.shape[1:])).astype(x.dtype)
            for leaf in (self.cls, self.registers)
            if leaf is not None
        ]
        if first:
            x = jnp.concatenate([*first, x], axis=1)
        if arch.posemb_at != "stem":
            return x
        return _add(x, posemb.embedding(arch, self.posemb))

    def embed(self, images: Images) -> jax.Array:
        """Maps images to tokens [b, n, d], positions of the stem added."""
        return self.tokens(self.patch_embeddings(images))

    def encode(
        self,
        tokens: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | None = None,
        placement: Placement = NOWHERE,
        taps: model.Taps = None,
    ) -> jax.Array:
        """Runs dropout, the blocks and the final LayerNorm: [b, n, d] to the same.

        With final_norm="pooled" there is no LayerNorm here: `pool` has it. That of the
        stem comes after the dropout.
        """
        arch = self.architecture
        keys = paths = None
        random = arch.dropout or arch.attention_dropout or arch.drop_path
        random = random or arch.patch_dropout
        if random and not layers.is_deterministic(self, deterministic):
            first, rest = jax.random.split(layers.checked_rngs(rngs).dropout())
            tokens = layers.dropout(tokens, arch.dropout, first)
            tokens = self._without_some(tokens, jax.random.fold_in(first, 1))
            keys = jax.random.split(rest, arch.depth)
            if arch.drop_path:
                paths = jnp.linspace(0, arch.drop_path, arch.depth)
        if self.stem_norm is not None:
            tokens = self.stem_norm(tokens)
        shared = None
        if arch.posemb_at == "shared":
            shared = posemb.embedding(arch, self.posemb)
        graphdef, stacked = nnx.split(self.blocks)
        count = tokens.shape[1]
        filled = taps is None and blocks.is_filled(arch, tokens)
        tokens, tapped = _run_blocks(
            graphdef,
            nnx.to_pure_dict(stacked),
            jnp.pad(tokens, ((0, 0), (0, 1), (0, 0))) if filled else tokens,
            (keys, paths),
            shared,
            None if self.relative is None else self.relative[...],
            arch=arch,
            placement=placement,
            tapped=taps is not None,
            count=count if filled else None,
        )
        if taps is not None:
            taps |= model.named_layers(tapped, arch.depth)
        return self._normed(tokens[:, :count], "tokens")

    def _without_some(self, tokens: jax.Array, key: jax.Array) -> jax.Array:
        """Tokens [b, n, d] with a share of each image's patches left out."""
        arch = self.architecture
        if not arch.patch_dropout:
            return tokens
        first, patches = tokens[:, : arch.prefix], tokens[:, arch.prefix :]
        kept = max(1, int(arch.patches * (1.0 - arch.patch_dropout)))
        order = jax.random.uniform(key, patches.shape[:2]).argsort(axis=1)
        seen = jnp.take_along_axis(patches, order[:, :kept, None], axis=1)
        return jnp.concatenate([first, seen], axis=1)

    def pool(self, tokens: jax.Array) -> jax.Array:
        """Maps encoded tokens [b, n, d] to what feeds `pre_logits` or the head.

        Returns:
            [b, architecture.pooled_width], or with pool="none" [b, n, d].
        """
        arch = self.architecture
        if self.map is not None:
            pooled = self.map(tokens)
        else:
            pooled = heads.POOLS[arch.pool](tokens, arch.prefix)
        return self._normed(pooled, "pooled")

    def _normed(self, x: jax.Array, where: str) -> jax.Array:
        """The final LayerNorm of `x`, if this is where the architecture has it."""
        if self.norm is None or self.architecture.final_norm != where:
            return x
        return self.norm(x)

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


def _resnet(arch: VitArchitecture, rngs: nnx.Rngs) -> resnet.ResNet:
    assert arch.resnet is not None, "there is one in a hybrid"
    return resnet.ResNet(
        arch.resnet,
        arch.resnet_width,
        channels=arch.channels,
        style=resnet.STYLES[arch.resnet_style],
        rngs=rngs,
    )


def _pre_logits(arch: VitArchitecture, rngs: nnx.Rngs) -> layers.Linear:
    return layers.Linear(
        (arch.pooled_width,),
        (arch.pre_logits_width,),
        kernel_init=layers.lecun_normal,
        rngs=rngs,
    )


def _patch_head(arch: VitArchitecture, rngs: nnx.Rngs) -> layers.Linear:
    outputs = (arch.patch_outputs,)
    return layers.Linear((arch.width,), outputs, kernel_init=layers.zeros, rngs=rngs)


def _add(x: jax.Array, positions: jax.Array | None) -> jax.Array:
    if positions is None:
        return x
    return layers.row_major(x + positions.astype(x.dtype))


@functools.partial(
    jax.jit, static_argnames=("graphdef", "arch", "placement", "tapped", "count")
)
def _run_blocks(
    graphdef: nnx.GraphDef,
    stacked: dict[str, Any],
    tokens: jax.Array,
    random: tuple[jax.Array | None, jax.Array | None],
    shared: jax.Array | None,
    relative: jax.Array | None,
    *,
    arch: VitArchitecture,
    placement: Placement,
    tapped: bool,
    count: int | None,
) -> tuple[jax.Array, stack.Tapped | None]:
    """Runs the blocks; jitted once a graph definition.

    Args:
        graphdef: Of the block.
        stacked: Its parameters, each leaf [layer, ...].
        tokens: [b, n, d].
        random: Of each layer, the key and the rate of dropping its branches.
        shared: Positions [1, n, d] for the input of every block.
        relative: The table of relative positions that all blocks have.
        arch: Decides the loop and the positions.
        placement: See `VisionTransformer`.
        tapped: Whether what is inside the blocks is returned too, [layer, ...].
        count: Tokens that are seen, where one is filled up; None: all.
    """

    def block(
        x: jax.Array, params: dict[str, Any], rest: tuple, taps: model.Taps
    ) -> jax.Array:
        key, path = rest
        module = nnx.merge(graphdef, params)
        x = _add(x, shared)
        if arch.posemb_at == "every":
            x = _add(x, posemb.embedding(arch, module.posemb))
        seen = {} if count is None else {"tokens": count}
        return module(x, key, path=path, relative=relative, taps=taps, **seen)

    return stack.scan_blocks(
        block,
        tokens,
        stacked,
        random,
        remat=arch.remat,
        unroll=arch.unroll,
        placement=placement,
        tapped=tapped,
    )


def forward_macs(arch: VitArchitecture) -> int:
    """Multiply-adds of one image's forward pass; a train step's FLOPs are 6 times it.

    Matrix products and convolutions only, as the paper's exaFLOPs count them.
    """
    patch = math.prod(arch.patch) * arch.feature_channels
    total = arch.patches * patch * arch.width
    if arch.resnet is not None:
        total += resnet_sizes.trunk_macs(
            arch.resnet, arch.resnet_width, arch.image_size, channels=arch.channels
        )
    return total + arch.depth * blocks.macs(arch) + heads.macs(arch)


FAMILY = Family(
    VitArchitecture, VisionTransformer, forward_macs, variants.parse, variants.NAMES
)
