"""Our recipes: `configs/` of a checkout, or what a wheel holds of it.

Recipes, ours and those of users, import `configs.base`. No package of that name is
installed, since it would be everybody's: `configs` is ours while a recipe runs.
"""

import contextlib
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# What the value of --config begins with where its file is JSON, which nobody runs.
JSON = "json:"
_PACKAGE = Path(__file__).resolve().parents[1]
FOLDER = _PACKAGE / "configs"  # setup.py puts them there
if not FOLDER.is_dir():
    FOLDER = _PACKAGE.parent / "configs"  # a checkout


def find(file: str) -> Path:
    """Returns the file that --config names, which need not be there.

    A name alone is one of ours, whatever lies in the current folder. A path is that of
    a file from the current folder, or else ours where it is `configs/NAME.py`.
    """
    path = Path(file)
    ours = FOLDER / f"{path.stem}.py"
    named = re.fullmatch(r"\w+", file) or (
        path == Path("configs", ours.name) and not path.is_file()
    )
    return ours if named and ours.is_file() else path


@contextlib.contextmanager
def importable(folder: Path = FOLDER) -> Iterator[None]:
    """Has the package `configs` be ours, then what was there before.

    Args:
        folder: of the recipe. Named `configs` itself, what is in it comes first.
    """
    places = dict.fromkeys([folder] if folder.name == "configs" else [])
    wanted = [str(place) for place in places | {FOLDER: None}]
    before = sys.modules.get("configs")
    if before is not None and list(vars(before).get("__path__") or ()) == wanted:
        yield
        return
    others = _taken()
    spec = importlib.machinery.ModuleSpec("configs", None, is_package=True)
    spec.submodule_search_locations = wanted
    sys.modules["configs"] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        _taken()
        sys.modules.update(others)


def defaults() -> dict[str, Any]:
    """Returns the nested dict of our `configs/base.py`: every key, with its default."""
    with importable():
        from configs import base

        return base.get_config().to_dict()


def evaluation(kind: str) -> dict[str, Any]:
    """Returns the options that an evaluation of a kind has by default; {}: no such."""
    with importable():
        from configs import base

        make = base.EVALUATIONS
        return make[kind]("").to_dict() if kind in make else {}


def _taken() -> dict[str, ModuleType]:
    names = [n for n in sys.modules if n == "configs" or n.startswith("configs.")]
    return {name: sys.modules.pop(name) for name in names}
