"""Weights of ours as one file of tensors, for what no other code has.

`model.safetensors` holds our leaves under their names, and the `config.json` beside it
what a checkpoint's description does. `load` takes the folder, or the hub's copy of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_jax import errors, models
from vit_jax.checkpoints import checkpoint
from vit_jax.weights import files, outputs
from vit_jax.weights.formats import safetensors, sidecars
from vit_jax.weights.source import Tensors

DIALECT = "vit_jax"


def described(
    description: checkpoint.Description, leaves: Tensors, options: Mapping[str, Any]
) -> files.Weights:
    """Returns the weights that a description tells of.

    Args:
        description: Of a checkpoint of ours.
        leaves: By name.
        options: Of `pretrained.load`.
    """
    classes = description.architecture.num_classes
    return files.Weights(
        models.with_options(description.architecture, options),
        leaves,
        description.preprocessing,
        DIALECT,
        outputs.fitting(description.label_names, classes, leaves.label),
        label_ids=description.label_ids,
        problem=description.problem,
        config=description.config,
    )


def is_one(path: Path) -> bool:
    """Says whether a file of this form, or a folder with one, is at a path."""
    if not safetensors.is_one(path):
        return False
    folder = path if path.is_dir() else path.parent
    config = sidecars.read_json(folder / sidecars.CONFIG)
    return config is not None and DIALECT in config


def read(path: Path, options: Mapping[str, Any]) -> files.Weights:
    """Opens a file of this form; no array is read yet.

    Raises:
        errors.UserError: it is damaged, or of a newer version.
    """
    tensors = safetensors.open(path)
    try:
        said = (tensors.config or {})[DIALECT]
        weights = described(_description(said), tensors, options)
        files.check_shapes(tensors.shapes, weights.architecture)
    except errors.UserError as error:
        tensors.close()
        raise errors.UserError(f"{path}: {error}") from None
    except BaseException:
        tensors.close()
        raise
    return weights


def _description(said: Any) -> checkpoint.Description:
    try:
        return checkpoint.Description.from_dict(said)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, errors.UserError):
            raise
        raise errors.UserError(f"its config.json is damaged: {error}") from error


def description(weights: files.Weights) -> checkpoint.Description:
    """Returns what a checkpoint of ours says of weights that no run of ours made."""
    return checkpoint.Description(
        weights.architecture,
        weights.preprocessing,
        weights.label_names,
        config={},
        step=0,
        versions=checkpoint.versions(),
        problem=weights.problem,
        label_ids=weights.label_ids,
    )


def write(weights: files.Weights, path: Path) -> None:
    """Writes weights into a folder."""
    config = {"model_type": DIALECT, DIALECT: description(weights).to_dict()}
    safetensors.write(weights.leaves.configured(config), path)
