"""Recipes by name or path from any folder, and `configs` in recipes of users."""

import sys
import types

import pytest

from configs import base
from vit_jax import errors
from vit_jax.settings import packaged, recipe

USERS = """from configs import base


def get_config():
    config = base.get_config()
    config.seed = {seed}
    return config
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, and the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def without_configs(monkeypatch):
    """As where a wheel alone is installed: nothing else finds our recipes."""
    for name in [n for n in sys.modules if n.split(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    ours = str(packaged.FOLDER.parent)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", ours)])


def write(path, seed):
    path.parent.mkdir(exist_ok=True)
    path.write_text(USERS.format(seed=seed))


@pytest.mark.parametrize(
    "text", ["vit_b16:i21k", "configs/vit_b16.py:i21k", "./configs/vit_b16.py:i21k"]
)
def test_ours_are_found_from_any_folder(text, folder, without_configs):
    config = recipe.load(text)
    assert (config.model.name, config.data.dataset) == ("B/16", "imagenet21k")
    assert "configs" not in sys.modules


def test_a_file_wins_where_it_was_written_as_a_path(folder, without_configs):
    write(folder / "configs/quickstart.py", 1)
    write(folder / "quickstart", 2)
    write(folder / "vit_b16.py", 3)
    write(folder / "configs/mine.py", 4)
    ours = packaged.defaults()["seed"]
    assert recipe.load("configs/quickstart.py").seed == 1
    assert recipe.load("quickstart").seed == ours
    assert recipe.load("./quickstart").seed == 2
    assert recipe.load("vit_b16.py").seed == 3
    assert recipe.load("configs/mine.py").seed == 4
    assert recipe.load("vit_b16").seed == ours
    assert recipe.load("configs/vit_b16.py").seed == ours


def test_recipes_of_users_import_ours_and_their_neighbours(folder, without_configs):
    text = USERS.format(seed=5).replace("import base", "import base, mine, vit_b16")
    (folder / "configs").mkdir()
    (folder / "configs/__init__.py").write_text("")
    (folder / "configs/mine.py").write_text("SEED = 6\n")
    (folder / "configs/run.py").write_text(
        text.replace("base.get_config()", "vit_b16.get_config()").replace(
            "= 5", "= mine.SEED"
        )
    )
    config = recipe.load("configs/run.py")
    assert (config.model.name, config.seed) == ("B/16", 6)


def test_a_package_of_that_name_stays_who_it_was(folder, without_configs, monkeypatch):
    theirs = types.ModuleType("configs")
    theirs.__path__ = [str(folder)]
    monkeypatch.setitem(sys.modules, "configs", theirs)
    write(folder / "run.py", 7)
    assert recipe.load("run.py").seed == 7
    assert sys.modules["configs"] is theirs
    assert "configs.base" not in sys.modules


def test_a_module_of_that_name_stays_who_it_was(folder, without_configs, monkeypatch):
    theirs = types.ModuleType("configs")
    monkeypatch.setitem(sys.modules, "configs", theirs)
    assert recipe.load("quickstart").data.dataset == "digits"
    assert sys.modules["configs"] is theirs


def test_ours_run_once_where_they_are_imported_already():
    before = sys.modules["configs.base"]
    recipe.load("quickstart")
    assert sys.modules["configs.base"] is before is base


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("quikstart", ['"quickstart"', "no recipe of ours"]),
        ("configs/quikstart.py", ['"configs/quickstart.py"', "is no file"]),
        ("quickstart.py", ['"configs/quickstart.py"', "is no file"]),
        ("mine/rum.py", ['"mine/run.py"']),
    ],
)
def test_one_that_is_not_there_names_the_nearest(text, words, folder):
    write(folder / "mine/run.py", 1)
    with pytest.raises(errors.UserError) as caught:
        recipe.load(text)
    for word in words:
        assert word in str(caught.value)
