"""Installs vit_jax; the metadata lives in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command import build_py

RECIPES = sorted(path.as_posix() for path in Path("configs").glob("[!_]*.py"))


class BuildWithRecipes(build_py.build_py):
    """Puts the recipes of configs/ into the package, as `vit_jax/configs`.

    Installed as they lie here they would be a package `configs`, a name that belongs to
    everybody. `vit_jax.settings.packaged` finds them.
    """

    def run(self) -> None:
        """Builds the package, then copies the recipes; not where it stays in place."""
        super().run()
        for source in () if self.editable_mode else RECIPES:
            target = Path(self.build_lib, "vit_jax", source)
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(source, str(target))

    def get_source_files(self) -> list[str]:
        """Returns what a source distribution needs."""
        return super().get_source_files() + RECIPES


setup(cmdclass={"build_py": BuildWithRecipes})
