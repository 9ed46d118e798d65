"""Every command of README.md is one: it parses, its files and targets are there."""

import re
import shlex
import sys
from pathlib import Path

import commands
import pytest

from vit_jax import __main__ as front
from vit_jax.commands import supervise

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text()


def shell_lines():
    """Lines of its plain code blocks, without comments and the brackets of options."""
    for block in re.findall(r"^```sh\n(.*?)^```", README, re.S | re.M):
        for line in block.splitlines():
            yield re.sub(r"[\[\]]", "", line.split(" #")[0]).strip()


LINES = [
    line for line in shell_lines() if re.match(r"(python|make|pip|vit_jax) ", line)
]
SPOKEN = re.findall(r"`((?:python|pytest|make|pip|vit_jax) [^`]+)`", README)


def test_there_are_commands():
    assert len(LINES) >= 12 and len(SPOKEN) >= 20


@pytest.mark.parametrize("line", sorted({*LINES, *SPOKEN}))
def test_a_command_is_one(line, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    words = shlex.split(line)
    if words[:2] == ["vit_jax", "supervise"]:  # what it starts is a command, too
        ours, words = supervise.split(words[2:])
        supervise.parser().parse_args(ours)
    if module := re.fullmatch(r"vit_jax\.(\w+)", words[2] if len(words) > 2 else ""):
        parses(module[1], words[3:], monkeypatch)
    if words[0] == "vit_jax" and not words[1].isupper():  # `vit_jax COMMAND`
        assert words[1] in front.COMMANDS, words[1]
        parses(words[1], words[2:], monkeypatch)
    for word in words:
        if word.startswith(("tests/", "benchmarks/", "configs/", "launch/")):
            assert Path(word).exists(), word
        elif re.fullmatch(r"benchmarks\.\w+", word):
            assert Path(word.replace(".", "/") + ".py").exists(), word
    if words[0] == "make":
        target = next((word for word in words[1:] if "=" not in word), "...")
        known = re.findall(r"^([\w-]+):", Path("Makefile").read_text(), re.M)
        assert target in (*known, "..."), target


def parses(command, arguments, monkeypatch):
    """As the command itself parses them, recipes and their keys included."""
    argv = [command, *(word for word in arguments if word != "...")]
    monkeypatch.setattr(sys, "argv", argv)
    if command in commands.OF_A_RECIPE and not any("--config=" in a for a in argv):
        argv.append("--config=configs/quickstart.py")  # `... --advise` stands for it
    with commands.own_flags(command):
        commands.parse(command, argv)
