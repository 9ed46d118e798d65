"""The table of commands: what it prints, and what a command loads."""

import importlib.util
import re
import runpy
import subprocess
import sys
import types

import commands
import pytest
from absl import flags

from vit_jax import __main__ as front
from vit_jax import cli, errors
from vit_jax.cli import help_page
from vit_jax.commands import supervise


def modules_after(name, *arguments):
    """The modules of ours that a command has loaded when it ends."""
    script = (
        "import sys, atexit; from vit_jax import __main__\n"
        "atexit.register(lambda: print(*(m for m in sys.modules if 'vit_jax' in m)))\n"
        "__main__.main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, name, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_every_row_names_a_module_that_runs():
    for name, command in front.COMMANDS.items():
        spec = importlib.util.find_spec(command.module)
        assert spec is not None, name
        if spec.submodule_search_locations is not None:
            assert importlib.util.find_spec(f"{command.module}.__main__"), name


def test_the_rows_fit_on_a_screen():
    lines = front.listing().splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    assert all(command.help.endswith(".") for command in front.COMMANDS.values())


@pytest.mark.parametrize("argv", [[], ["--help"], ["help"]])
def test_alone_it_lists_every_command_under_its_group(argv, capsys):
    front.main(argv)
    out = capsys.readouterr().out
    for name, command in front.COMMANDS.items():
        head, _, rest = out.partition(f"\n{command.group}:\n")
        assert f"  {name} " in rest and command.help in rest
        assert f"  {name} " not in head


def test_a_typo_names_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        front.main(["trian"])
    assert stop.value.code == errors.EXIT_BAD_INPUT == front.EXIT_BAD_INPUT
    assert "Did you mean 'train'?" in capsys.readouterr().err


def test_a_command_gets_its_arguments_and_is_main(monkeypatch):
    calls = []
    monkeypatch.setattr(
        runpy,
        "run_module",
        lambda module, **options: calls.append((module, options, list(sys.argv))),
    )
    monkeypatch.setattr(sys, "argv", ["vit_jax", "plan", "--fast"])
    front.main()
    options = {"run_name": "__main__", "alter_sys": True}
    assert calls == [("vit_jax.plan", options, ["plan", "--fast"])]


def test_a_command_loads_no_other():
    found = modules_after("models", "Ti/16")
    rooms = {name.split(".")[1] for name in found if "." in name}
    others = {c.module.split(".")[1] for c in front.COMMANDS.values()} - {"models"}
    assert not rooms & others
    assert "models" in rooms


def test_help_of_what_loads_no_library_is_one_screen(monkeypatch, capsys):
    """`vit_jax supervise` outlives what it starts, and shares no flags with it."""
    monkeypatch.setattr(sys, "argv", ["supervise", "--help"])
    with pytest.raises(SystemExit) as ended:
        supervise.main()
    lines = capsys.readouterr().out.splitlines()
    assert not ended.value.code and len(lines) <= 40 and max(map(len, lines)) <= 100
    assert "vit_jax supervise" in lines[0]
    assert {"  --retries RETRIES  without progress"} <= set(lines)


WITH_FLAGS = [name for name in front.COMMANDS if name != "supervise"]


@pytest.mark.parametrize("name", WITH_FLAGS)
def test_help_is_one_screen_of_our_own_flags(name, capsys):
    with commands.own_flags(name) as module:
        key = module.__name__
        text = help_page.page(module, key)
        own = [flag.name for flag in flags.FLAGS.get_key_flags_for_module(key)]
    lines = text.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    assert lines[0].startswith(f"vit_jax {name}"), "the docstring begins with it"
    assert "--helpfull" in lines[-1]
    assert lines[1] == "" and lines[2][0].isupper(), "it is a sentence"
    for flag in own:
        assert re.search(rf"^  --(no)?{flag}\b", text, re.M), flag
    assert " ..." not in text.split(":\n", 1)[1], "what a flag is fits on its line"


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpshort"])
def test_help_ends_with_0_before_anything_is_parsed(flag, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["predict", "--nonsense", flag])
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda argv: 1)
    assert stop.value.code == 0
    assert "--helpfull" in capsys.readouterr().out


def test_what_comes_after_two_dashes_is_no_flag():
    assert help_page.asked(["predict", "--help"])
    assert not help_page.asked(["predict", "--", "--help"])


def test_a_long_help_keeps_its_flags_and_its_first_paragraph():
    values = flags.FlagValues()
    for number in range(33):
        flags.DEFINE_bool(f"flag_{number}", True, "x" * 200, flag_values=values)
    long = types.ModuleType("long", "`vit_jax long`.\n\nOne.\n\nTwo.\n")
    text = help_page.page(long, __name__, values)
    lines = text.splitlines()
    assert len(lines) == 40 and max(map(len, lines)) <= 100
    assert "One." in text and "Two." not in text
    assert sum(line.startswith("  --noflag_") for line in lines) == 33


def test_listing_loads_nothing():
    script = "import sys; from vit_jax import __main__; __main__.main([]); "
    script += "assert not {'jax', 'numpy', 'absl'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
