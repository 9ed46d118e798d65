"""The examples of CONTRIBUTING.md run as they stand there."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vit_jax import __main__, evaluators, studies
from vit_jax.data import augment, catalog
from vit_jax.learning import objective
from vit_jax.models import families, variants
from vit_jax.parallel import layouts

REPOSITORY = Path(__file__).resolve().parent.parent
TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text()
# What examples put rows into.
TABLES = (
    *(variants.SIZES, families.FAMILIES, catalog.ROWS, objective.OBJECTIVES),
    *(evaluators.EVALUATORS, augment.AUGMENTATIONS, layouts.LAYOUTS),
    *(__main__.COMMANDS, studies.STUDIES),
)


def examples(files=False):
    """The examples; or those among them that are whole files of a command."""
    found = []
    for section in TEXT.split("\n## ")[1:]:
        title = section.splitlines()[0]
        for code in re.findall(r"^```python\n(.*?)^```", section, re.S | re.M):
            if ('__name__ == "__main__"' in code) is files:
                found.append(pytest.param(code, id=title))
    return found


@pytest.fixture
def tables():
    """The tables as they were, when the example is over."""
    saved = [copy.copy(table) for table in TABLES]
    yield
    for table, rows in zip(TABLES, saved):
        table.clear()
        table.update(rows)


@pytest.mark.parametrize("code", examples())
def test_an_example_runs(code, tables):
    assert "assert " in code
    compiled = compile(code, "CONTRIBUTING.md", "exec")
    exec(compiled, {"__name__": "contributing"})  # noqa: S102


RUN = """
import sys
from pathlib import Path
from vit_jax import __main__, commands
folder, row, *argv = sys.argv[1:]
commands.__path__.append(folder)
exec(row)
__main__.main(argv)
"""


def test_the_example_of_a_command_runs(tmp_path):
    (file,) = examples(files=True)
    (row,) = (e.values[0] for e in examples() if e.id == file.id)
    (tmp_path / "tokens.py").write_text(file.values[0])
    argv = [str(tmp_path), row, "tokens", "B/16", "--image_size=384"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *argv], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"model": "B/16", "tokens": 577}


def test_there_is_one_for_whatever_can_be_added():
    added = {example.id.removeprefix("Add ") for example in examples()}
    assert added == {
        *("a model", "a dataset", "an objective", "an evaluator", "an augmentation"),
        *("a layout", "a dialect", "a command", "a metrics store", "a study"),
    }


def test_its_commands_and_files_are_there():
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.M)
    assert set(re.findall(r"\bmake ([\w-]+)", TEXT)) <= set(targets)
    for path in re.findall(r"`?((?:tests|configs|\.ci)/[\w./-]+)", TEXT):
        assert (REPOSITORY / path).exists(), path
    rooms = "commands|data|models|learning|evaluators|parallel|studies|weights"
    for path in re.findall(rf"`((?:{rooms})/[\w./-]*)`", TEXT):
        assert (REPOSITORY / "vit_jax" / path).exists(), path
