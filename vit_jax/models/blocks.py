"""The encoder's blocks: standard (equations 2 and 3) and axial (appendix D.6)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.models import attention, backends, layers, posemb, rotary
from vit_jax.models.vit_architecture import VitArchitecture


class Block(nnx.Module):
    """Attention and MLP, each with a norm and a residual (equations 2 and 3).

    `axis` says among which tokens attention works: "all", or the patches of one "row"
    or one "column".
    """

    def __init__(self, arch: VitArchitecture, *, axis: str = "all", rngs: nnx.Rngs):
        width, epsilon = arch.width, arch.norm_epsilon
        own_table = arch.posemb == "relative" and arch.posemb_at == "every"
        self.norm1 = layers.LayerNorm(width, epsilon=epsilon)
        self.attn = attention.Attention(
            width,
            arch.heads,
            bias=arch.qkv_bias,
            key_bias=arch.key_bias,
            norm_epsilon=epsilon if arch.qk_norm else None,
            dropout=arch.attention_dropout,
            backend=arch.attention,
            logits_dtype=arch.logits_dtype,
            mask=_mask(arch),
            offsets=arch.patches if own_table else 0,
            rotation=_rotation(arch),
            rngs=rngs,
        )
        self.norm2 = layers.LayerNorm(width, epsilon=epsilon)
        self.mlp = layers.Mlp(
            width,
            arch.mlp_width,
            gelu=arch.gelu,
            gated=arch.mlp == "swiglu",
            dropout=arch.dropout,
            rngs=rngs,
        )
        scale = jnp.full(width, arch.layer_scale, jnp.float32)
        self.scale1 = nnx.Param(scale) if arch.layer_scale else None
        self.scale2 = nnx.Param(scale) if arch.layer_scale else None
        self.dropout = arch.dropout
        self.post_norm = arch.norm == "post"
        self.axis = axis
        self.grid = arch.grid

    def __call__(
        self,
        x: jax.Array,
        key: jax.Array | None = None,
        *,
        path: jax.Array | None = None,
        relative: jax.Array | None = None,
        taps: dict[str, jax.Array] | None = None,
        tokens: int | None = None,
    ) -> jax.Array:
        """Maps [b, n, d] to the same.

        Args:
            x: The tokens.
            key: Without one nothing is dropped.
            path: Rate at which a branch is dropped whole; None: never.
            relative: The table of relative positions, if the blocks share one.
            taps: Where to leave the "attention" probabilities, [b, h, n, n], or among
                the tokens of lines [b, lines, h, l, l]; None: nowhere.
            tokens: How many of them are seen; None: all.
        """
        keys: list[jax.Array | None] = [None] * 6
        if key is not None:
            count = 4 if path is None else 6  # without paths the stream is the old one
            keys[:count] = jax.random.split(key, count)

        def attend(x: jax.Array) -> jax.Array:
            lines, back = AXES[self.axis](x, self.grid)
            heads = self.attn(
                *(lines, keys[0]), relative=relative, taps=taps, tokens=tokens
            )
            y = back(heads)
            if taps is not None and self.axis != "all":
                found = taps["attention"]
                taps["attention"] = found.reshape(x.shape[0], -1, *found.shape[1:])
            return y

        def mlp(x: jax.Array) -> jax.Array:
            return self.mlp(x, keys[2])

        y = self._branch(attend, self.norm1, self.scale1, x, keys[1])
        x = x + layers.drop_path(y, path, keys[4])
        y = self._branch(mlp, self.norm2, self.scale2, x, keys[3])
        return x + layers.drop_path(y, path, keys[5])

    def _branch(
        self,
        function: Callable[[jax.Array], jax.Array],
        norm: layers.LayerNorm,
        scale: nnx.Param | None,
        x: jax.Array,
        key: jax.Array | None,
    ) -> jax.Array:
        """What is added to `x`: function and norm in their order, dropout and scale."""
        y = function(x if self.post_norm else norm(x))
        y = layers.dropout(y, self.dropout, key)
        if self.post_norm:
            y = norm(y)
        if scale is not None:
            y = y * scale[...].astype(y.dtype).reshape(1, 1, -1)
        return y


class AxialBlock(nnx.Module):
    """A block along rows, then one along columns; two MLPs."""

    def __init__(self, arch: VitArchitecture, *, rngs: nnx.Rngs):
        self.row = Block(arch, axis="row", rngs=rngs)
        self.column = Block(arch, axis="column", rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        key: jax.Array | None = None,
        *,
        path: jax.Array | None = None,
        relative: jax.Array | None = None,
        taps: dict[str, jax.Array] | None = None,
    ) -> jax.Array:
        """Maps [b, rows * columns, d] to the same; arguments as `Block`'s."""
        first, second = (None, None) if key is None else jax.random.split(key)
        for block, key in ((self.row, first), (self.column, second)):
            inside: dict[str, jax.Array] | None = None if taps is None else {}
            x = block(x, key, path=path, relative=relative, taps=inside)
            if taps is not None and inside is not None:
                taps[f"attention/{block.axis}"] = inside["attention"]
        return x


