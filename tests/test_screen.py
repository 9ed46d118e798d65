"""On a terminal there are bars and tables, elsewhere the plain lines, byte for byte."""

import io
import logging
import os
import pty
import re
import sys

import commands
import jax
import pytest
from absl import logging as absl_logging
from rich.console import Console

from configs import quickstart
from vit_jax import cli, experiment, train
from vit_jax.cli import screen, tables
from vit_jax.parallel import mesh
from vit_jax.plan import report
from vit_jax.runs import metrics
from vit_jax.runs.bulk import progress as bulk_progress

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def nothing_asks(monkeypatch):
    """An environment that asks for nothing, in a terminal that can be drawn on."""
    for name in cli.PLAIN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def drawn(monkeypatch, nothing_asks, caplog):
    """What a command draws on a wide terminal."""
    buffer = io.StringIO()
    monkeypatch.setattr(
        *(screen, "console"),
        lambda stream: Console(
            file=buffer, force_terminal=True, width=200, markup=False, highlight=False
        ),
    )
    monkeypatch.setattr(cli, "_watched", True)
    caplog.set_level(logging.INFO)
    return lambda: CODES.sub("", buffer.getvalue())


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_go_where_they_are_asked_for(monkeypatch, nothing_asks):
    assert cli.is_watched(Terminal()) and not cli.is_watched(io.StringIO())
    for name, value in {**dict.fromkeys(cli.PLAIN, "1"), "TERM": "dumb"}.items():
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert not cli.is_watched(Terminal()), name


def test_nothing_is_shown_that_was_not_asked_for(
    monkeypatch, nothing_asks, caplog, capsys
):
    # A program that calls us on a terminal, and processes but the first.
    with cli.progress("images", 3) as tell:
        assert tell is None and screen._bars is None
    monkeypatch.setattr(cli, "_watched", True)
    caplog.set_level(logging.WARNING)
    with cli.progress("images", 3) as tell:
        assert tell is None and screen._bars is None
    tables.log("", [["a"], ["1"]])
    assert not capsys.readouterr().err


@pytest.mark.slow
def test_the_bar_of_a_run_has_the_figures_of_its_file(drawn, tmp_path, caplog):
    config = quickstart.get_config()
    config.update_from_flattened_dict(
        {
            "total": "6 steps",
            "log_every": "2 steps",
            "eval_every": "",
            "log.writers": "",
            "model.depth": 1,
            "model.width": 32,
            "model.heads": 2,
            "model.mlp_width": 32,
        }
    )
    one = mesh.make_mesh(devices=jax.devices()[:1])
    train.run(config, tmp_path, one)
    text = drawn()
    written = [line for line in metrics.lines(tmp_path) if "loss" in line]
    assert metrics.shown(written[-1]) in text and "images/s" in text
    assert "6/6" in text and "input wait" in text and "eta 0s" in text
    # What the bar says the log does not; what ends with an evaluation it does.
    said = [record.getMessage() for record in caplog.records]
    assert not [line for line in said if "images/s |" in line]
    assert [line for line in said if line.startswith("step 6/6 | test/top1")]
    # The table at the start counts the same parameters as its line does.
    exp = experiment.assemble(config, one)
    sizes = [leaf.size for leaf in jax.tree.leaves(exp.state.params)]
    rows = re.findall(r"^ *(\w+) +([\d,]+) +(\d+) *$", text, re.M)
    assert sum(int(n.replace(",", "")) for _, n, _ in rows) == sum(sizes)
    assert sum(int(arrays) for _, _, arrays in rows) == len(sizes)
    assert screen._bars is None


def test_a_bar_inside_another_is_taken_away_and_lines_go_above(drawn, monkeypatch):
    handler = absl_logging.get_absl_handler().python_handler
    monkeypatch.setattr(handler, "stream", sys.stderr)
    before = sys.stderr
    with cli.progress("step", 20, 10) as outer:
        outer(12, "loss 0.5")
        with cli.progress("images", 5) as inner:
            inner(4)
            assert [task.description for task in screen._bars.tasks] == [
                "step",
                "images",
            ]
        assert handler.stream is sys.stderr and sys.stderr is not before
        print("a line", file=handler.stream)
        outer(13)
        (task,) = screen._bars.tasks
        assert task.completed == 13 and task.fields["text"] == "loss 0.5"
    assert handler.stream is sys.stderr is before
    last = [line.strip() for line in drawn().splitlines()][-3:]
    assert last[-1] == "loss 0.5" and last[-2].endswith("13/20")
    assert "a line" in [line.strip() for line in drawn().splitlines()]


def test_many_images_have_their_line_below_the_bar(drawn):
    clock = iter([0.0, 2.0, 2.0]).__next__
    with cli.progress("images", 100, 10) as tell:
        progress = bulk_progress.Progress(100, 10, tell=tell, clock=clock)
        progress.add(20, 1)
    expected = "30 of 100 images, 10 images/s, 0:00:07 to go, 1 could not be read"
    assert expected in drawn() and "30/100" in drawn()


def test_a_table_has_texts_as_they_are_and_numbers_to_the_right(drawn):
    screen.show([("about", "found"), ("[hub]", "1"), ("a :cat: |", "12")], sys.stdout)
    lines = [line.strip() for line in drawn().splitlines()]
    assert "[hub]           1" in lines and "a :cat: |      12" in lines


def test_a_plan_is_the_same_words_in_rows():
    text = "S/16 on x\nlayout       dp\n             more\n  all-reduce  2\nleft out: y"
    assert report.sections(text) == [
        ("", "S/16 on x"),
        ("layout", "dp"),
        ("", "more"),
        ("", "all-reduce  2"),
        ("", "left out: y"),
    ]


def on_a_terminal(monkeypatch, run):
    """What a pseudo-terminal is sent by what `run` prints."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as stream, monkeypatch.context() as changed:
        changed.setattr(sys, "stdout", stream)
        run()
        stream.flush()
        text = os.read(master, 65536).decode().replace("\r\n", "\n")
    os.close(master)
    return text


def test_models_are_a_table_on_a_terminal_alone(monkeypatch, nothing_asks, capsys):
    def run():
        with commands.own_flags("models") as module:
            module._main(commands.parse("models", ["models", "B/16"]))

    run()
    plain = capsys.readouterr().out
    drawn = on_a_terminal(monkeypatch, run)
    assert "\x1b[" in drawn and "─" in drawn and "─" not in plain
    words = CODES.sub("", drawn).replace("─", "").split()
    assert words == plain.split()
    monkeypatch.setenv("NO_COLOR", "1")
    assert on_a_terminal(monkeypatch, run) == plain
