"""From the shapes of our leaves to an architecture."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax import errors
from vit_jax.models import families, resnet_sizes, variants
from vit_jax.models.architecture import Architecture, pair, size_text
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.weights.dialects import bit, mixer

Shapes = Mapping[str, tuple[int, ...]]
ImageSize = int | tuple[int, int] | None

# Fields that another code's weights need not know: they are of training, of how a
# computation is run, or of how parameters start.
NOT_STORED = {
    *("name", "image_size", "head_bias", "layer_scale", "crop"),
    *("posemb_std", "posemb_resample"),
    *("dropout", "attention_dropout", "drop_path"),
    *("compute_dtype", "logits_dtype", "attention", "unroll", "remat"),
}


class UnknownHeads(errors.UserError):
    """Nothing says how many attention heads there are."""


def architecture(
    shapes: Shapes,
    fields: Mapping[str, Any] | None = None,
    image_size: ImageSize = None,
    family: str = "vit",
) -> Architecture:
    """Returns the architecture that the shapes of our named leaves imply.

    Args:
        shapes: Of all leaves, by name.
        fields: What else is known of it, over what the shapes imply; "image_size" is
            the one it was trained at; "grid" (rows, columns) that of the position
            table, where the size does not show it.
        image_size: The one it shall have, consulted where the shapes do not say.
        family: Key of `families.FAMILIES`.

    Raises:
        errors.UserError: leaves that every model has are missing or misshapen, an
            unknown field, or a size that must be given.
    """
    known = {f.name for f in dataclasses.fields(families.FAMILIES[family].architecture)}
    known |= {"grid"} if family == "vit" else set()
    for field in fields or {}:
        errors.lookup(dict.fromkeys(known), field, "model option")
    fields = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in (fields or {}).items()
    }
    return FAMILIES[family](shapes, fields, image_size)


def known_heads(shapes: Shapes) -> int:
    """Returns the heads of the named ViT of this width and MLP width.

    big_vision's "mu" is too small to be more than somebody's test.

    Raises:
        UnknownHeads: there is none.
    """
    width, hidden = _encoder(shapes)[1:]
    for name, size in variants.SIZES.items():
        if name != "mu" and (size.width, size.mlp_width) == (width, hidden):
            return size.heads
    raise UnknownHeads(
        f"its tensors do not say how many heads share a width of {width}: pass heads=, "
        "e.g. vit_jax.load(path, heads=12)."
    )


def with_rest(arch: Architecture, image_size: tuple[int, int]) -> Architecture:
    """Returns the same, which leaves a rest of such images unseen if there is one."""
    if not hasattr(arch, "crop"):
        return arch
    strides = [p * getattr(arch, "resnet_stride", 1) for p in arch.patch]
    rest = any(size % stride for size, stride in zip(image_size, strides))
    return arch.replace(crop="valid") if rest else arch


def differences(ours: Architecture, theirs: Architecture) -> list[str]:
    """Returns a line for each field by which the same weights mean another function."""
    fields = [f.name for f in dataclasses.fields(ours) if f.name not in NOT_STORED]
    fields = ["positioned" if f == "prefix_positions" else f for f in fields]
    return [
        f"{field}={getattr(ours, field)!r}: it would be {getattr(theirs, field)!r}"
        for field in fields
        if getattr(ours, field) != getattr(theirs, field)
    ]


def _shape(shapes: Shapes, name: str, axes: int) -> tuple[int, ...]:
    if name not in shapes:
        raise errors.UserError(f"has no tensor for our leaf {name!r}.")
    if len(shapes[name]) != axes or 0 in shapes[name]:
        raise errors.UserError(
            f"{name} has shape {shapes[name]}; want {axes} axes, none empty."
        )
    return shapes[name]


def _block(shapes: Shapes) -> tuple[str, str]:
    """The kind of the blocks and where one attention and MLP of theirs are."""
    if any(name.startswith("blocks/row/") for name in shapes):
        return "axial", "blocks/row"
    return "standard", "blocks"


def _encoder(shapes: Shapes) -> tuple[int, int, int]:
    """(depth, width, hidden width)."""
    block = _block(shapes)[1]
    depth, width, _, _ = _shape(shapes, f"{block}/attn/query/kernel", 4)
    return depth, width, _shape(shapes, f"{block}/mlp/up/kernel", 3)[2]


def _vit(
    shapes: Shapes, given: dict[str, Any], image_size: ImageSize
) -> VitArchitecture:
    kind, block = _block(shapes)
    depth, width, hidden = _encoder(shapes)
    inferred = {
        "channels": _shape(shapes, _first_kernel(shapes), 4)[2],
        "width": width,
        "depth": depth,
        "mlp_width": hidden,
        "heads": _shape(shapes, f"{block}/attn/query/kernel", 4)[2],
        "patch": _shape(shapes, "patch_embed/kernel", 4)[:2],
        "block": kind,
        "patch_bias": "patch_embed/bias" in shapes,
        "class_token": "yes" if "cls" in shapes else "no",
        "qkv_bias": f"{block}/attn/query/bias" in shapes,
        "qk_norm": f"{block}/attn/query_norm/scale" in shapes,
        "mlp": "swiglu" if f"{block}/mlp/gate/kernel" in shapes else "gelu",
        "layer_scale": 1e-5 if f"{block}/scale1" in shapes else 0.0,
        "mask_token": "mask_token" in shapes,
        "stem_norm": "stem_norm/scale" in shapes,
        "final_norm": "tokens" if "norm/scale" in shapes else "none",
        "prefix_positions": 1,
        **_sizes(shapes, width),
    }
    fields = inferred | given
    trained = pair(fields.pop("image_size")) if "image_size" in fields else None
    if "grid" in fields:
        fields, trained = _of_grid(shapes, fields)
    positions = _positions(shapes, fields, trained, image_size)
    return VitArchitecture(name=variants.name_of(fields), **(positions | fields))


def _first_kernel(shapes: Shapes) -> str:
    """The leaf that images meet first."""
    return "resnet/root/conv/kernel" if _is_hybrid(shapes) else "patch_embed/kernel"


def _is_hybrid(shapes: Shapes) -> bool:
    return any(name.startswith("resnet/") for name in shapes)


def _sizes(shapes: Shapes, width: int) -> dict[str, Any]:
    """What the pooling, the head and the optional leaves show."""
    fields: dict[str, Any] = {
        "num_classes": 0,
        "pre_logits": False,
        "registers": 0,
        "resnet": _resnet_units(shapes),
    }
    pool = "token" if "cls" in shapes else "mean"
    pooled = width
    if "head/kernel" in shapes:
        pooled, fields["num_classes"] = _shape(shapes, "head/kernel", 2)
    if "pre_logits/kernel" in shapes:
        pooled, fields["pre_logits"] = _shape(shapes, "pre_logits/kernel", 2)
    if pooled == 2 * width and "cls" in shapes:
        pool = "token_mean"
    if "head_dist/kernel" in shapes:
        pool = "distilled"
    fields["pool"] = "map" if "map/probe" in shapes else pool
    if fields["resnet"] is not None:
        fields["resnet_width"] = _shape(shapes, "resnet/root/conv/kernel", 4)[3]
    if "registers" in shapes:
        fields["registers"] = _shape(shapes, "registers", 3)[1]
    if "patch_head/kernel" in shapes:
        fields["patch_outputs"] = _shape(shapes, "patch_head/kernel", 2)[1]
    return fields


def _resnet_units(shapes: Shapes) -> tuple[int, ...] | None:
    if not _is_hybrid(shapes):
        return None
    names = [name.split("/") for name in shapes if name.startswith("resnet/")]
    units = {(n[1], n[2]) for n in names if n[1] != "root"}
    stages = {stage for stage, _ in units}
    return tuple(
        sum(stage == f"stage{i + 1}" for stage, _ in units) for i in range(len(stages))
    )


def _of_grid(
    shapes: Shapes, fields: dict[str, Any]
) -> tuple[dict[str, Any], tuple[int, int]]:
    """The fields, and the image size, that go with a position table of a grid.

    Raises:
        errors.UserError: there is no table, or none of this grid.
    """
    fields = dict(fields)
    grid = pair(fields.pop("grid"))
    prefix = (fields["class_token"] == "yes") + fields["registers"]
    patches = math.prod(grid)
    if "posemb/row" in shapes:
        rows, columns = shapes["posemb/row"][0], shapes["posemb/column"][0]
        have, good = f"{rows} rows and {columns} columns", grid == (rows, columns)
    elif table := next((name for name in TABLES if name in shapes), None):
        kind, axes, axis = TABLES[table]
        entries = _shape(shapes, table, axes)[axis]
        if kind == "relative":
            count, good = 0, entries == 2 * (patches + prefix) - 1
        else:
            count = entries - patches
            good = 0 <= count <= prefix
            fields["prefix_positions"] = count
        have = f"{entries} entries for patches and up to {prefix} more tokens"
    else:
        have, good = "none", False
    if not good or min(grid) < 1:
        raise errors.UserError(
            f"grid={size_text(grid)} is {patches} patches; its position table has "
            f"{have}.\nPass the (rows, columns) it was trained with, or leave grid out."
        )
    return fields, _size_of(grid, fields)


def _size_of(grid: tuple[int, int], fields: dict[str, Any]) -> tuple[int, int]:
    """(height, width) of images of a grid of patches."""
    stride = resnet_sizes.stride(fields["resnet"])
    height, width = (n * p * stride for n, p in zip(grid, fields["patch"]))
    return height, width


def _positions(
    shapes: Shapes,
    fields: dict[str, Any],
    trained: tuple[int, int] | None,
    image_size: ImageSize,
) -> dict[str, Any]:
    """The kind of position embedding, and the image size that its table shows."""
    strides = tuple(p * resnet_sizes.stride(fields["resnet"]) for p in fields["patch"])
    if "posemb/row" in shapes:
        rows, _ = _shape(shapes, "posemb/row", 2)
        columns, _ = _shape(shapes, "posemb/column", 2)
        size = rows * strides[0], columns * strides[1]
        return {"posemb": "learned_2d", "image_size": size}
    table = next((name for name in TABLES if name in shapes), None)
    if table is None:
        sizes = [size for size in (trained, image_size) if size is not None]
        if not sizes:
            raise errors.UserError(
                "it has no position table, so its tensors do not say the image size: "
                "pass image_size=, e.g. vit_jax.load(path, image_size=224)."
            )
        size = pair(sizes[0])
        grid = size[0] // strides[0], size[1] // strides[1]
        return {"posemb": "none", **_seen(grid, strides, size)}
    kind, axes, axis = TABLES[table]
    entries = _shape(shapes, table, axes)[axis]
    prefix = (fields["class_token"] == "yes") + fields["registers"]
    if kind == "relative":
        patches = (entries + 1) // 2 - prefix
    else:
        patches = entries - min(fields["prefix_positions"], prefix)
    grid = _grid(patches, strides, trained, image_size)
    return {
        "posemb": kind,
        "posemb_at": "every" if table.startswith("blocks/") else "stem",
        **_seen(grid, strides, trained),
    }


def _seen(
    grid: tuple[int, int], strides: tuple[int, ...], trained: tuple[int, int] | None
) -> dict[str, Any]:
    """The image size of a grid: that trained at, whose rest the patches may not see."""
    size = grid[0] * strides[0], grid[1] * strides[1]
    rest = [t - s for t, s in zip(trained or size, size)]
    if any(rest) and all(0 <= r < s for r, s in zip(rest, strides)):
        return {"image_size": trained, "crop": "valid"}
    return {"image_size": size}


# Leaf -> (kind, axes, the axis of the entries).
TABLES = {
    "posemb": ("learned", 3, 1),
    "blocks/posemb": ("learned", 4, 2),
    "relative": ("relative", 3, 0),
    "blocks/attn/relative": ("relative", 4, 1),
}


def _grid(
    patches: int,
    strides: tuple[int, ...],
    trained: tuple[int, int] | None,
    image_size: ImageSize,
) -> tuple[int, int]:
    """(rows, columns) of so many patches: of the size trained at, or of a square."""
    side = math.isqrt(max(patches, 0))
    square = [(side, side)] if side and side * side == patches else []
    sizes = [pair(size) if size is not None else None for size in (trained, image_size)]
    grids = [
        [(size[0] // strides[0], size[1] // strides[1])] if size else []
        for size in sizes
    ]
    for grid in (*grids[0], *square, *grids[1]):
        if math.prod(grid) == patches:
            return grid
    raise errors.UserError(
        f"its position table has {patches} entries for patches of {size_text(strides)} "
        "pixels, which is no square; pass the image_size it was trained at, or the "
        "table's grid=(rows, columns)."
    )


def _of_family(
    infer: Callable[[Shapes, ImageSize], Architecture],
) -> Callable[[Shapes, dict[str, Any], ImageSize], Architecture]:
    """A family's own inference, then what else is known."""

    def architecture(
        shapes: Shapes, given: dict[str, Any], image_size: ImageSize
    ) -> Architecture:
        if image_size is None and "image_size" in given:
            image_size = pair(given["image_size"])
        rest = {key: given[key] for key in given if key != "image_size"}
        return infer(shapes, image_size).replace(**rest)

    return architecture


FAMILIES: dict[str, Callable[[Shapes, dict[str, Any], ImageSize], Architecture]] = {
    "vit": _vit,
    "bit": _of_family(bit.infer),
    "mixer": _of_family(mixer.infer),
}
