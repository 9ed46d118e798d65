"""What outlives every change inside: stored losses, and an old checkpoint.

The rest of the cases: `python -m benchmarks.unchanged`.
"""

import copy

import pytest

from benchmarks import unchanged


@pytest.mark.parametrize(
    "name",
    [
        *("vit_softmax", "masked_pixels", "checkpoint_logits"),
        pytest.param("vit_fsdp", marks=pytest.mark.slow),
        pytest.param("checkpoint_resumed", marks=pytest.mark.slow),
    ],
)
def test_the_numbers_are_those_stored(name):
    assert unchanged.compare(name, unchanged.record(name)) == ""


def test_one_bit_is_a_difference_and_a_new_metric_is_none():
    number = (1.0).hex()
    stored = {"series": {"loss": [number] * 2}, "hashes": {"params": "a"}}
    found = copy.deepcopy(stored)
    found["series"]["new"] = [number]
    assert unchanged.difference(found, stored, tolerance=0.0) == ""
    found["series"]["loss"][1] = (1.0 + 2**-52).hex()
    assert "loss[1]" in unchanged.difference(found, stored, tolerance=0.0)
    assert unchanged.difference(found, stored, tolerance=1e-5) == ""
    found["series"]["loss"][1] = (1.0 + 1e-4).hex()
    assert "loss[1]" in unchanged.difference(found, stored, tolerance=1e-5)
    assert "loss: 0 numbers" in unchanged.difference(
        {"series": {}, "hashes": {}}, stored, tolerance=1e-5
    )
    found = copy.deepcopy(stored) | {"hashes": {"params": "b"}}
    assert "params" in unchanged.difference(found, stored, tolerance=0.0)
