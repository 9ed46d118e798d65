"""A recipe: a Python file whose `get_config()` returns all keys of `configs/base.py`.

It is run once, here, so that whatever is wrong with it is one error that names the
file, the line and the nearest key.
"""

import inspect
import sys
import types
from collections.abc import Mapping
from typing import Any, TypeAlias

from absl import flags
from ml_collections import ConfigDict, config_flags

from vit_jax import errors
from vit_jax.host import files as host_files
from vit_jax.settings import packaged, validation

# A recipe's, or a record of one.
Config: TypeAlias = ConfigDict | Mapping[str, Any]

MOST_BYTES = 1 << 24  # of a recipe
_MODULE = "vit_jax_recipe"


class _Parser(flags.ArgumentParser):
    """Hands over what `load` returned, or loads it."""

    def __init__(self) -> None:
        self.loaded: dict[str, ConfigDict] = {}

    def parse(self, argument: str) -> ConfigDict:
        """Returns the configuration of a recipe, locked."""
        config = (
            self.loaded.pop(argument) if argument in self.loaded else load(argument)
        )
        return config.lock()


def define_flag(example: str) -> flags.FlagHolder:
    """Defines --config, with it --config.KEY, and --config_json."""
    flags.DEFINE_string(
        "config_json", None, "In its place: keys in JSON, as WORKDIR/config.json."
    )
    # To look for a value now would read the flag files of a command line that nobody
    # has checked.
    whole, sys.argv = sys.argv, sys.argv[:1]
    try:
        holder = config_flags.DEFINE_config_file(
            "config", help_string=f"Recipe, as in {example}", lock_config=True
        )
    finally:
        sys.argv = whole
    flags.FLAGS["config"].parser = _Parser()
    return holder


def hand_over(path: str, config: ConfigDict) -> None:
    """Has the flag take what was loaded, so that no recipe runs twice."""
    if isinstance(parser := flags.FLAGS["config"].parser, _Parser):
        parser.loaded[path] = config


def plain(config: Config) -> dict[str, Any]:
    """Returns a configuration, a recipe's or a record of one, as nested dicts."""
    return config.to_dict() if isinstance(config, ConfigDict) else dict(config)


def load(path: str) -> ConfigDict:
    """Runs a recipe, or reads one that is data.

    Args:
        path: FILE or FILE:ARGUMENT; FILE is as `packaged.find` takes it. "json:FILE"
            is read by `recorded`.

    Raises:
        UserError: no such file, no Python, an exception in it, or anything but a
            ConfigDict with the keys and types of `configs/base.py`.
    """
    if path.startswith(packaged.JSON):
        from vit_jax.settings import recorded

        config = ConfigDict(recorded.load(path.removeprefix(packaged.JSON)))
        check(config, path)
        return config
    name, *argument = path.split(":", 1)
    found = packaged.find(name)
    if not found.is_file():
        from vit_jax.settings import explained

        raise explained.no_file(path, name)
    folder = found.resolve().parent
    if str(folder.parent) not in sys.path:  # recipes import their neighbours
        sys.path.append(str(folder.parent))
    with packaged.importable(folder):
        config = _made(path, str(found), argument)
    check(config, path)
    return config


def _made(path: str, file: str, argument: list[str]) -> Any:
    """What the `get_config` of a file returns."""
    get_config = _run(file)
    try:
        inspect.signature(get_config).bind(*argument)
    except TypeError as error:
        wanted = "no argument" if argument else "an argument, --config=FILE:ARGUMENT"
        raise errors.UserError(
            f"--config={path}: get_config() of {file} takes {wanted}"
        ) from error
    try:
        return get_config(*argument)
    except (Exception, SystemExit) as error:
        from vit_jax.settings import explained

        raise explained.mistake(error, path, file) from error


def check(config: Any, path: str) -> None:
    """Raises `UserError` unless this is a ConfigDict with all keys, of their types."""
    if not isinstance(config, ConfigDict):
        hint = " (is `return config` missing?)" if config is None else ""
        raise errors.UserError(
            f"--config={path}: get_config() returned {_short(config)}{hint}. Want the "
            "ConfigDict of base.get_config(), changed, as the recipes in configs/ do"
        )
    try:
        validation.check_keys(config.to_dict(), packaged.defaults())
        validation.check_depth(config.to_dict())
    except errors.UserError as error:
        raise errors.UserError(f"--config={path}: {error}") from error
    except RecursionError:
        raise errors.UserError(
            f"--config={path}: a value holds itself, or lists too deep in each other"
        ) from None


def _short(value: Any) -> str:
    text = repr(value).splitlines()[0] if isinstance(value, str | None) else ""
    return text[:60] or f"a {type(value).__name__}"


def _run(file: str) -> Any:
    """The `get_config` that a file defines."""
    module = types.ModuleType(_MODULE)
    module.__file__ = file
    sys.modules[_MODULE] = module  # dataclasses look their module up
    try:
        source = host_files.read_whole(file, MOST_BYTES)
        code = compile(source, file, "exec")
        exec(code, module.__dict__)  # noqa: S102 the user's own file
    except (Exception, SystemExit) as error:
        from vit_jax.settings import explained

        raise explained.mistake(error, file, file) from error
    found = vars(module)
    if callable(found.get("get_config")):
        return found["get_config"]
    functions = [n for n, v in found.items() if isinstance(v, types.FunctionType)]
    raise errors.UserError(
        f"{file} defines no get_config().{errors.suggest('get_config', functions)} "
        "Want a function of that name that returns the configuration, see configs/"
    )
