"""Sizes, names and the `Architecture`: what decides parameters and forward pass.

Sources: the ViT paper's Table 1, section 4.1 and the released code of
google-research/vision_transformer; mu, M, So400m, g, G, e, g-opt and G-opt are
big_vision's.
"""

import dataclasses
import fnmatch
import math
import re
from collections.abc import Mapping
from typing import Any

from vit_jax import errors


@dataclasses.dataclass(frozen=True)
class Size:
    """Width (D), blocks, MLP width and heads of an encoder."""

    width: int
    depth: int
    mlp_width: int
    heads: int


SIZES: dict[str, Size] = {
    "mu": Size(32, 1, 128, 2),
    "Ti": Size(192, 12, 768, 3),
    "S": Size(384, 12, 1536, 6),
    # The paper's Figure 4: B with the hidden dimensions halved. It does not give the
    # head count; 6 keeps B's 64 dimensions a head.
    "b": Size(384, 12, 1536, 6),
    "M": Size(512, 12, 2048, 8),
    "B": Size(768, 12, 3072, 12),
    "L": Size(1024, 24, 4096, 16),
    "So400m": Size(1152, 27, 4304, 16),
    "H": Size(1280, 32, 5120, 16),
    "g": Size(1408, 40, 6144, 16),
    "g-opt": Size(1536, 40, 6144, 16),
    "G": Size(1664, 48, 8192, 16),
    "G-opt": Size(1536, 48, 8192, 16),
    "e": Size(1792, 56, 15360, 16),
}

# (ResNet, total downsampling in the name) -> (units a stage, patch on the feature map).
# "R+Ti/16" is the published name although its total downsampling is 32.
RESNETS: dict[str, tuple[tuple[int, ...], int]] = {
    "R/16": ((), 8),
    "R26/32": ((2, 2, 2, 2), 1),
    "R50/16": ((3, 4, 9), 1),
    "R50/32": ((3, 4, 6, 3), 1),
}

NAMES: tuple[str, ...] = (
    *("mu/16", "Ti/16", "S/16", "S/32", "b/32", "M/16", "M/32"),
    *("B/8", "B/16", "B/32", "L/16", "L/32", "So400m/14", "H/14"),
    *("g/14", "g-opt/14", "G/14", "G-opt/14", "e/14"),
    *("R+Ti/16", "R26+S/32", "R26+B/32"),
    *("R50+B/16", "R50+B/32", "R50+L/16", "R50+L/32"),
)

