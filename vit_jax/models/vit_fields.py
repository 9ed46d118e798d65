"""The fields of a Vision Transformer's architecture, and what follows from them."""

import dataclasses
import math
from dataclasses import field
from typing import ClassVar

from vit_jax.models import resnet_sizes, variants
from vit_jax.models.architecture import Architecture
from vit_jax.models.roles import MEANING, RUN, SIZE, TASK, UNTOLD, role


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitFields(Architecture):
    """A Vision Transformer, with or without a ResNet before it, or its axial variant.

    `VitArchitecture` checks that they fit together.

    Attributes:
        width: D, the width of the tokens.
        depth: Encoder blocks.
        mlp_width: Hidden width of the blocks' MLPs.
        heads: Attention heads; they divide `width`.
        patch: (height, width) of a patch, in pixels, or in cells of the ResNet's
            feature map for a hybrid.
        pool: What feeds the head. "token": the class token; "mean": the mean over the
            patches; "map": attention of a learned query to all tokens;
            "token_mean": class token and mean, concatenated; "distilled": class token
            and first register, DeiT's distillation token, each with a head of its own,
            and the logits are the mean of both; "none": every token, each with its own
            logits.
        class_token: "yes", "no" or "auto": as the pool needs it.
        registers: Learned tokens between the class token and the patches.
        prefix_positions: How many of the tokens before the patches (class token first)
            have an entry in the position table; those there are at most.
        posemb: "none"; "learned": 1-D, an entry a token; "learned_2d": a row and a
            column table of half the width; "relative": an attention term for every
            offset in raster order; "sincos_1d", "sincos_2d": fixed (the paper's D.4).
        posemb_std: Initial deviation of a learned table; 0: 1/sqrt(width), as
            big_vision has it.
        posemb_resample: How a learned table is brought to another grid, a key of
            `interop.posemb.METHODS`: set to the way of the code that weights come from;
            "auto": as ours are, "corners"; "fresh": drawn anew, by a run alone.
        posemb_at: "stem": added once; "every": a table of its own at the input of each
            block; "shared": one table added at the input of every block. Relative
            positions have no stem: there "stem" means "every".
        rope: How queries and keys of patches are turned by their places, a key of
            `rotary.KINDS`, whatever `posemb` adds; "none": not at all.
        rope_base: Of the frequencies of the turns, or of those they start from.
        rope_grid: Side of the grid of the first training, to which the places of a
            patch in another grid are scaled ("eva02"); 0: they are counted.
        pre_logits: A dense layer and tanh before the head (pre-training): True for one
            of width D, or its width.
        dropout: Rate after the position embedding, the attention output, GELU and
            the MLP output.
        attention_dropout: Rate on the attention probabilities.
        drop_path: Rate at which the last block's branches are dropped whole, an image
            at a time; linear in depth from 0, what is kept is rescaled.
        patch_dropout: In training, the share of the patches that no block sees, drawn
            for each image.
        crop: "error": the patch must divide the image; "valid": what is left over at
            the bottom and right is not seen (the released code's VALID convolution).
        norm: "pre": x + f(norm(x)), the paper's; "post": x + norm(f(x)).
        norm_epsilon: Of every LayerNorm.
        stem_norm: A LayerNorm of the tokens before the first block (CLIP).
        final_norm: Whether the last LayerNorm is of the "tokens" or of the "pooled";
            "none": there is none.
        mlp: "gelu": two dense layers; "swiglu": silu(gate(x)) * up(x), then down.
        gelu: "tanh": the approximation of Google's code; "erf": exact; "quick":
            x * sigmoid(1.702 x) (CLIP).
        layer_scale: Initial factor of each channel of each branch; 0: no such leaf.
        qk_norm: LayerNorm over each head of queries and keys.
        qkv_bias: Whether queries, keys and values have biases.
        key_bias: Whether keys have one where queries and values do.
        block: "standard"; "axial": attention along rows and MLP, then attention along
            columns and MLP (the paper's D.6).
        attention: The back end: "einsum", or "dot_product" for
            `jax.nn.dot_product_attention` (cuDNN for bfloat16 and 128 tokens or more
            on a GPU).
        logits_dtype: Of the attention logits before the float32 softmax: "compute" is
            `compute_dtype`, or "float32"; "dot_product" always has "float32".
        attention_mask: "none"; "local": a patch sees those at most `attention_window`
            rows and columns away; "block": those in its square of `attention_window`
            patches a side. Tokens before the patches see and are seen by all.
        attention_window: See `attention_mask`; 0 without one.
        mask_token: A learned embedding that stands for masked patches.
        patch_outputs: Outputs of a head over every patch (masked prediction); 0: none.
        patch_bias: Whether the embedding of the patches has a bias.
        resnet: Units of each stage of a hybrid's ResNet, () for its root alone, None
            for no ResNet.
        resnet_width: Channels of the ResNet's root.
        resnet_style: The arithmetic of its norms, a key of `resnet.STYLES`.
        unroll: Blocks a loop iteration; 0: all of them, a flat program.
        remat: What a block's backward pass computes again: "none", everything but the
            matrix products ("dots"), but those without batch ("dots_nb"), or "full".
    """

    family: ClassVar[str] = "vit"
    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        "pool": ("token", "mean", "map", "token_mean", "distilled", "none"),
        "class_token": ("auto", "yes", "no"),
        "posemb": (
            *("none", "learned", "learned_2d", "relative", "sincos_1d", "sincos_2d"),
        ),
        "posemb_at": ("stem", "every", "shared"),
        "posemb_resample": (
            *("auto", "fresh", "corners", "centers", "nearest", "bilinear"),
            *("bicubic", "bicubic_antialias", "bicubic_corners", "bicubic_offset"),
        ),
        "rope": ("none", "dinov3", "eva02", "axial", "mixed"),
        "crop": ("error", "valid"),
        "norm": ("pre", "post"),
        "final_norm": ("tokens", "pooled", "none"),
        "mlp": ("gelu", "swiglu"),
        "gelu": ("tanh", "erf", "quick"),
        "resnet_style": ("google", "timm"),
        "block": ("standard", "axial"),
        "attention": ("einsum", "dot_product"),
        "logits_dtype": ("compute", "float32"),
        "attention_mask": ("none", "local", "block"),
        "remat": ("none", "dots", "dots_nb", "full"),
    }

    LIMITS: ClassVar[dict[str, int]] = variants.LIMITS

    width: int = field(metadata=SIZE)
    depth: int = field(metadata=SIZE)
    mlp_width: int = field(metadata=SIZE)
    heads: int = field(metadata=SIZE)
    patch: tuple[int, int]
    pool: str = field(default="token", metadata=role(MEANING))
    class_token: str = field(default="auto", metadata=role(MEANING))
    registers: int = 0
    prefix_positions: int = field(
        default=1, metadata=role(MEANING, compared="positioned")
    )
    posemb: str = field(default="learned", metadata=role(MEANING))
    posemb_at: str = field(default="stem", metadata=role(MEANING))
    posemb_std: float = field(default=0.02, metadata=role(RUN))
    posemb_resample: str = field(default="auto", metadata=role(RUN, unset="auto"))
    rope: str = field(default="none", metadata=role(MEANING))
    rope_base: float = field(
        default=100.0, metadata=role(MEANING, compared="rope_fixed_base")
    )
    rope_grid: int = field(default=0, metadata=role(MEANING))
    pre_logits: bool | int = field(default=False, metadata=role(TASK))
    dropout: float = field(default=0.0, metadata=role(RUN))
    attention_dropout: float = field(default=0.0, metadata=role(RUN))
    drop_path: float = field(default=0.0, metadata=role(RUN))
    patch_dropout: float = field(default=0.0, metadata=role(RUN))
    crop: str = field(default="error", metadata=role(RUN, harmless=True))
    norm: str = field(default="pre", metadata=role(MEANING))
    norm_epsilon: float = field(default=1e-6, metadata=role(MEANING))
    stem_norm: bool = False
    final_norm: str = field(default="tokens", metadata=role(MEANING))
    mlp: str = field(default="gelu", metadata=role(MEANING))
    gelu: str = field(default="tanh", metadata=role(MEANING))
    layer_scale: float = field(default=0.0, metadata=role(UNTOLD))
    qk_norm: bool = False
    qkv_bias: bool = True
    key_bias: bool = True
    block: str = "standard"
    attention: str = field(default="einsum", metadata=role(RUN))
    logits_dtype: str = field(default="compute", metadata=role(RUN))
    attention_mask: str = field(default="none", metadata=role(MEANING))
    attention_window: int = field(default=0, metadata=role(MEANING))
    mask_token: bool = False
    patch_outputs: int = 0
    patch_bias: bool = True
    resnet: tuple[int, ...] | None = None
    resnet_width: int = 64
    resnet_style: str = field(default="google", metadata=role(MEANING))
    unroll: int = field(default=0, metadata=role(RUN))
    remat: str = field(default="none", metadata=role(RUN))

    @property
    def resnet_stride(self) -> int:
        """Downsampling of the ResNet, 1 without."""
        return resnet_sizes.stride(self.resnet)

    @property
    def strides(self) -> tuple[int, int]:
        """(height, width) in pixels that a patch stands for."""
        return self.patch[0] * self.resnet_stride, self.patch[1] * self.resnet_stride

    @property
    def feature_size(self) -> tuple[int, int]:
        """(height, width) of what the patches are cut from: pixels or ResNet cells."""
        height, width = (-(-size // self.resnet_stride) for size in self.image_size)
        return height, width

    @property
    def feature_channels(self) -> int:
        """Channels of what the patches are cut from."""
        if self.resnet is None:
            return self.channels
        stages = len(self.resnet)
        return self.resnet_width * (4 * 2 ** (stages - 1) if stages else 1)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        (height, width), (p, q) = self.feature_size, self.patch
        return height // p, width // q

    @property
    def has_class_token(self) -> bool:
        """Whether a class token comes first."""
        return self.class_token == "yes"

    @property
    def prefix(self) -> int:
        """Tokens before the patches: the class token and the registers."""
        return int(self.has_class_token) + self.registers

    @property
    def positioned(self) -> int:
        """How many of the tokens before the patches have a position."""
        return min(self.prefix_positions, self.prefix)

    @property
    def rope_fixed_base(self) -> float:
        """The base of frequencies that are not learned; 0 where there are none."""
        return 0.0 if self.rope in ("none", "mixed") else self.rope_base

    @property
    def patches(self) -> int:
        """How many patches there are."""
        return math.prod(self.grid)

    @property
    def tokens(self) -> int:
        """Length of the encoder's sequence."""
        return self.patches + self.prefix

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def pooled_width(self) -> int:
        """Width of what the pool gives."""
        return self.width * (2 if self.pool in ("token_mean", "distilled") else 1)

    @property
    def pre_logits_width(self) -> int:
        """Outputs of the layer before the head; 0 without one."""
        return self.width if self.pre_logits is True else int(self.pre_logits)

    @property
    def feature_width(self) -> int:
        """Width of what feeds the head, or both heads of a distilled model."""
        return self.pre_logits_width or self.pooled_width

    @property
    def head_inputs(self) -> int:
        """Width of what one head reads."""
        return self.width if self.pool == "distilled" else self.feature_width
