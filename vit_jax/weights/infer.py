"""From the shapes of our leaves to an architecture."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax import errors
from vit_jax.models import families, roles, variants
from vit_jax.models.architecture import Architecture, pair
from vit_jax.models.vit_architecture import VitArchitecture
from vit_jax.weights import grids
from vit_jax.weights.dialects import bit, mixer
from vit_jax.weights.grids import ImageSize, Shapes


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
    known = {f.name for f in dataclasses.fields(families.named(family).architecture)}
    known = (known | ({"grid"} if family == "vit" else set())) - {"name"}
    for field in fields or {}:
        errors.lookup(dict.fromkeys(known), field, "model option")
    fields = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in (fields or {}).items()
    }
    for key in {"patch", "grid"} & set(fields):
        fields[key] = pair(fields[key])
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
    rest = any(size % stride for size, stride in zip(image_size, arch.strides))
    return arch.replace_known(crop="valid") if rest else arch


def differences(ours: Architecture, theirs: Architecture) -> list[str]:
    """Returns a line for each field by which the same weights mean another function."""
    stored = roles.Role.SHAPE, roles.Role.MEANING, roles.Role.TASK
    fields = roles.compared(type(ours), *stored)
    return [
        f"{field}={getattr(ours, field)!r}: it would be {getattr(theirs, field)!r}"
        for field in fields
        if getattr(ours, field) != getattr(theirs, field)
    ]


def _block(shapes: Shapes) -> tuple[str, str]:
    """The kind of the blocks and where one attention and MLP of theirs are."""
    if any(name.startswith("blocks/row/") for name in shapes):
        return "axial", "blocks/row"
    return "standard", "blocks"


def _encoder(shapes: Shapes) -> tuple[int, int, int]:
    """(depth, width, hidden width)."""
    block = _block(shapes)[1]
    depth, width, _, _ = grids.shape(shapes, f"{block}/attn/query/kernel", 4)
    return depth, width, grids.shape(shapes, f"{block}/mlp/up/kernel", 3)[2]


def _vit(
    shapes: Shapes, given: dict[str, Any], image_size: ImageSize
) -> VitArchitecture:
    kind, block = _block(shapes)
    depth, width, hidden = _encoder(shapes)
    inferred = {
        "channels": grids.shape(shapes, _first_kernel(shapes), 4)[2],
        "width": width,
        "depth": depth,
        "mlp_width": hidden,
        "heads": grids.shape(shapes, f"{block}/attn/query/kernel", 4)[2],
        "patch": grids.shape(shapes, "patch_embed/kernel", 4)[:2],
        "block": kind,
        "patch_bias": "patch_embed/bias" in shapes,
        "class_token": "yes" if "cls" in shapes else "no",
        "qkv_bias": f"{block}/attn/query/bias" in shapes,
        "key_bias": f"{block}/attn/key/bias" in shapes,
        "rope": "mixed" if f"{block}/attn/frequencies" in shapes else "none",
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
        fields, trained = grids.of_grid(shapes, fields)
    positions = grids.positions(shapes, fields, trained, image_size)
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
        pooled, fields["num_classes"] = grids.shape(shapes, "head/kernel", 2)
    if "pre_logits/kernel" in shapes:
        pooled, fields["pre_logits"] = grids.shape(shapes, "pre_logits/kernel", 2)
    if pooled == 2 * width and "cls" in shapes:
        pool = "token_mean"
    if "head_dist/kernel" in shapes:
        pool = "distilled"
    fields["pool"] = "map" if "map/probe" in shapes else pool
    if fields["resnet"] is not None:
        fields["resnet_width"] = grids.shape(shapes, "resnet/root/conv/kernel", 4)[3]
    if "registers" in shapes:
        fields["registers"] = grids.shape(shapes, "registers", 3)[1]
    if "patch_head/kernel" in shapes:
        fields["patch_outputs"] = grids.shape(shapes, "patch_head/kernel", 2)[1]
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
