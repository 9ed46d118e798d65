"""Imports every module of an installed vit_jax, and fails if one wants NAMES.

python import_all.py NAME...
"""

import importlib
import pkgutil
import sys

import vit_jax


def main(names: list[str]) -> None:
    """Makes imports of `names` fail, then imports everything."""
    sys.modules.update(dict.fromkeys(names))  # None: "import of NAME halted"
    modules = [
        found.name
        for found in pkgutil.walk_packages(vit_jax.__path__, "vit_jax.")
        if not found.name.endswith(".__main__")
    ]
    for module in modules:
        importlib.import_module(module)
    print(f"{len(modules)} modules imported without {', '.join(names)}")


if __name__ == "__main__":
    main(sys.argv[1:])
