"""Configurations that are data: JSON of keys of `configs/base.py`, never run."""

from collections.abc import Mapping
from typing import Any

from vit_jax import errors
from vit_jax.host import files as host_files
from vit_jax.settings import documents, packaged, validation


def load(file: str) -> dict[str, Any]:
    """Returns a whole configuration of a file that has some of its keys.

    Args:
        file: As the config.json of a workdir is; what it lacks is at its default, and
            its evaluations, where it has any, are all that there are.

    Raises:
        UserError: no such file, no JSON, an unknown key, or a value of another type.
    """
    said = documents.read_object(host_files.expanded(file))
    defaults = packaged.defaults()
    try:
        check(said, defaults)
        validation.check_known(said, defaults)
        found = _completed({k: v for k, v in said.items() if k != "evals"}, defaults)
        if "evals" in said:
            found["evals"] = {
                name: _evaluation(name, options)
                for name, options in said["evals"].items()
            }
    except errors.UserError as error:
        raise errors.UserError(f"--config_json={file}: {error}") from error
    return found


def check(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises `UserError` unless a record of a run can be one.

    Unlike a configuration it may lack keys, or have some that there are no more.

    Args:
        config: nested dict.
        defaults: as `configs/base.py` has it.
    """
    given, known = validation.flatten(config), validation.flatten(defaults)
    sections = [key for key, value in defaults.items() if isinstance(value, Mapping)]
    for key in sections:
        if key in config and not isinstance(config[key], Mapping):
            raise errors.UserError(f"{key}={str(config[key])[:100]!r} is no group")
    own = {key: given[key] for key in given if key.split(".")[0] != "evals"}
    validation.check_kinds(own, known)
    if "evals" in config:
        validation.check_evals(config["evals"])


def _completed(said: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults with what is said in their place, of their types."""
    return {
        key: _like(key, said[key], default) if key in said else default
        for key, default in defaults.items()
    }


def _like(key: str, value: Any, default: Any) -> Any:
    if isinstance(default, Mapping):
        return _completed(value, default)
    if isinstance(value, Mapping):
        raise errors.UserError(
            f"{key} is no group of keys; want {default!r} or another"
        )
    if isinstance(default, tuple):
        return _tuple(value)
    return float(value) if isinstance(default, float) else value


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _evaluation(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    known = packaged.evaluation(options["type"])
    if not known:
        raise errors.UserError(f"evals.{name}: no type {options['type'][:60]!r}")
    check(options, known)
    for key in options:
        errors.lookup(known, key, f"key of evals.{name}")
    return _completed(options, known)
