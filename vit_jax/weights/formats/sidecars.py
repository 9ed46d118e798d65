"""The JSON files beside weights, which say what model they are of.

`config.json` and `preprocessor_config.json`, as transformers and timm write them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_jax import errors
from vit_jax.settings import documents

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config"
PROCESSOR = "processor_config.json"


def read_config(folder: Path) -> dict[str, Any] | None:
    """Returns what a folder's JSON files say of the weights there; None without them.

    Raises:
        errors.UserError: as `read_json`.
    """
    config = read_json(folder / CONFIG)
    preprocessor = read_json(folder / f"{PREPROCESSOR}.json")
    # transformers 5 writes it there for models with text too, and looks there first.
    nested = read_json(folder / PROCESSOR) or {}
    if isinstance(nested.get("image_processor"), dict):
        preprocessor = nested["image_processor"]
    if preprocessor is None:
        return config
    return (config or {}) | {PREPROCESSOR: preprocessor}


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns the object in a JSON file; None where there is no file.

    Raises:
        errors.UserError: it is too large, or not the JSON of an object.
    """
    return documents.read_object(path) if path.is_file() else None


def described(config: Mapping[str, Any] | None) -> dict[str, bytes]:
    """Returns the files that say what `config` does, by name; undoes `read_config`."""
    if config is None:
        return {}
    model = {key: value for key, value in config.items() if key != PREPROCESSOR}
    files = {CONFIG: model}
    if PREPROCESSOR in config:
        files[f"{PREPROCESSOR}.json"] = config[PREPROCESSOR]
    return {
        name: (json.dumps(content, indent=2) + "\n").encode()
        for name, content in files.items()
    }


def check_alone(path: Path, described: Mapping[str, bytes]) -> None:
    """Raises `UserError` where a file of another model has the place of one of these.

    Args:
        path: The weights.
        described: As `described` returns it.
    """
    for name, content in described.items():
        beside = path.parent / name
        if beside.exists() and beside.read_bytes() != content:
            raise errors.UserError(
                f"{path} needs a {name} beside it, and the one there is of another "
                "model: write into a folder of its own."
            )
