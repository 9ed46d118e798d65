"""Commands of the package, run in this process: a new one costs seconds of imports."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from absl import flags

from vit_jax import __main__ as front
from vit_jax import cli

OF_A_RECIPE = ("main", "train", "plan")


@contextmanager
def own_flags(command: str) -> Iterator[ModuleType]:
    """The module of a command with its flags alone; those of others come back."""
    values = flags.FLAGS
    others = {
        name: values[name]
        for name in values
        if "absl" not in (values.find_module_defining_flag(name) or "")
    }
    for name in others:
        delattr(values, name)
    kept = set(values)
    values.unparse_flags()
    try:
        module = _module(command)
        if module.__name__ != "vit_jax.main":
            module._define_flags()
        yield module
    finally:
        for name in set(values) - kept:
            delattr(values, name)
        for name, flag in others.items():
            values[name] = flag
        values.unparse_flags()


def _module(command: str) -> ModuleType:
    table = {"main": front.COMMANDS["train"], **front.COMMANDS}
    name = table[command].module
    if name == "vit_jax.main":
        sys.modules.pop(name, None)  # its flags are defined on import
    if importlib.util.find_spec(name).submodule_search_locations is not None:
        name += ".__main__"
    return importlib.import_module(name)


def parse(command: str, argv: list[str]) -> list[str]:
    """What is left of `argv` after the command's own way to parse it."""
    if command in ("push", "studies", "sweep", "transfer"):
        return _module(command)._parse(argv)
    known = cli.parse_recipe if command in OF_A_RECIPE else cli.parse_flags
    return known(argv)
