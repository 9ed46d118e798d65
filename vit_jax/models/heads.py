"""From encoded tokens to what feeds the head (the paper's appendix D.3, and peers)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.models import attention, layers
from vit_jax.models.vit_architecture import VitArchitecture

# (tokens [b, n, d], how many of them come before the patches) -> what feeds the head.
# "map" has parameters: `MapHead`.
POOLS: dict[str, Callable[[jax.Array, int], jax.Array]] = {
    "token": lambda tokens, prefix: tokens[:, 0],
    "mean": lambda tokens, prefix: jnp.mean(tokens[:, prefix:], axis=1),
    "token_mean": lambda tokens, prefix: jnp.concatenate(
        [tokens[:, 0], jnp.mean(tokens[:, prefix:], axis=1)], axis=-1
    ),
    "distilled": lambda tokens, prefix: jnp.concatenate(
        [tokens[:, 0], tokens[:, 1]], axis=-1
    ),
    "none": lambda tokens, prefix: tokens,
}


class MapHead(nnx.Module):
    """Pooling by attention with a learned query, then an MLP with a residual.

    Heads and MLP width are the encoder's (ScaleViT; big_vision's MAPHead).
    """

    def __init__(self, arch: VitArchitecture, *, rngs: nnx.Rngs):
        probe = layers.xavier_uniform(rngs.params(), (1, 1, arch.width), jnp.float32)
        self.probe = nnx.Param(probe)
        self.attn = attention.Attention(
            arch.width, arch.heads, logits_dtype=arch.logits_dtype, rngs=rngs
        )
        self.norm = layers.LayerNorm(arch.width, epsilon=arch.norm_epsilon)
        self.mlp = layers.Mlp(
            arch.width, arch.mlp_width, gelu=arch.gelu, dropout=0.0, rngs=rngs
        )

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps [b, n, d] to [b, d]."""
        x = self.attn(tokens, queries=self.probe[...].astype(tokens.dtype))
        return (x + self.mlp(self.norm(x), None))[:, 0]


def macs(arch: VitArchitecture) -> int:
    """Multiply-adds on one image of all that comes after the encoder."""
    d = arch.width
    vectors = arch.tokens if arch.pool == "none" else 1
    total = arch.patches * d * arch.patch_outputs
    if arch.pool == "map":
        total += 2 * d * d + 2 * arch.tokens * d * d + 2 * arch.tokens * d
        total += 2 * d * arch.mlp_width
    total += vectors * arch.pooled_width * arch.pre_logits_width
    return total + vectors * arch.feature_width * arch.num_classes
