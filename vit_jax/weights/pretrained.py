"""Checkpoints of any kind as models."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vit_jax import errors, models
from vit_jax.checkpoints import agreement, checkpoint
from vit_jax.models.architecture import pair
from vit_jax.parallel import layouts
from vit_jax.parallel import mesh as mesh_lib
from vit_jax.weights import (
    adapters,
    adapting,
    containers,
    files,
    own,
    places,
    stem,
)
from vit_jax.weights.loaded import Loaded
from vit_jax.weights.source import Tensors


def load(
    path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    mesh: Mesh | None = None,
    **options: Any,
) -> Loaded:
    """Loads a checkpoint; its architecture and layout are read from it.

    Tensors are read one after the other and put where they belong, so that a large
    model is never on the host twice.

    Args:
        path: A checkpoint of ours (a workdir, or one checkpoint inside) or of another
            code, as `open_weights` takes it.
        image_size: Pixels (one number or height, width); the position table is
            resampled for it, as the code that it comes from does. None: that of its
            evaluation, the checkpoint's own nearly always (DINOv2's tables are for 518
            pixels, its processors make 224).
        num_classes: Another number than the checkpoint's puts a new zero head on; 0
            takes the head off. None: the checkpoint's.
        mesh: Each leaf goes to its shards on it; None: to the default device.
        **options: Fields of the architecture that the tensors do not decide, e.g.
            heads=12 behind a fused QKV, or of a run: dropout=0.1,
            compute_dtype="bfloat16". posemb_resample="corners" resamples positions in
            another way, a key of `posemb.METHODS`; grid=(2, 8) says the (rows,
            columns) of a table of another code that is not square; channels=1, 3 or 4
            and patch=8 change the first layer, see `stem`; adapter="FOLDER" merges what
            a run with `lora`, or PEFT, has learned on this model.

    Raises:
        errors.UserError: a path that holds no checkpoint, or a damaged or unknown one.
    """
    weights = open_as_evaluated(path, image_size=image_size, **options)
    return from_weights(
        weights,
        source=str(path),
        image_size=image_size,
        num_classes=num_classes,
        mesh=mesh,
    )


def open_as_evaluated(
    path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> files.Weights:
    """Opens as `open_weights`, by default at the size of the evaluation."""
    weights = open_weights(path, image_size=image_size, **options)
    size = weights.preprocessing.image_size
    if image_size is not None or size == weights.architecture.image_size:
        return weights
    weights.close()
    return open_weights(path, image_size=size, **options)


def from_weights(
    weights: files.Weights,
    *,
    source: str,
    image_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    mesh: Mesh | None = None,
) -> Loaded:
    """Loads what `open_weights` opened, and closes it; arguments as `load`.

    Args:
        weights: Of a checkpoint.
        source: Where they came from.
        image_size: As `load`.
        num_classes: As `load`.
        mesh: As `load`.

    Raises:
        errors.UserError: a damaged checkpoint.
    """
    with weights.leaves as leaves:
        target = changed(weights, image_size, num_classes)
        graphdef, like = models.abstract(target.architecture)
        if mesh is not None:
            like = layouts.placed("fsdp", like, mesh)
        params, _ = adapting.adapt(
            leaves, weights.architecture, target.architecture, like, place=_place
        )
    return Loaded(
        models.merge(graphdef, params),
        target.architecture,
        target.preprocessing,
        target.label_names,
        source,
        weights.dialect,
        target.problem,
        target.label_ids,
    )


def changed(
    weights: files.Weights,
    image_size: int | tuple[int, int] | None,
    num_classes: int | None,
) -> files.Weights:
    """Returns what weights say once they are at another size or have another head.

    The leaves stay as they are: `adapt` changes them. A new head has no names.

    Args:
        weights: Of a checkpoint.
        image_size: As `load`.
        num_classes: As `load`.
    """
    source = weights.architecture
    changes: dict[str, Any] = {}
    if image_size is not None:
        changes["image_size"] = pair(image_size)
    if num_classes is not None:
        changes["num_classes"] = num_classes
    target = source.replace(**changes)
    found = dataclasses.replace(
        weights,
        architecture=target,
        preprocessing=weights.preprocessing.at(target.image_size),
    )
    if target.num_classes == source.num_classes:
        return found
    return dataclasses.replace(
        found, label_names=None, label_ids=None, problem="single_label"
    )


def _place(array: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
    where = like.sharding
    placed = mesh_lib.place(array, where) if where else jax.device_put(array)
    return jax.block_until_ready(placed)  # the host's copy lives until it is there


def open_weights(
    path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    patch: int | tuple[int, int] | None = None,
    adapter: str | Path | None = None,
    **options: Any,
) -> files.Weights:
    """Opens a checkpoint of ours or in any dialect; no array is read yet.

    Args:
        path: A file or folder; a URL (`https://`, `gs://`, `hf://ORG/NAME`); a name
            that `names.rows` has, unless a file is called so; or "augreg:B/16" for the
            best published AugReg checkpoint of that name.
        image_size: What it shall have; consulted where the tensors do not say theirs.
        channels: Of the images, see `stem.with_channels`; None: the checkpoint's.
        patch: In pixels, see `stem.with_patch`; None: the checkpoint's.
        adapter: A folder with low-rank changes to merge, see `adapters`.
        **options: As `load`.

    Raises:
        errors.UserError: as `load`.
    """
    weights = _opened(path, image_size, options)
    try:
        if adapter is not None:
            if not isinstance(adapter, str | Path):
                raise errors.UserError(f"adapter={adapter!r}; want a folder")
            weights = adapters.apply(weights, adapter)
        leaves, arch = stem.changed(
            weights.leaves, weights.architecture, channels, patch, image_size
        )
        weights = dataclasses.replace(weights, leaves=leaves, architecture=arch)
    except errors.UserError:
        weights.close()
        raise
    return weights


def _opened(
    path: str | Path,
    image_size: int | tuple[int, int] | None,
    options: Mapping[str, Any],
) -> files.Weights:
    text, local, said = places.located(path)
    options = {**said, **options}
    found = checkpoint.find(local) if local.is_dir() else None
    if found is not None:
        stored = checkpoint.StoredParams(found)
        described = stored.description
        if "grid" in options:
            raise errors.UserError(
                f"{path} is a checkpoint of ours, whose grid is known "
                f"({described.architecture.image_size} pixels): leave grid out."
            )
        leaves = adapters.merged(
            Tensors(stored.shapes, stored.read, label=text), described.config
        )
        return own.described(described, leaves, options)
    if own.is_one(local):
        return own.read(local, options)
    if local.is_dir() and not containers.is_weights(local):
        raise errors.UserError(
            f"{path} is no checkpoint of vit_jax, expected a workdir or a folder in "
            f"its {checkpoint.FOLDER}/, and holds no weights of another code."
            + containers.inside(local)
        )
    return files.read(local, image_size=image_size, **options)


def agreed(path: str) -> str:
    """Returns where all processes open the checkpoint that process 0 chooses.

    Args:
        path: As `load` takes it; alone, it is what is returned.

    Raises:
        errors.UserError: on all processes, what process 0 cannot open.
    """
    if jax.process_count() == 1:
        return path
    told = ["", path]
    if jax.process_index() == 0:
        try:
            _, local, _ = places.located(path)
            found = checkpoint.find(local) if local.is_dir() else None
            told = ["", path if found is None else str(found)]
        except errors.UserError as error:
            told = [str(error)[:1500], path]
    problem, path = agreement.told(told)
    if problem:
        raise errors.UserError(problem)
    return path


def describe(path: str | Path, **options: Any) -> files.Weights:
    """Returns what a checkpoint says, as `load` finds it; its leaves cannot be read.

    Raises:
        errors.UserError: as `load`.
    """
    with (weights := open_weights(path, **options)).leaves:
        return weights
