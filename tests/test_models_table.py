"""`python -m vit_jax.models` prints the published figures."""

import json
import os
import subprocess
import sys

import commands
import pytest

from vit_jax import errors, models
from vit_jax.models import __main__ as table

# name -> parameters, GMAC at 224 and at 384 pixels, tokens at both (None: has none).
PUBLISHED = {
    "Ti/16": (5_717_416, 1.25, 4.68, 197, 577),
    "B/32": (88_224_232, 4.41, 13.04, 50, 145),
    "L/16": (304_326_632, 61.55, 191.07, 197, 577),
    "H/14": (632_045_800, 167.30, 503.48, 257, 730),
    "G/14": (1_844_440_680, 483.75, 1429.2, 257, 730),
    "R+Ti/16": (6_337_704, 0.43, 1.33, 50, 145),
    "R50+L/16": (316_483_624, 65.54, 202.78, 197, 577),
    "Axial-B/32": (173_277_160, 8.45, None, 49, 144),
    "Axial-B/16": (171_620_584, 33.51, None, 196, 576),
    "BiT-R50x1": (25_549_352, 4.09, 12.01, None, None),
    "BiT-R152x4": (936_533_224, 182.8, 537.1, None, None),
    "BiT-R200x3": (568_633_000, 134.4, 394.8, None, None),
    "BiT-R50x1-post": (25_557_032, None, None, None, None),
    "AxialResNet50": (19_373_640, None, None, None, None),
    "Mixer-B/16": (59_880_472, None, None, 196, 576),
    "Mixer-L/16": (208_196_168, None, None, 196, 576),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_row_has_the_published_figures(name):
    parameters, *gmac, tokens, tokens384 = PUBLISHED[name]
    row = table.row(name)
    assert (row["name"], row["parameters"]) == (name, parameters)
    assert row["tokens"] == {224: tokens, 384: tokens384}
    for got, published in zip(row["gmac"].values(), gmac):
        assert published is None or got == pytest.approx(published, rel=0.01)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "vit_jax.models", *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_command_prints_every_model_in_columns():
    done = run()
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == models.list_names()
    assert len({len(line) for line in (head, *lines)}) == 1
    assert "  86,567,656     17.56     55.48         197         577" in done.stdout


@pytest.mark.slow
def test_a_pattern_selects_and_json_is_one_object(capsys):
    pattern = "BiT-R152x[12]"
    with commands.own_flags("models") as module:
        module._main(commands.parse("models", ["models", pattern, "--json"]))
    (line,) = capsys.readouterr().out.splitlines()
    rows = json.loads(line)["models"]
    assert [row["name"] for row in rows] == models.list_names(pattern)
    assert len(rows) == 2
    assert rows[0]["gmac"]["224"] == pytest.approx(11.51, rel=0.01)


def test_a_name_that_the_list_lacks_is_a_row_too():
    row = table.row("B/20")
    grid = 224 // 20
    assert row["tokens"][224] == grid * grid + 1
    with pytest.raises(errors.UserError, match="SIZE/PATCH"):
        table.row("b20")


def test_a_pattern_without_a_model_is_one_error():
    done = run("Z*")
    assert (done.returncode, done.stdout) == (errors.EXIT_BAD_INPUT, "")
    assert done.stderr == "error: no model's name matches 'Z*'\n"
