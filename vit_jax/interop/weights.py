"""From a file of another code to our architecture and parameters, and back."""

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import errors, tree
from vit_jax.data import preprocessing as preprocessing_lib
from vit_jax.interop import dialects, npz, posemb, rules
from vit_jax.models import build, variants
from vit_jax.models.architecture import Architecture, pair

Leaves = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Weights:
    """What a file of weights says.

    Attributes:
        architecture: Read from the shapes of the tensors.
        params: Nested dicts of float32 arrays under our names, blocks stacked.
        preprocessing: How the code that wrote them evaluates.
        dialect: Key of `dialects.DIALECTS`.
        label_names: One a class, where the file has them.
    """

    architecture: Architecture
    params: dict[str, Any]
    preprocessing: preprocessing_lib.Preprocessing
    dialect: str
    label_names: tuple[str, ...] | None = None


def read(
    path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    method: str = "corners",
) -> Weights:
    """Reads an `.npz` of google-research/vision_transformer or of big_vision.

    Args:
        path: The file.
        image_size: Pixels (one number or height, width) to resample the position
            table for; None: the size it was trained at.
        method: See `posemb.resample_posemb`.

    Raises:
        errors.UserError: a file that is missing or damaged, in an unknown layout, or
            with tensors that have no place or do not fit together.
    """
    path = Path(path)
    if not path.is_file():
        raise errors.UserError(f"{path} is no file.")
    prefix, names = dialects.select(npz.names(path))
    tensors = npz.read(path, set(names).__contains__)
    tensors = {name.removeprefix(prefix): tensors[name] for name in names}
    try:
        dialect = dialects.recognise(tensors)
        entry = dialects.DIALECTS[dialect]
        leaves = entry.loaded(rules.load(entry.rules, tensors))
        arch = infer(leaves, image_size)
        leaves = _at_size(leaves, arch, image_size, method)
        if image_size is not None:
            arch = arch.replace(image_size=pair(image_size))
        check_shapes(leaves, arch)
    except errors.UserError as error:
        raise errors.UserError(f"{path}: {error}") from None
    if "head/kernel" in leaves and not leaves["head/kernel"].any():
        logging.warning(
            "%s: its head is all zeros, as in the published ImageNet-21k files of the "
            "paper: every class gets the same score. Features are fine; fine-tune, or "
            "take a file with a head.",
            path,
        )
    return Weights(
        arch,
        tree.from_named(dict(leaves)),
        preprocessing_lib.Preprocessing(image_size=arch.image_size),
        dialect,
    )


def write(
    weights: Weights, path: str | Path, dialect: str | None = None
) -> dict[str, tuple[int, ...]]:
    """Writes weights in a dialect (None: the one they came in) as `.npz`.

    Returns:
        The names and shapes written.

    Raises:
        errors.UserError: an unknown dialect, or one that cannot say all of the model.
    """
    name = dialect or weights.dialect
    entry = errors.lookup(dialects.DIALECTS, name, "dialect")
    leaves = {n: np.asarray(a) for n, a in tree.named_leaves(weights.params)}
    tensors = rules.save(entry.rules, entry.saved(leaves))
    tensors = {f"{entry.prefix}{n}": array for n, array in tensors.items()}
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        np.savez(stream, **tensors)
    os.replace(partial, path)
    return {n: array.shape for n, array in tensors.items()}


def infer(
    leaves: Leaves, image_size: int | tuple[int, int] | None = None
) -> variants.VitArchitecture:
    """Returns the architecture that the shapes of our named leaves imply.

    Args:
        leaves: Named leaves.
        image_size: Consulted where the position table is not that of a square.

    Raises:
        errors.UserError: leaves that every model has are missing or misshapen.
    """
    width, depth, heads, hidden = _encoder_shape(leaves)
    units = _resnet_units(leaves)
    fields = {
        "width": width,
        "depth": depth,
        "mlp_width": hidden,
        "heads": heads,
        "patch": _leaf(leaves, "patch_embed/kernel", 4).shape[:2],
        "resnet": units,
    }
    if units is not None:
        fields["resnet_width"] = _leaf(leaves, "resnet/root/conv/kernel", 4).shape[3]
    strides = tuple(p * variants.resnet_stride(units) for p in fields["patch"])
    prefix = int("cls" in leaves)
    entries = _leaf(leaves, "posemb", 3).shape[1] - prefix
    rows, columns = _grid(entries, strides, image_size)
    num_classes = 0
    if "head/kernel" in leaves:
        num_classes = _leaf(leaves, "head/kernel", 2).shape[1]
    return variants.VitArchitecture(
        name=variants.name_of(fields),
        image_size=(rows * strides[0], columns * strides[1]),
        num_classes=num_classes,
        pool="token" if prefix else "mean",
        pre_logits="pre_logits/kernel" in leaves,
        **fields,
    )


def _leaf(leaves: Leaves, name: str, ndim: int) -> np.ndarray:
    if name not in leaves:
        raise errors.UserError(f"has no tensor for our leaf {name!r}.")
    if leaves[name].ndim != ndim or 0 in leaves[name].shape:
        raise errors.UserError(
            f"{name} has shape {leaves[name].shape}; want {ndim} axes, none empty."
        )
    return leaves[name]


def _encoder_shape(leaves: Leaves) -> tuple[int, int, int, int]:
    depth, width, heads, _ = _leaf(leaves, "blocks/attn/query/kernel", 4).shape
    return width, depth, heads, _leaf(leaves, "blocks/mlp/up/kernel", 3).shape[2]


def _resnet_units(leaves: Leaves) -> tuple[int, ...] | None:
    names = [name.split("/") for name in leaves if name.startswith("resnet/")]
    if not names:
        return None
    units = {(n[1], n[2]) for n in names if n[1] != "root"}
    stages = {stage for stage, _ in units}
    return tuple(
        sum(stage == f"stage{i + 1}" for stage, _ in units) for i in range(len(stages))
    )


def _grid(
    entries: int,
    strides: tuple[int, int],
    image_size: int | tuple[int, int] | None,
) -> tuple[int, int]:
    side = math.isqrt(max(entries, 0))
    if side and side * side == entries:
        return side, side
    if image_size is not None:
        height, width = pair(image_size)
        asked = height // strides[0], width // strides[1]
        if math.prod(asked) == entries:
            return asked
    raise errors.UserError(
        f"its position table has {entries} entries for patches, which is no square; "
        "pass the image_size it was trained at."
    )


def _at_size(
    leaves: Leaves,
    arch: variants.VitArchitecture,
    image_size: int | tuple[int, int] | None,
    method: str,
) -> Leaves:
    if image_size is None:
        return leaves
    grid = arch.replace(image_size=pair(image_size)).grid
    table = posemb.resample_posemb(
        leaves["posemb"],
        old_grid=arch.grid,
        new_grid=grid,
        prefix=arch.prefix,
        method=method,
    )
    return {**leaves, "posemb": table}


def check_shapes(leaves: Leaves, arch: variants.VitArchitecture) -> None:
    """Raises `UserError` unless the leaves are exactly those of the architecture."""
    _, params = build.abstract(arch)
    wanted = {name: leaf.shape for name, leaf in tree.named_leaves(params)}
    found = {name: leaf.shape for name, leaf in leaves.items()}
    lines = [
        f"{name}: {found.get(name, 'missing')}, want {wanted.get(name, 'none')}"
        for name in sorted(found | wanted)
        if found.get(name) != wanted.get(name)
    ]
    if lines:
        raise errors.UserError(
            f"its tensors do not make a {arch.name}:\n{rules.listed(lines)}"
        )
