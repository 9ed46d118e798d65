"""A recipe: a Python file whose `get_config()` returns all keys of `configs/base.py`.

It is run once, here, so that whatever is wrong with it is one error that names the
file, the line and the nearest key.
"""

import inspect
import re
import sys
import traceback
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from vit_jax import errors
from vit_jax.settings import validation

ROOT = Path(__file__).resolve().parents[2]  # where configs/ is
_MODULE = "vit_jax_recipe"
# How ml_collections names a key that is not there, reading and writing.
_NO_KEY = re.compile(r"""^['"]*Key "(\w+)" does not exist|^['"\\]*(\w+)['"\\]""")


class _Parser(flags.ArgumentParser):
    """Hands over what `load` returned, or loads it."""

    def __init__(self) -> None:
        self.loaded: dict[str, ConfigDict] = {}

    def parse(self, path: str) -> ConfigDict:
        """The configuration of a recipe, locked."""
        config = self.loaded.pop(path) if path in self.loaded else load(path)
        return config.lock()


def define_flag(example: str) -> flags.FlagHolder:
    """Defines --config, and with it --config.KEY."""
    holder = config_flags.DEFINE_config_file(
        "config", help_string=f"Recipe, as in {example}", lock_config=True
    )
    flags.FLAGS["config"].parser = _Parser()
    return holder


def hand_over(path: str, config: ConfigDict) -> None:
    """Has the flag take what was loaded, so that no recipe runs twice."""
    if isinstance(parser := flags.FLAGS["config"].parser, _Parser):
        parser.loaded[path] = config


def defaults() -> dict[str, Any]:
    """Returns the nested dict of `configs/base.py`: every key, with its default.

    Raises:
        UserError: another package `configs` comes before ours.
    """
    _make_importable(ROOT)
    try:
        from configs import base
    except ImportError as error:
        raise errors.UserError(
            f"{error}: a package configs/ of yours hides ours and its base.py; rename "
            "it, or remove its __init__.py"
        ) from error

    return base.get_config().to_dict()


def plain(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration, a recipe's or a record of one, as nested dicts."""
    return config.to_dict() if isinstance(config, ConfigDict) else dict(config)


def load(path: str) -> ConfigDict:
    """Runs a recipe.

    Args:
        path: FILE or FILE:ARGUMENT.

    Raises:
        UserError: no such file, no Python, an exception in it, or anything but a
            ConfigDict with the keys and types of `configs/base.py`.
    """
    file, *argument = path.split(":", 1)
    _check_file(path, file)
    # Recipes import configs.base and their neighbours, wherever the command starts.
    _make_importable(Path(file).resolve().parent.parent, ROOT)
    get_config = _run(file)
    try:
        inspect.signature(get_config).bind(*argument)
    except TypeError as error:
        wanted = "no argument" if argument else "an argument, --config=FILE:ARGUMENT"
        raise errors.UserError(
            f"--config={path}: get_config() of {file} takes {wanted}"
        ) from error
    try:
        config = get_config(*argument)
    except (Exception, SystemExit) as error:
        raise _explained(error, path, file) from error
    check(config, path)
    return config


def check(config: Any, path: str) -> None:
    """Raises `UserError` unless this is a ConfigDict with all keys, of their types."""
    if not isinstance(config, ConfigDict):
        hint = " (is `return config` missing?)" if config is None else ""
        raise errors.UserError(
            f"--config={path}: get_config() returned {_short(config)}{hint}. Want the "
            "ConfigDict of base.get_config(), changed, as the recipes in configs/ do"
        )
    try:
        validation.check_keys(config.to_dict(), defaults())
    except errors.UserError as error:
        raise errors.UserError(f"--config={path}: {error}") from error


def _short(value: Any) -> str:
    text = repr(value).splitlines()[0] if isinstance(value, str | None) else ""
    return text[:60] or f"a {type(value).__name__}"


def _make_importable(*folders: Path) -> None:
    sys.path.extend(str(f) for f in folders if str(f) not in sys.path)


def _check_file(path: str, file: str) -> None:
    if Path(file).is_file():
        return
    folder = Path(file).parent
    known = {p.stem: str(p) for p in _recipes(ROOT / "configs")}
    known |= {p.stem: str(p) for p in _recipes(folder)}
    known = {name: _relative(place) for name, place in known.items()}
    hint = errors.nearest(Path(file).stem, known)
    found = f' Did you mean "{known[hint]}"?' if hint else ""
    what = "is a folder" if Path(file).is_dir() else "is no file"
    raise errors.UserError(
        f"--config={path}: {file} {what}.{found} Recipes are in configs/"
    )


def _recipes(folder: Path) -> list[Path]:
    """The Python files of a folder that look like recipes."""
    files = sorted(folder.glob("*.py")) if folder.is_dir() else []
    return [p for p in files if "def get_config" in p.read_text(errors="replace")]


def _relative(place: str) -> str:
    here = Path.cwd()
    path = Path(place).resolve()
    return str(path.relative_to(here)) if path.is_relative_to(here) else place


def _run(file: str) -> Any:
    """The `get_config` that a file defines."""
    module = types.ModuleType(_MODULE)
    module.__file__ = file
    sys.modules[_MODULE] = module  # dataclasses look their module up
    try:
        code = compile(Path(file).read_bytes(), file, "exec")
        exec(code, module.__dict__)  # noqa: S102 the user's own file
    except (Exception, SystemExit) as error:
        raise _explained(error, file, file) from error
    found = vars(module)
    if callable(found.get("get_config")):
        return found["get_config"]
    functions = [n for n, v in found.items() if isinstance(v, types.FunctionType)]
    raise errors.UserError(
        f"{file} defines no get_config().{errors.suggest('get_config', functions)} "
        "Want a function of that name that returns the configuration, see configs/"
    )


def _explained(error: BaseException, path: str, file: str) -> errors.UserError:
    """One error for an exception in a recipe: where, what, and the nearest key."""
    if isinstance(error, SyntaxError):
        where = f"{error.filename}, line {error.lineno}" if error.lineno else file
        line = f": {error.text.strip()[:80]}" if error.text else ""
        return errors.UserError(f"{where}: {error.msg}{line}")
    own = {file, str(Path(file).resolve())}
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename in own or Path(frame.filename).parent == ROOT / "configs"
    ]
    message = (str(error).strip().splitlines() or [""])[0]
    deliberate = frames and (frames[-1].line or "").startswith("raise ")
    if isinstance(error, ValueError) and deliberate:  # it says what it wants
        prefix = "" if message.startswith(path) else f"--config={path}: "
        return errors.UserError(f"{prefix}{message}")
    where = file
    if frames:
        where = f"{frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line}"
    if isinstance(error, KeyError | AttributeError) and (key := _unknown_key(error)):
        return errors.UserError(
            f"{where}\nno key {key!r} in the configuration.{_did_you_mean(key)} "
            "configs/base.py has all keys"
        )
    return errors.UserError(f"{where}\n{type(error).__name__}: {message[:300]}")


def _unknown_key(error: BaseException) -> str:
    """The key that a ConfigDict of ours does not have; "": something else is wrong."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if "ml_collections" not in last.filename or not error.args:
        return ""
    match = _NO_KEY.match(str(error.args[0]))
    return next((group for group in match.groups() if group), "") if match else ""


def _did_you_mean(key: str) -> str:
    known = defaults()
    sections = [name for name, value in known.items() if isinstance(value, Mapping)]
    words = {name: name for name in sections}
    words |= {name.split(".")[-1]: name for name in validation.flatten(known)}
    found = errors.nearest(key, words)
    return f' Did you mean "{words[found]}"?' if found else ""
