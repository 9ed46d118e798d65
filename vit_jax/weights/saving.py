"""A model from Python as a checkpoint of ours, which every command takes."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax import errors, models, tree
from vit_jax.checkpoints import checkpoint
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.host import files as host_files
from vit_jax.learning import losses
from vit_jax.models.model import Model
from vit_jax.weights import pretrained

_FILES = (".npz", ".safetensors", ".bv", ".bin", ".pt", ".pth", ".ckpt", ".h5")


def save(
    model: Model,
    path: str | Path,
    *,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    label_names: Sequence[str] | None = None,
    problem: str = "single_label",
) -> Path:
    """Writes a model's weights and what its readers need; arguments as `vit_jax.save`.

    Returns:
        The folder, as an absolute path.

    Raises:
        errors.UserError: no model of this package, or one whose leaves are not those of
            its architecture; names or preprocessing that do not fit; something at
            `path`; or it cannot be written.
    """
    errors.lookup(losses.PROBLEMS, problem, "problem")
    architecture = _architecture(model)
    described = checkpoint.Description(
        architecture,
        _preprocessing(preprocessing, architecture),
        _names(label_names, architecture.num_classes),
        config={},
        step=0,
        versions=checkpoint.versions(),
        problem=problem,
    )
    params = _params(model, architecture)
    target = _target(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            target.rmdir()
    except OSError as error:
        raise errors.UserError(
            f"{path} cannot be written: {error.strerror or error}"
        ) from error
    checkpoint.write_params(target, params, described)
    logging.info("saved %s to %s", architecture.name, target)
    return target


def _architecture(model: Any) -> models.Architecture:
    if isinstance(model, pretrained.Loaded):
        raise errors.UserError(
            "save wants the model itself: save(loaded.model, path, "
            "preprocessing=loaded.preprocessing, label_names=loaded.label_names)"
        )
    found = getattr(model, "architecture", None)
    if not isinstance(model, nnx.Module) or not isinstance(found, models.Architecture):
        raise errors.UserError(
            f"save wants a model that create_model or load returned, got "
            f"{_kind(model)}; its architecture is what makes weights readable"
        )
    return found


def _kind(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, nnx.Module):
        return f"a module {type(value).__name__} without one's architecture"
    return f"a {type(value).__name__}"


def _preprocessing(
    given: Preprocessing | Mapping[str, Any] | None, architecture: models.Architecture
) -> Preprocessing:
    size = list(architecture.image_size)
    if isinstance(given, Mapping) or given is None:
        given = Preprocessing.from_dict({"image_size": size, **(given or {})})
    if not isinstance(given, Preprocessing):
        raise errors.UserError(
            f"preprocessing is a {type(given).__name__}; want loaded.preprocessing, or "
            'its fields by name, as in {"mean": [127.5] * 3, "std": [127.5] * 3}'
        )
    if list(given.image_size) != size:
        raise errors.UserError(
            f"preprocessing gives images of {models.size_text(given.image_size)} "
            f"pixels, the model wants {models.size_text(architecture.image_size)}; "
            "make them the same"
        )
    return given


def _names(names: Sequence[str] | None, num_classes: int) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise errors.UserError(
            f"label_names={str(names)[:80]}; want one text for each output"
        )
    if len(names) != num_classes:
        raise errors.UserError(
            f"label_names holds {len(names)} names, the model has {num_classes} outputs"
        )
    return tuple(names)


def _params(model: Model, architecture: models.Architecture) -> dict[str, Any]:
    """The model's parameters in float32, if they are its architecture's."""
    params = models.split(model)[1]
    found = dict(tree.named_leaves(params))
    wanted = dict(tree.named_leaves(models.abstract(architecture)[1]))
    shapes = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
    problems = [
        f"{name}: the model has {_shape(found.get(name))}, "
        f"its architecture {shapes.get(name, 'none')}"
        for name in sorted(found.keys() | shapes.keys())
        if _shape(found.get(name)) != str(shapes.get(name, "none"))
    ]
    if problems:
        raise errors.UserError(
            errors.listing(
                "the model's leaves are not those of its architecture:",
                problems,
                "change the model by create_model(...) or load(...), as in "
                "load(path, num_classes=5)",
            )
        )
    cast = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in found.items()}
    return tree.from_named(cast)


def _shape(leaf: Any) -> str:
    if leaf is None:
        return "none"
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return f"no values ({tuple(leaf.shape)} abstractly)"
    return str(tuple(leaf.shape))


def _target(path: str | Path) -> Path:
    text = str(path)
    if "://" in text:
        raise errors.UserError(
            f"{path} is a URL; want a folder on this machine, to be copied there"
        )
    target = host_files.expanded(text).absolute()
    if target.suffix in _FILES:
        raise errors.UserError(
            f"{path}: save writes a folder, {target.stem!r} for instance; then python "
            f"-m vit_jax.convert {target.stem} {target.name} --dialect=NAME writes a "
            "file of another code"
        )
    if target.parent.name == checkpoint.FOLDER and target.name.isdigit():
        raise errors.UserError(
            f"{path} is where a run keeps its step {target.name}; want another folder"
        )
    if target.is_dir() and any(target.iterdir()):
        what = "a checkpoint" if checkpoint.is_one(target) else "files"
        raise errors.UserError(f"{path} holds {what}; want a new or an empty folder")
    if target.exists() and not target.is_dir():
        raise errors.UserError(f"{path} is a file; want a new or an empty folder")
    return target
