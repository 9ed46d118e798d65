"""What is wrong with a recipe, as one error; loaded when something is."""

import os
import re
import traceback
from pathlib import Path

from vit_jax import errors
from vit_jax.settings import packaged, validation

# How ml_collections names a key that is not there, reading and writing.
_NO_KEY = re.compile(r"""^['"]*Key "(\w+)" does not exist|^['"\\]*(\w+)['"\\]""")


def no_file(path: str, file: str) -> errors.UserError:
    """Returns the error for a recipe that is not there, with the nearest.

    Args:
        path: The value of --config.
        file: Of it, without the argument.
    """
    folder = Path(file).parent
    written = len(Path(file).parts) > 1 or file.endswith(".py")
    ours = [p.stem for p in _recipes(packaged.FOLDER) if p.stem != "base"]
    known = {name: f"configs/{name}.py" if written else name for name in ours}
    known |= {p.stem: str(p) for p in _recipes(folder) if written}
    hint = errors.nearest(Path(file).stem, known)
    found = f' Did you mean "{known[hint]}"?' if hint else ""
    what = "is a folder" if Path(file).is_dir() else "is no file"
    if not written and not Path(file).is_dir():
        what = "is no recipe of ours, nor a file"
    return errors.UserError(
        f"--config={path}: {file} {what}.{found} Our recipes: {', '.join(ours)}"
    )


def _recipes(folder: Path) -> list[Path]:
    """The Python files of a folder that look like recipes."""
    found = sorted(folder.glob("*.py")) if folder.is_dir() else []
    files = [path for path in found if path.is_file() and os.access(path, os.R_OK)]
    texts = {path: path.read_text(errors="replace") for path in files}
    return [p for p, text in texts.items() if "def get_config(" in text]


def mistake(error: BaseException, path: str, file: str) -> errors.UserError:
    """Returns one error for an exception in a recipe.

    It says where, what, and the nearest key where one is not there.

    Args:
        error: The exception.
        path: The value of --config, or `file`.
        file: That was run.
    """
    if isinstance(error, SyntaxError):
        where = f"{error.filename}, line {error.lineno}" if error.lineno else file
        line = f": {error.text.strip()[:80]}" if error.text else ""
        return errors.UserError(f"{where}: {error.msg}{line}")
    own = {file, str(Path(file).resolve())}
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename in own or Path(frame.filename).parent == packaged.FOLDER
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
    known = packaged.defaults()
    keys = sorted({*validation.flatten(known), *known})
    found = validation.nearest_key(key, keys, cutoff=0.5)
    return f' Did you mean "{found}"?' if found else ""
