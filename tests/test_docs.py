"""The documentation: each block is run or says why not, each command is one."""

import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import commands
import pages
import pytest
from test_structure import LEVELS

from vit_jax import __main__ as front
from vit_jax.commands import supervise

BLOCKS = [block for path in pages.PAGES for block in pages.blocks(path)]
SHELL = [block for block in BLOCKS if block.language == "sh"]
RUN = [path for path in pages.PAGES if any(b.is_run for b in pages.blocks(path))]


def fences(text):
    """Lines that begin or end a block of code, wherever they begin."""
    return re.findall(r"^ *`{3,} *[\w-]*$", text, re.M)


def test_no_block_is_overlooked():
    for path in pages.PAGES:
        begun = [fence for fence in fences(path.read_text()) if fence.strip("` ")]
        found = [b for b in pages.blocks(path) if b.language not in pages.HIDDEN]
        assert len(begun) == len(found), f"{path}: name each block's language"


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_run_or_says_why_not(block):
    if block.language in pages.HIDDEN:
        compile(block.text, str(block), "exec")
        return
    assert block.language in (*pages.RUN, pages.OUTPUT), block.language
    if block.marker in ("not run", "needs"):
        assert block.said, "say why"
    if block.marker == "run by":
        tests = Path(pages.REPOSITORY, block.said).read_text()
        assert Path(block.page).name in tests, f"{block.said} reads no {block.page}"
    if block.language == "python":
        compile(block.text, str(block), "exec")
    if block.language == pages.OUTPUT and not block.marker:
        before = [b for b in BLOCKS if b.page == block.page and b.line < block.line]
        shown = [b for b in before if b.language not in pages.HIDDEN]
        assert shown and shown[-1].language in pages.RUN, "output of what?"


def parses(command, arguments, monkeypatch):
    """As the command itself parses them, recipes and their keys included."""
    argv = [command, *(word for word in arguments if word != "...")]
    monkeypatch.setattr(sys, "argv", argv)
    with commands.own_flags(command):
        commands.parse(command, argv)


def words_of(command):
    """The words of the first of several commands on a line."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found = list(lexer)
    ends = [at for at, word in enumerate(found) if set(word) <= set("|&;<>()")]
    return found[: min(ends, default=len(found))]


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_its_commands_are_ours(block, tmp_path, monkeypatch):
    (tmp_path / "launch").symlink_to(pages.REPOSITORY / "launch")
    monkeypatch.chdir(tmp_path)
    for other in BLOCKS:
        if other.page == block.page and other.marker == "file":
            Path(other.said).write_text(other.text)
    for command in pages.commands_of(block):
        words = words_of(re.sub(r"[\[\]]", "", command))  # of what may be left out
        if words[:2] == ["vit_jax", "supervise"]:  # what it starts is one, too
            ours, words = supervise.split(words[2:])
            supervise.parser().parse_args(ours)
        if words[:2] == ["python", "-m"] and words[2].startswith("vit_jax"):
            words = ["vit_jax", *words[2].split(".")[1:], *words[3:]]
        if words[0] == "vit_jax":
            assert words[1] in (*front.COMMANDS, "main", "--version"), words[1]
            if not {"--version", "--help"} & set(words) and "||" not in command:
                parses(words[1], words[2:], monkeypatch)
        if words[0] == "make":
            makefile = (pages.REPOSITORY / "Makefile").read_text()
            assert words[1] in re.findall(r"^([\w-]+):", makefile, re.M)


def test_the_picture_has_every_room_at_its_level(monkeypatch):
    monkeypatch.syspath_prepend(pages.REPOSITORY / "docs" / "pictures")
    levels = importlib.import_module("levels")
    drawn = (pages.REPOSITORY / "docs" / "pictures" / "levels.svg").read_text()
    assert drawn == levels.picture(LEVELS), "run python docs/pictures/levels.py"
    named = set(re.findall(r">([^<>]+)</text>", drawn))
    assert named >= {*LEVELS, *map(str, LEVELS.values())}


def test_the_overview_is_drawn_of_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(pages.REPOSITORY / "docs" / "pictures")
    overview = importlib.import_module("overview")
    found = json.loads(overview.DATA.read_text())
    drawn = (pages.REPOSITORY / "docs" / "pictures" / "overview.svg").read_text()
    assert drawn == overview.picture(found), "run python docs/pictures/overview.py"


def test_the_reference_has_a_word_of_every_room():
    folder = pages.REPOSITORY / "docs" / "reference"
    said = "".join(page.read_text() for page in folder.glob("*.rst"))
    rooms = {*re.findall(r"automodule:: vit_jax\.(\w+)", said)}
    # What is a command and no more is in the page of commands, made by each build.
    assert set(LEVELS) - rooms == {"__main__", "cli", "commands", "host", "main"}


@pytest.mark.slow
@pytest.mark.parametrize("path", RUN, ids=pages.name_of)
def test_a_page_runs(path, tmp_path, tmp_path_factory, monkeypatch, compiled_once):
    folder = tmp_path / "page"
    folder.mkdir()
    monkeypatch.chdir(folder)
    programs = tmp_path_factory.getbasetemp() / "programs"
    page, ran = pages.Page(folder, programs), False
    for block in pages.blocks(path):
        if block.marker == "file":
            page.write(block)
        if block.is_run:
            page.run(block)
        if block.language == pages.OUTPUT and not block.marker and ran:
            page.compare(block)
        ran = block.is_run or (ran and block.language == pages.OUTPUT)
