"""What the dialects of PyTorch's codes have in common.

PyTorch's linear maps are [outputs, inputs], its convolutions [outputs, inputs, height,
width]; heads lie one after the other in the outputs of queries, keys and values.
"""

import dataclasses
import logging
import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from vit_jax import errors
from vit_jax.models import posemb
from vit_jax.models.architecture import size_text
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.weights.rules import Rule, Sizes
from vit_jax.weights.source import Tensors

# In units of 0..255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
# How position tables are resampled: timm's and, without antialias, most others' way.
SMOOTH = {"posemb_resample": "bicubic_antialias"}
SHARP = {"posemb_resample": "bicubic"}


def norm(ours: str, theirs: str) -> list[Rule]:
    """Rules of a LayerNorm or GroupNorm."""
    return [
        Rule(f"{ours}/scale", f"{theirs}.weight"),
        Rule(f"{ours}/bias", f"{theirs}.bias"),
    ]


def _transposed(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    return array.T


def _transposed_back(array: np.ndarray, *, sizes: Sizes) -> np.ndarray:
    return array.T


def linear(ours: str, theirs: str) -> list[Rule]:
    """Rules of a linear map of vectors."""
    return [
        Rule(f"{ours}/kernel", f"{theirs}.weight", _transposed, _transposed_back),
        Rule(f"{ours}/bias", f"{theirs}.bias"),
    ]


def _hwio(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    return array.transpose(2, 3, 1, 0)


def _oihw(array: np.ndarray, *, sizes: Sizes) -> np.ndarray:
    return array.transpose(3, 2, 0, 1)


def conv(ours: str, theirs: str) -> list[Rule]:
    """Rules of a convolution."""
    return [
        Rule(f"{ours}/kernel", f"{theirs}.weight", _hwio, _oihw),
        Rule(f"{ours}/bias", f"{theirs}.bias"),
    ]


def _split(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    """[heads * e, d] or [heads * e] to [d, heads, e] or [heads, e]."""
    return array.T.reshape(*array.shape[1:], sizes.heads, -1)


def _merge(array: np.ndarray, *, sizes: Sizes) -> np.ndarray:
    return array.reshape(*array.shape[:-2], -1).T


def into_heads(ours: str, theirs: str) -> list[Rule]:
    """Rules of a linear map to queries, keys or values."""
    return [
        Rule(f"{ours}/kernel", f"{theirs}.weight", _split, _merge),
        Rule(f"{ours}/bias", f"{theirs}.bias", _split, _merge),
    ]


def head_bias(ours: str, theirs: str) -> list[Rule]:
    """Returns the rule of a bias of queries, keys or values in a tensor of its own."""
    return [Rule(f"{ours}/bias", theirs, _split, _merge)]


def _from_heads(array: np.ndarray, sizes: Sizes) -> np.ndarray:
    return array.T.reshape(sizes.heads, -1, array.shape[0])


def _to_heads(array: np.ndarray, *, sizes: Sizes) -> np.ndarray:
    return array.reshape(-1, array.shape[-1]).T


def out_of_heads(ours: str, theirs: str) -> list[Rule]:
    """Rules of the linear map after attention."""
    return [
        Rule(f"{ours}/kernel", f"{theirs}.weight", _from_heads, _to_heads),
        Rule(f"{ours}/bias", f"{theirs}.bias"),
    ]


def fused(ours: tuple[str, ...], theirs: str, *, heads: bool) -> list[Rule]:
    """Rules of several maps of one input whose outputs are one after the other.

    Args:
        ours: Prefixes of our leaves, e.g. ("attn/query", "attn/key", "attn/value").
        theirs: Prefix of theirs, e.g. "attn.qkv".
        heads: Whether each is a map into heads.
    """
    one_load, one_save = (_split, _merge) if heads else (_transposed, _transposed_back)

    def load(array: np.ndarray, sizes: Sizes) -> tuple[np.ndarray, ...]:
        return tuple(one_load(part, sizes) for part in np.split(array, len(ours)))

    def save(*arrays: np.ndarray, sizes: Sizes) -> np.ndarray:
        return np.concatenate([one_save(array, sizes=sizes) for array in arrays])

    return [
        Rule(tuple(f"{name}/kernel" for name in ours), f"{theirs}.weight", load, save),
        Rule(tuple(f"{name}/bias" for name in ours), f"{theirs}.bias", load, save),
    ]


def renamed(leaves: Tensors, old: str, new: str) -> Tensors:
    """Returns the same with another start of some names."""
    return leaves.renamed({re.sub(rf"^{old}/", f"{new}/", n): n for n in leaves.names})


def learned_positions(
    leaves: Tensors, arch: VitArchitecture
) -> tuple[Tensors, VitArchitecture]:
    """Writes fixed positions out as a table, as if they had been learned."""
    if arch.posemb not in posemb.FIXED or arch.posemb_at != "stem":
        return leaves, arch
    table = posemb.FIXED[arch.posemb](arch.grid, arch.width)[None].astype(np.float32)
    return (
        leaves.changed({"posemb": (table.shape, lambda: table)}),
        arch.replace(posemb="learned", prefix_positions=0),
    )


def with_positions(
    leaves: Tensors, arch: VitArchitecture, count: int
) -> tuple[Tensors, VitArchitecture]:
    """Lets exactly `count` of the tokens before the patches have a position.

    The function stays the same: a position taken away is added to its token, one put
    in is zero.
    """
    count = min(count, arch.prefix)
    if arch.posemb != "learned" or arch.posemb_at != "stem" or arch.positioned == count:
        return leaves, arch
    had = arch.positioned
    first, entries, width = leaves.shapes["posemb"]

    def table() -> np.ndarray:
        old = leaves.read("posemb")
        zeros = np.zeros((first, max(count - had, 0), width), old.dtype)
        kept = old[:, : min(count, had)]
        return np.concatenate([kept, zeros, old[:, had:]], axis=1)

    def tokens(name: str, start: int, number: int) -> np.ndarray:
        taken = np.zeros((1, arch.prefix, width), np.float32)
        taken[:, count:had] = leaves.read("posemb")[:, count:had]
        return leaves.read(name) + taken[:, start : start + number]

    changes: dict[str, Any] = {"posemb": ((first, entries + count - had, width), table)}
    start = 0
    for name in ("cls", "registers"):
        if name in leaves.shapes:
            number = leaves.shapes[name][1]
            if count < had:
                span = (name, start, number)
                changes[name] = (leaves.shapes[name], lambda s=span: tokens(*s))
            start += number
    return leaves.changed(changes), arch.replace(prefix_positions=count)


def positioned(
    entries: int,
    prefix: int,
    patch: tuple[int, ...],
    image_size: tuple[int, int] | None,
) -> int:
    """Returns how many tokens before the patches a table of `entries` has a place for.

    All of them or none is likelier than some; all where nothing fits.

    Args:
        entries: Of the table.
        prefix: How many such tokens there are.
        patch: Pixels.
        image_size: Pixels it may have been made for; else a square grid is looked for.
    """
    orders = [prefix, 0, *range(1, prefix)]
    if image_size is not None:
        grid = math.prod(size // p for size, p in zip(image_size, patch))
        if entries - grid in orders:
            return entries - grid
    rests = {count: entries - count for count in orders if entries > count}
    squares = [c for c, rest in rests.items() if math.isqrt(rest) ** 2 == rest]
    return squares[0] if squares else prefix


def square_table(
    shapes: Mapping[str, tuple[int, ...]], said: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the grid of a table that its code takes for square at every size.

    DINOv2's does, also at an image size of its own config that has as many patches in
    other rows and columns. {} where the size in `said` is square, or the table none.
    """
    tables = [s for n, s in shapes.items() if n.endswith("position_embeddings")]
    patches = tables[0][1] - 1 if tables and len(tables[0]) == 3 else 0
    side = math.isqrt(max(patches, 0))
    height, width = said["image_size"] if "image_size" in said else (1, 1)
    square = height == width or not side or side**2 != patches
    return {} if square else {"grid": (side, side)}


def check_square(arch: VitArchitecture, code: str) -> None:
    """Says, or raises `UserError` if it would be silent, that `code` has square tables.

    Its readers fail on a number of positions that is no square, and take one that is
    for a square's.
    """
    side = math.isqrt(arch.patches)
    if arch.posemb != "learned" or arch.grid[0] == arch.grid[1]:
        return
    if side**2 == arch.patches:
        raise errors.UserError(
            f"{code} takes a table of {arch.patches} positions for {side}x{side}; this "
            f"{arch.name} has {size_text(arch.grid)}. Write another dialect."
        )
    logging.warning(
        "%s runs only with square position tables, not with %s: vit_jax reads what is "
        "written, that code does not.",
        *(code, size_text(arch.grid)),
    )


def is_one_of(value: Any, known: Collection[str]) -> bool:
    """Returns whether a config says a known word; lists cannot be looked up."""
    return isinstance(value, str) and value in known


def whole(config: Mapping[str, Any], key: str, least: int = 1) -> int | None:
    """Returns a whole number of a config, None without it, or raises `UserError`."""
    value = config[key] if key in config else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise errors.UserError(
            f"config.json: {key}={str(value)[:50]!r}; want a whole number from {least}."
        )
    return value


def number(config: Mapping[str, Any], key: str) -> float | None:
    """Returns a number of a config above 0, None without it, or raises `UserError`."""
    value = config[key] if key in config else None
    if value is None:
        return None
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not 0 < value < math.inf:
        raise errors.UserError(
            f"config.json: {key}={str(value)[:50]!r}; want a number above 0."
        )
    return float(value)


def size_of(config: Mapping[str, Any], key: str) -> tuple[int, int] | None:
    """Returns (height, width) of a config: a number, two, or {"height", "width"}."""
    value = config[key] if key in config else None
    if value is None:
        return None
    if isinstance(value, Mapping) and {"height", "width"} <= set(value):
        value = [value["height"], value["width"]]
    pair = [value, value] if isinstance(value, int) else value
    sides = list(pair) if isinstance(pair, list | tuple) else []
    good = [isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sides]
    if len(good) != 2 or not all(good):
        raise errors.UserError(
            f"config.json: {key}={str(value)[:60]}; want pixels: one number or two."
        )
    return int(sides[0]), int(sides[1])


def channels(
    config: Mapping[str, Any], key: str, factor: float
) -> tuple[float, float, float] | None:
    """Returns three numbers of a config times a factor, None without them.

    One number is that of all channels; of more than three, which are not of color
    images, the first three are taken.
    """
    value = config[key] if key in config else None
    if value is None:
        return None
    values = value if isinstance(value, list | tuple) else [value]
    values = values * 3 if len(values) == 1 else values[:3]
    good = [isinstance(v, int | float) and not isinstance(v, bool) for v in values]
    if len(good) != 3 or not all(good):
        raise errors.UserError(
            f"config.json: {key}={str(value)[:60]}; want three numbers."
        )
    first, second, third = (digits(v * factor) for v in values)
    return first, second, third


def digits(value: float) -> float:
    """Returns a number without the last digits, which arithmetic makes up."""
    return float(f"{value:.9g}")


def prefixed(prefix: str, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Returns rules for names that start with a prefix."""
    return tuple(
        dataclasses.replace(rule, theirs=f"{prefix}{rule.theirs}") for rule in rules
    )


def side(size: tuple[int, int]) -> int | list[int]:
    """Returns one number for a square, else both."""
    return size[0] if size[0] == size[1] else list(size)


def ratio(width: int, hidden: int) -> float:
    """Returns what times the width gives, cut to a whole number, the hidden width."""
    return (
        hidden / width
        if int(width * (hidden / width)) == hidden
        else ((hidden + 0.5) / width)
    )