CHOICES: dict[str, tuple[str, ...]] = {
    "pool": ("token", "mean"),
    "posemb": ("learned",),
    "crop": ("error", "valid"),
    "gelu": ("tanh", "erf"),
    "compute_dtype": ("float32", "bfloat16"),
    "remat": ("none", "dots", "dots_nb", "full"),
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Everything that decides a model's parameters and its forward pass.

    Attributes:
        name: What it was asked for as, e.g. "B/16"; nothing is computed from it.
        width: D, the width of the tokens.
        depth: Encoder blocks.
        mlp_width: Hidden width of the blocks' MLPs.
        heads: Attention heads; they divide `width`.
        patch: (height, width) of a patch, in pixels, or in cells of the ResNet's
            feature map for a hybrid.
        image_size: (height, width) in pixels.
        num_classes: Outputs of the head; 0: no head, the forward pass returns features.
        pool: "token": a class token; "mean": the mean over all tokens.
        posemb: "learned": a 1-D table, one entry a token.
        pre_logits: A dense layer of width D and tanh before the head (pre-training).
        head_bias: Initial value of the head's bias.
        dropout: Rate after the position embedding, the attention output, GELU and
            the MLP output.
        attention_dropout: Rate on the attention probabilities.
        crop: "error": the patch must divide the image; "valid": what is left over at
            the bottom and right is not seen (the released code's VALID convolution).
        norm_epsilon: Of every LayerNorm.
        gelu: "tanh": the approximation of Google's code; "erf": exact.
        resnet: Units of each stage of a hybrid's ResNet, () for its root alone, None
            for no ResNet.
        resnet_width: Channels of the ResNet's root.
        compute_dtype: Of activations; parameters, LayerNorm statistics, softmax and
            logits are float32.
        unroll: Blocks a loop iteration; 0: all of them, a flat program.
        remat: What a block's backward pass computes again: "none", everything but the
            matrix products ("dots"), but those without batch ("dots_nb"), or "full".

    Raises:
        errors.UserError: values that do not fit together.
    """

    name: str
    width: int
    depth: int
    mlp_width: int
    heads: int
    patch: tuple[int, int]
    image_size: tuple[int, int]
    num_classes: int
    pool: str = "token"
    posemb: str = "learned"
    pre_logits: bool = False
    head_bias: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    crop: str = "error"
    norm_epsilon: float = 1e-6
    gelu: str = "tanh"
    resnet: tuple[int, ...] | None = None
    resnet_width: int = 64
    compute_dtype: str = "float32"
    unroll: int = 0
    remat: str = "none"

    def __post_init__(self):
        for field, known in CHOICES.items():
            errors.lookup(dict.fromkeys(known), getattr(self, field), field)
        for field in ("patch", "image_size"):
            value = getattr(self, field)
            if len(value) != 2 or min(value) < 1:
                raise errors.UserError(
                    f"{field}={value} must be two positive numbers: (height, width)."
                )
        for field in ("width", "depth", "mlp_width", "heads", "resnet_width"):
            if getattr(self, field) < 1:
                raise errors.UserError(
                    f"{field}={getattr(self, field)} must be at least 1."
                )
        for field in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise errors.UserError(
                    f"{field}={getattr(self, field)} must be in [0, 1)."
                )
        if self.num_classes < 0 or self.unroll < 0:
            raise errors.UserError(
                f"num_classes={self.num_classes} and unroll={self.unroll} must not be "
                "negative."
            )
        if self.width % self.heads:
            raise errors.UserError(
                f"heads={self.heads} must divide width={self.width}."
            )
        if self.resnet is not None and self.resnet_width % 32:
            raise errors.UserError(
                f"resnet_width={self.resnet_width} must be a multiple of 32, the "
                "groups of its GroupNorm."
            )
        self._check_image()

    def _check_image(self) -> None:
        features = self.feature_size
        valid = self.crop == "valid" and min(self.grid) > 0
        if valid or all(f % p == 0 for f, p in zip(features, self.patch)):
            return
        near = []
        for size, patch in zip(self.image_size, self.patch):
            stride = patch * self.resnet_stride
            low = size // stride * stride
            near.append([s for s in (low, low + stride) if s])
        sizes = ", ".join(f"{h}x{w}" for h, w in zip(near[0], near[1]))
        if len(near[0]) != len(near[1]):
            sizes = f"{near[0][-1]}x{near[1][-1]}"
        raise errors.UserError(
            f"image_size={_by(self.image_size)} is not a whole number of "
            f"{_by(self.patch)} patches"
            + (f" of the ResNet's {_by(features)} features" if self.resnet_used else "")
            + f".\nSizes near it that are: {sizes}. Or crop='valid': the rest at the "
            "bottom and right is not seen."
        )

    @property
    def resnet_used(self) -> bool:
        """Whether a ResNet comes before the patches."""
        return self.resnet is not None

    @property
    def resnet_stride(self) -> int:
        """Downsampling of the ResNet, 1 without."""
        return resnet_stride(self.resnet)

    @property
    def feature_size(self) -> tuple[int, int]:
        """(height, width) of what the patches are cut from: pixels or ResNet cells."""
        height, width = (-(-size // self.resnet_stride) for size in self.image_size)
        return height, width

    @property
    def feature_channels(self) -> int:
        """Channels of what the patches are cut from."""
        if self.resnet is None:
            return 3
        stages = len(self.resnet)
        return self.resnet_width * (4 * 2 ** (stages - 1) if stages else 1)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        (height, width), (p, q) = self.feature_size, self.patch
        return height // p, width // q

    @property
    def prefix(self) -> int:
        """Tokens before the patches: 1 with a class token."""
        return int(self.pool == "token")

    @property
    def tokens(self) -> int:
        """Length of the encoder's sequence."""
        return math.prod(self.grid) + self.prefix

    def replace(self, **changes: Any) -> "Architecture":
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Returns what JSON can hold and `from_dict` takes back."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Architecture":
        """The inverse of `to_dict`; refuses unknown and missing keys."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key in values:
            errors.lookup(fields, key, "architecture key")
        missing = [
            name
            for name, field in fields.items()
            if field.default is dataclasses.MISSING and name not in values
        ]
        if missing:
            raise errors.UserError(f"architecture: no value for {', '.join(missing)}.")
        return cls(
            **{
                key: tuple(value) if isinstance(value, list | tuple) else value
                for key, value in values.items()
            }
        )


def architecture(
    name: str,
    *,
    num_classes: int,
    image_size: int | tuple[int, int] = 224,
    **options: Any,
) -> Architecture:
    """Returns the architecture of a name such as "B/16", "Ti/4x8" or "R50+L/32".

    Args:
        name: A size of `SIZES`, a slash and the patch ("16", or "16x8": height x
            width); before the size "R50+" and the like for a hybrid.
        num_classes: Outputs of the head; 0: none, the model returns features.
        image_size: Pixels, one number or (height, width).
        **options: Any field of `Architecture`. 0 for width, depth, mlp_width or heads
            means the table's.

    Raises:
        errors.UserError: unknown name, size or option, or an image that the patches do
            not divide.
    """
    fields = _parse(name)
    known = [f.name for f in dataclasses.fields(Architecture)]
    for key, value in options.items():
        errors.lookup(dict.fromkeys(known), key, "model option")
        if value == 0 and key in ("width", "depth", "mlp_width", "heads"):
            continue
        fields[key] = tuple(value) if isinstance(value, list | tuple) else value
    fields["patch"] = pair(fields["patch"])
    return Architecture(
        **{"name": name, **fields},
        image_size=pair(image_size),
        num_classes=num_classes,
    )


def _parse(name: str) -> dict[str, Any]:
    found = re.fullmatch(r"(?:(R\d*)\+)?([A-Za-z0-9-]+)/(\d+)(?:x(\d+))?", name)
    if not found:
        raise errors.UserError(
            f"model {name!r} is not SIZE/PATCH such as 'B/16', 'Ti/4x8' or 'R50+B/16'."
            + errors.suggest(name, NAMES)
        )
    resnet, size, height, width = found.groups()
    fields = dataclasses.asdict(errors.lookup(SIZES, size, "model size"))
    fields["patch"] = (int(height), int(width or height))
    if resnet:
        key = f"{resnet}/{height}" + (f"x{width}" if width else "")
        fields["resnet"], fields["patch"] = errors.lookup(RESNETS, key, "hybrid ResNet")
    return fields


def resnet_stride(units: tuple[int, ...] | None) -> int:
    """Returns a ResNet's downsampling: 4 by its root, 2 by later stages."""
    return 1 if units is None else 4 * 2 ** max(len(units) - 1, 0)


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns (height, width) of one number or of two."""
    if isinstance(size, int):
        return size, size
    if len(size) != 2:
        raise errors.UserError(f"{size} must be one number or (height, width).")
    return int(size[0]), int(size[1])


def name_of(fields: Mapping[str, Any]) -> str:
    """Returns the name of the size, ResNet and patch among an architecture's fields.

    "custom/16" where the table has no such size, "custom+B/1" no such ResNet.
    """
    dimensions = (fields[f.name] for f in dataclasses.fields(Size))
    wanted = Size(*dimensions)
    size = next((name for name, size in SIZES.items() if size == wanted), "custom")
    height, width = fields["patch"]
    patch = str(height) if height == width else f"{height}x{width}"
    if fields["resnet"] is None:
        return f"{size}/{patch}"
    for key, (units, cells) in RESNETS.items():
        if units == fields["resnet"] and (height, width) == (cells, cells):
            resnet, total = key.split("/")
            return f"{resnet}+{size}/{total}"
    return f"custom+{size}/{patch}"


def list_names(pattern: str = "*") -> list[str]:
    """Returns the named models that match a shell pattern, e.g. "R50*".

    Any other patch size works too: "B/20", "S/16x8".
    """
    return [name for name in NAMES if fnmatch.fnmatchcase(name, pattern)]


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
