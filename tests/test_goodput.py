"""Every second of a supervised run is in one class, and lost is what was done again."""

import json
import os
import time

import pytest

from vit_jax.runs import goodput, phases

NONE = dict.fromkeys(goodput.CLASSES, 0.0)


def start(wall, marks=(), **seconds):
    named = {name.replace("_", " "): value for name, value in seconds.items()}
    done = [(step, NONE | {"step": until}) for step, until in marks]
    return {"wall": wall, "seconds": NONE | named, "marks": done}


@pytest.mark.parametrize(
    ("starts", "resumed", "again", "lost"),
    [
        # Saved at 20 and 40, killed 7 s after; 2 s until the next start.
        ([start(30, [(0, 0), (20, 8), (40, 15)], start=6, step=22)], 40, 7, 9),
        # What was written as 40 could not be read.
        ([start(30, [(0, 0), (20, 8), (40, 15)], start=6, step=22)], 20, 14, 16),
        # Nothing was saved.
        ([start(30, [(0, 0)], start=6, step=22)], 0, 22, 24),
        # Two starts that came to no step between.
        ([start(9, [(0, 0), (20, 8)], step=9), start(5, start=4)] * 2, 20, 2, 4),
        # Asked to stop: what a checkpoint takes is no loss.
        ([start(12, [(0, 0), (9, 8)], step=8, save=3)], 9, 0, 1),
    ],
)
def test_what_is_done_again_is_lost_and_the_rest_is_kept(starts, resumed, again, lost):
    found = goodput.settled({}, starts, resumed)
    assert (found[goodput.AGAIN], found[goodput.LOST]) == (again, lost)
    classes = sum(found[name] for name in (*goodput.CLASSES, goodput.LOST))
    assert classes == sum(one["wall"] for one in starts)


def test_a_run_and_its_supervisor_keep_one_account(tmp_path, monkeypatch):
    monkeypatch.setattr(goodput, "PERIOD", 0.01)
    book = goodput.Book(tmp_path)
    for saved in (0, 20):
        with book.start() as path:
            assert goodput.resumed(path) == 0
            monkeypatch.setenv(goodput.VARIABLE, str(path))
            during = phases.Phases()
            goodput.record(during, lambda now: 9.0)
            assert goodput.VARIABLE not in os.environ
            during.mark(saved)
            during.enter(phases.STEP)
            time.sleep(0.2)
            figures = during.account()
            during.mark(saved + 20)
            time.sleep(0.1)
            assert goodput.resumed(path) == saved
    wall = figures.pop("goodput_wall_seconds")
    steps = figures.pop("goodput") * wall
    assert steps == pytest.approx(figures["goodput_step_seconds"], abs=0.01)
    assert sum(figures.values()) == pytest.approx(wall, abs=0.05)
    assert 0.35 < steps < wall
    assert "in 2 starts" in (told := book.close()), told


def test_commands_that_keep_no_account_get_none(tmp_path):
    book = goodput.Book(tmp_path)
    with book.start():
        pass
    assert book.close() == ""


def test_a_run_that_writes_nothing_any_more_is_dead_after_its_limit(tmp_path):
    path = tmp_path / "account"
    said = {"seconds": NONE, "marks": [], "doing": "step 7, for 0 s", "limit": 60.0}
    path.write_text(json.dumps({"given": {}, "said": said}))

    def age(seconds):
        os.utime(path, (time.time() - seconds,) * 2)
        return goodput.silent(path)

    assert age(0) == age(60) == "" and "for 65 s, in step 7" in age(65)
    path.write_text(json.dumps({"given": {}, "said": said | {"limit": 0.0}}))
    assert age(10_000) == "" and goodput.silent(tmp_path / "none") == ""
