"""A run goes on to another length where its rates so far do not depend on it."""

import json
from types import SimpleNamespace

import pytest

from configs import quickstart
from vit_jax import errors, experiment
from vit_jax.data import catalog
from vit_jax.runs import extension, workdir

INFO = catalog.describe("digits")


def config(**changes):
    found = quickstart.get_config()
    found.update_from_flattened_dict({"total": "10 steps"} | changes)
    return found.to_dict()


def check(total, reached, **changes):
    """What a run of 10 steps that has done some is told when it asks for others."""
    asked = config(**changes, total=total)
    durations, schedule = experiment.schedule_of(asked, INFO)
    run = SimpleNamespace(info=INFO, durations=durations, schedule=schedule)
    extension.check(run, config(**changes), reached)


def changes(schedule, warmup="4 steps", cooldown=""):
    names = {"schedule": schedule, "warmup": warmup, "cooldown": cooldown}
    return {f"optimizer.{name}": value for name, value in names.items()}


@pytest.mark.parametrize("schedule", ["constant", "rsqrt"])
def test_rates_that_do_not_know_the_length_may_go_on(schedule):
    check("25 steps", 10, **changes(schedule))
    check("25 steps", 7, **changes(schedule, cooldown="3 steps"))
    check("8 steps", 7, **changes(schedule))


@pytest.mark.parametrize(
    "options",
    [
        changes("cosine"),
        changes("linear"),
        changes("constant", warmup="50%"),
        changes("constant", cooldown="3 steps"),
    ],
)
def test_rates_that_do_are_refused_with_what_to_do(options):
    with pytest.raises(errors.UserError) as caught:
        check("25 steps", 10, **options)
    text = str(caught.value)
    assert "total='10 steps' when this run started, '25 steps' in this call" in text
    assert "--config.init_from=WORKDIR" in text and len(text.splitlines()) <= 10


def test_the_same_length_in_other_words_is_the_same_run():
    check("640 examples", 10, **changes("cosine"))


def test_nothing_saved_may_be_anything():
    check("25 steps", 0, **changes("cosine"))


def test_a_run_gets_no_shorter_than_it_is():
    with pytest.raises(errors.UserError, match="10 steps are done, 8 are fewer"):
        check("8 steps", 10, **changes("constant"))


def test_a_key_of_a_later_version_is_at_its_default_in_an_older_workdir(tmp_path):
    stored = config()
    del stored["optimizer"]["skip_spikes"], stored["data"]["train"]["filter"]
    stored["optimizer"]["lr"] = 0.125
    (tmp_path / "config.json").write_text(json.dumps(stored))
    found = workdir.read_config(tmp_path)
    assert (
        found["optimizer"]["skip_spikes"] == 0 == len(found["data"]["train"]["filter"])
    )
    assert found["optimizer"]["lr"] == 0.125
    assert found["evals"].keys() == stored["evals"].keys()
    experiment.schedule_of(found, INFO)
