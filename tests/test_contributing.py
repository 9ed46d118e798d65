"""The examples of CONTRIBUTING.md run as they stand there."""

import copy
import re
from pathlib import Path

import pytest

from vit_jax import evaluators
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
)


def examples():
    found = []
    for section in TEXT.split("\n## ")[1:]:
        title = section.splitlines()[0]
        for code in re.findall(r"^```python\n(.*?)^```", section, re.S | re.M):
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


def test_there_is_one_for_whatever_can_be_added():
    added = {example.id.removeprefix("Add ") for example in examples()}
    assert added == {
        *("a model", "a dataset", "an objective", "an evaluator", "an augmentation"),
        *("a layout", "a dialect"),
    }


def test_its_commands_and_files_are_there():
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.M)
    assert set(re.findall(r"\bmake ([\w-]+)", TEXT)) <= set(targets)
    for path in re.findall(r"`?((?:tests|configs|\.ci)/[\w./-]+)", TEXT):
        assert (REPOSITORY / path).exists(), path
    rooms = "data|models|learning|evaluators|parallel|weights"
    for path in re.findall(rf"`((?:{rooms})/[\w./-]*)`", TEXT):
        assert (REPOSITORY / "vit_jax" / path).exists(), path
