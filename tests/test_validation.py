"""Durations and the values that no run could use."""

import math

import pytest

from configs import base
from vit_jax import errors
from vit_jax.settings import durations, validation


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", 0),
        ("0", 0),
        ("500", 500),
        ("10_000 steps", 10_000),
        ("1 step", 1),
        ("2 epochs", 20),
        ("0.5 epochs", 5),
        ("5e3 examples", 50),
        ("10%", 3),
        ("0.1%", 1),
        ("100 percent", 30),
    ],
)
def test_durations(text, steps):
    got = durations.duration(
        "key", text, batch_size=100, num_examples=1000, total_steps=30
    )
    assert got == steps


@pytest.mark.parametrize(
    ("text", "none"),
    [
        *((text, True) for text in ("0", "0 steps", " 0_0 epochs", "0.0 examples", 0)),
        *((text, False) for text in ("", " ", "1", "5e12 examples", "0.5 epochs", 7)),
    ],
)
def test_no_steps_are_asked_for_in_so_many_words(text, none):
    assert durations.trains_nothing({"total": text}) == none


def test_paper_steps():
    """paper Table 3: ImageNet, 300 epochs of 1,281,167 at batch 4096."""
    steps = durations.duration(
        "total", "300 epochs", batch_size=4096, num_examples=1_281_167
    )
    assert steps == 93_835


@pytest.mark.parametrize(
    "text", ["soon", "-3", "nan", "1e99", "5 weeks", "120%", "1 2"]
)
def test_what_is_no_duration(text):
    with pytest.raises(errors.UserError, match="key="):
        durations.duration("key", text, batch_size=1, num_examples=10, total_steps=9)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.lr", math.nan),
        ("optimizer.lr", -1.0),
        ("optimizer.lr", 1e30),
        ("optimizer.weight_decay", math.inf),
        ("optimizer.beta2", 1.0),
        ("batch_size", 0),
        ("batch_size", 10**18),
        ("seed", -1),
        ("loss", "hinge"),
        ("model.image_size", (0, 224)),
        ("model.image_size", (1, 2, 3)),
        ("model.dropout", 1.5),
        ("data.std", (0.0, 1.0, 1.0)),
        ("data.train.area", (0.9, 0.1)),
        ("ema", 1.0),
        ("mesh.data", 0),
        ("microbatches", -2),
    ],
)
def test_bad_values_name_their_key(key, value):
    config = base.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(errors.UserError) as caught:
        validation.check_values(config.to_dict())
    assert str(caught.value).startswith(f"{key}=")
    assert "want" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("32", (32, 32)),
        ("48x64", (48, 64)),
        ("(48, 64)", (48, 64)),
        ("48,64", (48, 64)),
        ("(32,)", (32, 32)),
        (" 7 x 8 ", (7, 8)),
    ],
)
def test_sizes(text, size):
    assert validation.parse_size(text, "image_size") == size


@pytest.mark.parametrize("text", ["", "x", "16x", "0", "1x2x3", "-1", "1.5", "a"])
def test_what_is_no_size(text):
    with pytest.raises(errors.UserError, match="HEIGHTxWIDTH"):
        validation.parse_size(text, "image_size")


@pytest.mark.parametrize("path", ["gs://a/b", "gs:/a/b", "s3://a", "https://a.b/c"])
def test_nothing_is_written_to_an_address(path):
    with pytest.raises(errors.UserError, match="mounted") as caught:
        validation.check_local(path, "--workdir")
    assert len(str(caught.value).splitlines()) == 1
    validation.check_local("a/b:c/d", "--workdir")


def test_defaults_are_good():
    validation.check_values(base.get_config().to_dict())


def test_differences_ignore_json_lists():
    ours = {"a": (1, 2), "b": {"c": 1}}
    assert validation.differences(ours, {"a": [1, 2], "b": {"c": 2}}) == {"b.c": (1, 2)}
    assert validation.differences(ours, {"b": {"c": 1}}) == {"a": ((1, 2), "(not set)")}
