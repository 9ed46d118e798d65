"""Real runs that are stopped, hang and are killed; `make chaos` is the long form."""

import random
import sys

import pytest
from chaos import hangs, jobset, kills, runs, stops

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]


@pytest.mark.parametrize("harness", [stops, hangs, kills, jobset])
def test_every_row_is_good(harness, tmp_path):
    random.seed(0)
    for row in harness.rows(tmp_path, short=True):
        assert row["good"] == "yes", row[runs.SAID]
