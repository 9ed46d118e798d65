"""The short form of `chaos/fuzz.py`, the same cases each time."""

import random

import pytest
from chaos import fuzz, hostile_places

from vit_jax import errors

CASES = 60  # of each target


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("fuzz")
        patch.setenv("VIT_JAX_CACHE", str(root / "cache"))
        (root / "place").mkdir()
        made = hostile_places.make(root / "place")
        yield made
        hostile_places.unmake(made)


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzz.DRAWN)
def test_what_is_drawn_is_read_or_refused(name, place):
    assert not fuzz.draw(name, CASES, place)


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzz.BYTES)
def test_mutations_of_good_files_are_read_or_refused(name, place):
    assert not fuzz.mutate(name, CASES, place)
    seeds = fuzz.BYTES[name].seeds(place)
    assert seeds, "nothing to mutate"
    if name in ("image", "npz", "safetensors", "torch", "example"):
        assert not any(fuzz.one(name, seed, place) for seed in seeds)


def test_a_crash_is_seen(monkeypatch):
    wrong = fuzz.Bytes(lambda place: [b"abcd"], lambda data, path: {97: 1}[data[0]])
    monkeypatch.setitem(fuzz.BYTES, "wrong", wrong)
    place = {"cwd": "."}
    (crash, *_) = found = fuzz.mutate("wrong", 200, place)
    assert crash.what.startswith("KeyError at test_fuzz.py") and len(found) <= 2
    many = fuzz._tried(lambda: 1 / 0, (ZeroDivisionError,))
    assert many == "" and fuzz._tried(lambda: None, ()) == ""
    broken = fuzz.Drawn(lambda place: fuzz.st.integers(), lambda n, place: [][n])
    monkeypatch.setitem(fuzz.DRAWN, "broken", broken)
    assert fuzz.draw("broken", 5, place)[0].what.startswith("IndexError")


def test_mutations_are_the_same_each_time_and_none_is_the_good_one_alone():
    found = [fuzz.mutated(b"0123456789" * 9, random.Random(k)) for k in range(50)]
    again = [fuzz.mutated(b"0123456789" * 9, random.Random(k)) for k in range(50)]
    assert found == again and len(set(found)) > 40


def test_an_error_is_of_one_class(monkeypatch):
    def refuse():
        raise errors.UserError("no")

    assert fuzz._tried(refuse, (errors.UserError,)) == ""
    assert fuzz._tried(refuse, ()).startswith("UserError")
