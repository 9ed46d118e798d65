"""Multi-head attention, masks over the grid, relative and rotary positions.

Einsum letters: b batch, n tokens (q and k), d width, h heads, e head width, r offsets.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vit_jax.models import backends, layers, posemb, rotary


@dataclasses.dataclass(frozen=True)
class Mask:
    """Which patches see which; the tokens before the patches see and are seen by all.

    Attributes:
        kind: "local": at most `window` rows and columns apart; "block": in the same
            square of `window` patches a side.
        window: Patches.
        grid: (rows, columns) of patches.
        prefix: Tokens before the patches.
    """

    kind: str
    window: int
    grid: tuple[int, int]
    prefix: int


@functools.lru_cache(maxsize=8)
def visible(mask: Mask) -> np.ndarray:
    """Returns bool [n, n]: whether token q (first axis) sees token k."""
    rows, columns = (axis.ravel() for axis in np.indices(mask.grid))
    if mask.kind == "block":
        rows, columns = rows // mask.window, columns // mask.window
    reach = mask.window if mask.kind == "local" else 0
    seen = abs(rows[:, None] - rows) <= reach
    seen &= abs(columns[:, None] - columns) <= reach
    return np.pad(seen, ((mask.prefix, 0), (mask.prefix, 0)), constant_values=True)


def offset_logits(
    queries: jax.Array, table: jax.Array, *, dtype: jnp.dtype | None
) -> jax.Array:
    """Returns logits [b, h, n, n] between queries and embeddings of offsets.

    Args:
        queries: [b, n, h, e], scaled like those of the content.
        table: [2N - 1, h, e] for N patches; entry `p_q - p_k + N - 1` belongs to the
            raster positions p_q and p_k. The n - N tokens before the patches get 0.
        dtype: Of the logits; None: of the queries.
    """
    patches = (table.shape[0] + 1) // 2
    prefix = queries.shape[1] - patches
    q = queries[:, prefix:].transpose(0, 2, 1, 3)
    reverse = table[::-1].astype(q.dtype)
    logits = jnp.einsum("bhqe,rhe->bhqr", q, reverse, preferred_element_type=dtype)
    # Row q wants its columns N - 1 - q + k. In the flat array of rows one longer that
    # is every (2N - 1)th run of N from N - 1 on: slices where a gather would be slow.
    lead, span = logits.shape[:2], 2 * patches - 1
    flat = jnp.pad(logits, ((0, 0), (0, 0), (0, 0), (0, 1))).reshape(*lead, -1)
    flat = flat[..., patches - 1 : patches - 1 + patches * span]
    logits = flat.reshape(*lead, patches, span)[..., :patches]
    return jnp.pad(logits, ((0, 0), (0, 0), (prefix, 0), (prefix, 0)))


def _norm_of(width: int, epsilon: float | None) -> layers.LayerNorm | None:
    return None if epsilon is None else layers.LayerNorm(width, epsilon=epsilon)


class Attention(nnx.Module):
    """Multi-head attention (the paper's appendix A) with the options of the family.

    Args:
        bias: Whether queries, keys and values have biases.
        key_bias: Whether keys have one where queries do.
        norm_epsilon: Of LayerNorms over each head of queries and keys; None: without.
        dropout: Rate on the probabilities.
        backend: A name of `backends.ATTENTION`.
        logits_dtype: "compute" or "float32".
        mask: What is seen; None: everything.
        offsets: Patches among which a table of relative positions is learned; 0: none.
        rotation: How queries and keys are turned by their places; None: not at all.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        bias: bool = True,
        key_bias: bool = True,
        norm_epsilon: float | None = None,
        dropout: float = 0.0,
        backend: str = "einsum",
        logits_dtype: str = "compute",
        mask: Mask | None = None,
        offsets: int = 0,
        rotation: rotary.Rotation | None = None,
        rngs: nnx.Rngs,
    ):
        split = (heads, width // heads)
        self.query = layers.Linear((width,), split, bias=bias, rngs=rngs)
        self.key = layers.Linear((width,), split, bias=bias and key_bias, rngs=rngs)
        self.value = layers.Linear((width,), split, bias=bias, rngs=rngs)
        self.out = layers.Linear(split, (width,), rngs=rngs)
        self.query_norm = _norm_of(split[1], norm_epsilon)
        self.key_norm = _norm_of(split[1], norm_epsilon)
        self.relative = offset_table(offsets, split, rngs) if offsets else None
        self.frequencies = rotary.frequencies(rotation, split, rngs)
        self.rotation = rotation
        self.dropout = dropout
        self.backend = backend
        self.logits_dtype = logits_dtype
        self.mask = mask

    def __call__(
        self,
        x: jax.Array,
        key: jax.Array | None = None,
        *,
        queries: jax.Array | None = None,
        relative: jax.Array | None = None,
        taps: dict[str, jax.Array] | None = None,
        tokens: int | None = None,
    ) -> jax.Array:
        """Maps tokens [b, n, d] to the same shape.

        Args:
            x: The tokens.
            key: For dropout of the probabilities; None: no dropout.
            queries: [1, q, d], what asks in the place of the tokens; the result is
                [b, q, d].
            relative: Another block's table, see `offset_logits`.
            taps: Where to leave the "attention" probabilities; None: nowhere.
            tokens: How many of them are seen, by "dot_product" alone; None: all.
        """
        q = self.query(x if queries is None else queries)
        k, v = self.key(x), self.value(x)
        if queries is not None:
            q = jnp.broadcast_to(q, (x.shape[0], *q.shape[1:]))
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if self.rotation is not None:
            learned = None if self.frequencies is None else self.frequencies[...]
            q, k = rotary.turned(self.rotation, q, k, learned)
        q = q / math.sqrt(q.shape[-1])
        dtype = jnp.dtype(jnp.float32) if self.logits_dtype == "float32" else None
        if self.relative is not None:
            relative = self.relative[...]
        terms = backends.Terms(
            bias=None if relative is None else offset_logits(q, relative, dtype=dtype),
            mask=None if self.mask is None else visible(self.mask),
            dtype=dtype,
            rate=self.dropout,
            key=key,
            tokens=tokens,
        )
        if taps is not None:
            taps["attention"] = backends.probabilities(
                q[:, :tokens], k[:, :tokens], terms
            )
        heads = backends.ATTENTION[self.backend](q, k, v, terms)
        return self.out(heads)


def offset_table(patches: int, split: tuple[int, int], rngs: nnx.Rngs) -> nnx.Param:
    """Returns a new table for `offset_logits`; `split` is (heads, head width)."""
    return posemb.parameter((2 * patches - 1, *split), rngs)
