"""What is packed: sdist and wheel are complete; a wheel alone trains and predicts."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from vit_jax.data import catalog

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parent.parent
BUILD = "import sys; from setuptools import build_meta as b; b.build_{}(sys.argv[1])"


def build(what, source, target):
    command = [sys.executable, "-c", BUILD.format(what), str(target)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = target.glob("*.tar.gz" if what == "sdist" else "*.whl")
    return found


def sources(root):
    """The files that somebody wrote, without what was made of them."""
    folders = ("benchmarks", "configs", "launch", "tests", "vit_jax")
    files = [path for path in root.iterdir() if path.is_file()]
    for folder in folders:
        files += (path for path in (root / folder).rglob("*") if path.is_file())
    names = {path.relative_to(root).as_posix() for path in files}
    left_out = re.compile(r"__pycache__|egg-info|\.pyc$|^\.git|^PKG-INFO|^setup\.cfg")
    return {name for name in names if not left_out.search(name)}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The sdist, unpacked, and the wheel that was built of it."""
    folder = tmp_path_factory.mktemp("packed")
    # Built from a copy: setuptools writes beside the sources.
    copy = folder / "copy"
    for name in sources(REPOSITORY):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((REPOSITORY / name).read_bytes())
    with tarfile.open(build("sdist", copy, folder)) as archive:
        archive.extractall(folder / "sdist", filter="data")
    (unpacked,) = (folder / "sdist").iterdir()
    return unpacked, build("wheel", unpacked, folder)


@pytest.fixture(scope="module")
def run(packed, tmp_path_factory):
    """Runs the command of an environment that has the wheel, in an empty folder."""
    folder = tmp_path_factory.mktemp("far_away")
    venv.create(folder / "env", symlinks=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "env/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q"]
    install = [*pip, "--no-deps", "--no-index", str(packed[1])]
    subprocess.run(install, check=True, capture_output=True)
    environment = {"JAX_PLATFORMS": "cpu", "HOME": str(folder), "PATH": os.defpath}

    def call(*arguments):
        (folder / "run").mkdir(exist_ok=True)
        done = subprocess.run(
            [folder / "env/bin/vit_jax", *arguments],
            **{"cwd": folder / "run", "env": environment},
            **{"capture_output": True, "text": True},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    call.folder = folder / "run"
    call.site = site
    return call


def test_the_sdist_has_every_file(packed):
    assert sources(packed[0]) == sources(REPOSITORY)


def test_the_wheel_has_the_package_and_its_recipes_and_nothing_beside(packed):
    names = set(zipfile.ZipFile(packed[1]).namelist())
    found = {name for name in names if ".dist-info/" not in name}
    wanted = {name for name in sources(REPOSITORY) if name.startswith("vit_jax/")}
    recipes = {n for n in sources(REPOSITORY) if re.match(r"configs/[a-z]", n)}
    assert found == wanted | {f"vit_jax/{name}" for name in recipes}
    assert "configs/base.py" in recipes


def test_the_package_is_the_installed_one(run):
    script = "import vit_jax; print(vit_jax.__file__)"
    python = run.site.parents[2] / "bin/python"
    done = subprocess.run(
        [python, "-I", "-c", script], capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).parent.parent == run.site


@pytest.mark.parametrize("recipe", ["vit_b16:i21k", "configs/vit_b16.py:i21k"])
def test_recipes_go_by_name_and_by_path(run, recipe):
    shown = run("train", f"--config={recipe}", "--print_config")
    assert "--config.data.dataset=imagenet21k" in shown


def test_a_recipe_of_a_user_imports_ours(run):
    text = "from configs import quickstart\n\n\ndef get_config():\n"
    text += "    config = quickstart.get_config()\n    config.seed = 5\n"
    run.folder.mkdir(exist_ok=True)
    (run.folder / "mine.py").write_text(text + "    return config\n")
    assert "--config.seed=5" in run("train", "--config=mine.py", "--print_config")


def test_it_trains_the_quickstart_and_predicts(run):
    figures = json.loads(run("train", "--config=quickstart").splitlines()[-1])
    assert figures["test/top1"] >= 0.97
    source = catalog.open_source("digits", "test")
    labels = {}
    for index in range(8):
        example = source[index]
        name = f"{index}.png"
        Image.fromarray(example["image"][..., 0]).save(run.folder / name)
        labels[name] = int(example["label"])
    out = run("predict", "--checkpoint=workdirs/quickstart", *labels)
    found = {
        entry["image"]: entry["top"][0]["label"]
        for entry in json.loads(out.splitlines()[-1])["predictions"]
    }
    assert sum(found[name] == label for name, label in labels.items()) >= 7
