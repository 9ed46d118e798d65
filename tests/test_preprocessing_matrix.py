"""Pixels of transformers, timm and torchvision, as `benchmarks.preprocessing` has them.

The golden file holds small images, configurations, and what the reference made of them
in float16; torch is not needed here.
"""

import json

import numpy as np
import pytest

from benchmarks import preprocessing as matrix

GOLDEN = np.load(matrix.GOLDEN)
CASES = [
    matrix.Case(code, name, said, tuple(size))
    for code, name, said, size in json.loads(GOLDEN["cases"].tobytes())
]
FILES = {
    name.removeprefix("image/"): GOLDEN[name].tobytes()
    for name in GOLDEN.files
    if name.startswith("image/")
}


@pytest.mark.parametrize(
    "number", range(len(CASES)), ids=lambda n: f"{CASES[n].code}-{CASES[n].name}"
)
def test_pixels_are_those_of_the_reference(number):
    case, wanted = CASES[number], GOLDEN[f"pixels/{number}"].astype(np.float64)
    prepared = matrix.CODES[case.code].ours(case)
    std = np.float64(prepared.std)[None, None]
    for data, reference in zip(FILES.values(), wanted, strict=True):
        got = matrix.ours(prepared, data)
        assert got.shape == reference.shape
        off = (got - reference) * std
        # float16 keeps 11 bits of up to 255 levels.
        assert np.abs(off).max() <= matrix.LEVELS + 0.13
        assert abs(off.mean()) / 255 <= matrix.MEAN


def test_the_matrix_is_as_large_as_it_says():
    cases = matrix.cases()
    assert len(cases) >= 60 and len(FILES) == 3
    assert len({(case.code, case.name) for case in cases}) == len(cases)
    assert {case.code for case in CASES} == set(matrix.CODES)