Lines = tuple[jax.Array, Callable[[jax.Array], jax.Array]]


def _all(x: jax.Array, grid: tuple[int, int]) -> Lines:
    return x, lambda lines: lines


def _rows(x: jax.Array, grid: tuple[int, int]) -> Lines:
    return x.reshape(-1, grid[1], x.shape[-1]), lambda lines: lines.reshape(x.shape)


def _columns(x: jax.Array, grid: tuple[int, int]) -> Lines:
    rows, columns = grid
    width = x.shape[-1]
    lines = x.reshape(-1, rows, columns, width).swapaxes(1, 2)

    def back(lines: jax.Array) -> jax.Array:
        lines = lines.reshape(-1, columns, rows, width).swapaxes(1, 2)
        return lines.reshape(x.shape)

    return lines.reshape(-1, rows, width), back


# axis -> (tokens [b, n, d], grid) -> lines [b * ..., l, d] of tokens that see each
# other, and the way back.
AXES: dict[str, Callable[[jax.Array, tuple[int, int]], Lines]] = {
    "all": _all,
    "row": _rows,
    "column": _columns,
}

BLOCKS: dict[str, type[Block] | type[AxialBlock]] = {
    "standard": Block,
    "axial": AxialBlock,
}


def stacked(arch: VitArchitecture, rngs: nnx.Rngs) -> Block | AxialBlock:
    """Returns all blocks as one, with leaves [depth, ...].

    With positions at every block each has a table, `posemb`.
    """

    @nnx.split_rngs(splits=arch.depth)
    @nnx.vmap
    def make(rngs: nnx.Rngs) -> Block | AxialBlock:
        block: Any = BLOCKS[arch.block](arch, rngs=rngs)
        if arch.posemb_at == "every":
            block.posemb = posemb.create(arch, rngs)
        return block

    return make(rngs)


def _mask(arch: VitArchitecture) -> attention.Mask | None:
    if arch.attention_mask == "none":
        return None
    return attention.Mask(
        arch.attention_mask, arch.attention_window, arch.grid, arch.prefix
    )


def _rotation(arch: VitArchitecture) -> rotary.Rotation | None:
    if arch.rope == "none":
        return None
    return rotary.Rotation(
        *(arch.rope, arch.rope_base, arch.rope_grid, arch.grid, arch.prefix)
    )


def is_filled(arch: VitArchitecture, tokens: jax.Array) -> bool:
    """Returns whether a token of zeros is put behind these, [b, n, d], of odd number.

    cuDNN's attention differentiates even numbers alone. Once before the blocks takes
    two copies of the tokens, and in each of them eight.
    """
    return (
        tokens.shape[1] % 2 == 1
        and tokens.shape[1] >= backends.CUDNN_TOKENS
        and tokens.dtype != jnp.float32
        and arch.attention == "dot_product"
        and arch.block == "standard"
        and arch.attention_mask == arch.rope == "none"
        and arch.posemb_at == "stem"
    )


def macs(arch: VitArchitecture) -> int:
    """Multiply-adds of one block on one image.

    A mask saves none. Relative positions cost a product with every offset's embedding.
    """
    n, d = arch.tokens, arch.width
    dense = 4 * n * d * d + (3 if arch.mlp == "swiglu" else 2) * n * d * arch.mlp_width
    if arch.block == "axial":
        return 2 * dense + 2 * n * sum(arch.grid) * d
    offsets = 2 * arch.patches - 1 if arch.posemb == "relative" else 0
    return dense + 2 * n * n * d + arch.patches * offsets * d
