"""What the shape of a position table says of the grid of patches, and of the images."""

import math
from collections.abc import Mapping
from typing import Any

from vit_jax import errors
from vit_jax.models import resnet_sizes
from vit_jax.models.architecture import pair, size_text

Shapes = Mapping[str, tuple[int, ...]]
ImageSize = int | tuple[int, int] | None

# Leaf -> (kind, axes, the axis of the entries).
TABLES = {
    "posemb": ("learned", 3, 1),
    "blocks/posemb": ("learned", 4, 2),
    "relative": ("relative", 3, 0),
    "blocks/attn/relative": ("relative", 4, 1),
}


def shape(shapes: Shapes, name: str, axes: int) -> tuple[int, ...]:
    """Returns the shape of a leaf that every model has.

    Raises:
        errors.UserError: it is not there, or has other axes.
    """
    if name not in shapes:
        raise errors.UserError(f"has no tensor for our leaf {name!r}.")
    if len(shapes[name]) != axes or 0 in shapes[name]:
        raise errors.UserError(
            f"{name} has shape {shapes[name]}; want {axes} axes, none empty."
        )
    return shapes[name]


def of_grid(
    shapes: Shapes, fields: dict[str, Any]
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Returns the fields, and the image size, that go with a position table of a grid.

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
        entries = shape(shapes, table, axes)[axis]
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


def positions(
    shapes: Shapes,
    fields: dict[str, Any],
    trained: tuple[int, int] | None,
    image_size: ImageSize,
) -> dict[str, Any]:
    """Returns the kind of position embedding, and the image size of its table."""
    strides = tuple(p * resnet_sizes.stride(fields["resnet"]) for p in fields["patch"])
    if "posemb/row" in shapes:
        rows, _ = shape(shapes, "posemb/row", 2)
        columns, _ = shape(shapes, "posemb/column", 2)
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
    entries = shape(shapes, table, axes)[axis]
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


def _grid(
    patches: int,
    strides: tuple[int, int],
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
