"""Names of MLP-Mixers: google-research/vision_transformer's and big_vision's.

Both write the same Linen names. Files from before Linen keep the two kernels of an MLP
in one module, as `kernel1` and `kernel2`, possibly with axes of length 1; their second
LayerNorm is read as number 1 or 2 and written as 1.
"""

import math
from collections.abc import Mapping

import numpy as np

from vit_jax import errors
from vit_jax.models import mixer
from vit_jax.models.architecture import pair, size_text
from vit_jax.weights.rules import Rule, Sizes

_BLOCK = "MixerBlock_{layer}"
_OLD_BLOCK = "Mixer/encoderblock_{layer}"


def _squeezed(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    return array.squeeze()


def _old_mlp(ours: str, theirs: str) -> list[Rule]:
    return [
        Rule(f"{ours}/{layer}/{leaf}", f"{theirs}/{leaf}{number}", load=_squeezed)
        for layer, number in (("up", 1), ("down", 2))
        for leaf in ("kernel", "bias")
    ]


MIXER = [
    Rule("patch_embed/{leaf}", "stem/{leaf}"),
    Rule("blocks/norm1/{leaf}", f"{_BLOCK}/LayerNorm_0/{{leaf}}"),
    Rule("blocks/tokens/up/{leaf}", f"{_BLOCK}/token_mixing/Dense_0/{{leaf}}"),
    Rule("blocks/tokens/down/{leaf}", f"{_BLOCK}/token_mixing/Dense_1/{{leaf}}"),
    Rule("blocks/norm2/{leaf}", f"{_BLOCK}/LayerNorm_1/{{leaf}}"),
    Rule("blocks/channels/up/{leaf}", f"{_BLOCK}/channel_mixing/Dense_0/{{leaf}}"),
    Rule("blocks/channels/down/{leaf}", f"{_BLOCK}/channel_mixing/Dense_1/{{leaf}}"),
    Rule("norm/{leaf}", "pre_head_layer_norm/{leaf}"),
    Rule("head/{leaf}", "head/{leaf}"),
]
MIXER_OLD = [
    Rule("patch_embed/{leaf}", "embedding/{leaf}"),
    Rule("blocks/norm1/{leaf}", f"{_OLD_BLOCK}/LayerNorm_0/{{leaf}}"),
    *_old_mlp("blocks/tokens", f"{_OLD_BLOCK}/token_mixing_phase_0"),
    Rule("blocks/norm2/{leaf}", f"{_OLD_BLOCK}/LayerNorm_1/{{leaf}}"),
    Rule("blocks/norm2/{leaf}", f"{_OLD_BLOCK}/LayerNorm_2/{{leaf}}"),
    *_old_mlp("blocks/channels", f"{_OLD_BLOCK}/channel_mixing_phase_0"),
    Rule("norm/{leaf}", "Mixer/encoder_norm/{leaf}"),
    Rule("head/{leaf}", "head/{leaf}"),
]
MARKER = r"MixerBlock_\d+/token_mixing/.*"
MARKER_OLD = r"Mixer/encoderblock_\d+/token_mixing_phase_0/.*"


def infer(
    shapes: Mapping[str, tuple[int, ...]],
    image_size: int | tuple[int, int] | None = None,
) -> mixer.MixerArchitecture:
    """Returns the architecture that the shapes of our named leaves imply.

    Args:
        shapes: Of a Mixer's leaves.
        image_size: Consulted where the patches are not those of a square.

    Raises:
        errors.UserError: leaves that every Mixer has are missing or misshapen, or the
            number of patches is no square and the image size unknown.
    """
    p, q, channels, width = _shape(shapes, "patch_embed/kernel", 4)
    depth, tokens, tokens_width = _shape(shapes, "blocks/tokens/up/kernel", 3)
    size = mixer.Size(
        width, depth, tokens_width, _shape(shapes, "blocks/channels/up/kernel", 3)[2]
    )
    name = next(
        (name for name, known in mixer.SIZES.items() if known == size), "custom"
    )
    head = "head/kernel"
    sides = _image_size(tokens, (p, q), image_size)
    return mixer.MixerArchitecture(
        name=f"{mixer.PREFIX}{name}/{p if p == q else size_text((p, q))}",
        image_size=sides,
        num_classes=_shape(shapes, head, 2)[1] if head in shapes else 0,
        channels=channels,
        patch=(p, q),
        width=width,
        depth=depth,
        tokens_mlp_width=size.tokens_mlp_width,
        channels_mlp_width=size.channels_mlp_width,
        crop="valid" if sides[0] % p or sides[1] % q else "error",
    )


def _shape(
    shapes: Mapping[str, tuple[int, ...]], name: str, ndim: int
) -> tuple[int, ...]:
    if name not in shapes:
        raise errors.UserError(f"has no tensor for our leaf {name!r}.")
    if len(shapes[name]) != ndim or 0 in shapes[name]:
        raise errors.UserError(
            f"{name} has shape {shapes[name]}; want {ndim} axes, none empty."
        )
    return shapes[name]


def _image_size(
    tokens: int,
    patch: tuple[int, int],
    image_size: int | tuple[int, int] | None,
) -> tuple[int, int]:
    if image_size is not None:
        height, width = pair(image_size)
        if (height // patch[0]) * (width // patch[1]) == tokens:
            return height, width
    side = math.isqrt(tokens)
    if image_size is None and side * side == tokens:
        return side * patch[0], side * patch[1]
    raise errors.UserError(
        f"its MLPs over the patches are for {tokens} patches of {size_text(patch)} "
        "pixels"
        + (
            ""
            if image_size is None
            else f", not for an image of {size_text(pair(image_size))}"
        )
        + "; a Mixer has no other size than the one it was trained at: pass that as "
        "image_size."
    )
