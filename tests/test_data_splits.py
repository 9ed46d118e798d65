from pathlib import Path

import pytest

from vit_jax import errors
from vit_jax.data import catalog, splits

CASE = Path(__file__).parent / "golden" / "cases" / "negative_percent"
KNOWN = {"train": 1037, "test": 211}
EXPRESSIONS = [
    "train",
    "train[:98%]",
    "train[98%:]",
    "train[10%:20%]",
    "train[-10%:]",
    "train[:33.3%]",
    "train[100:200]",
    "train[-500:]",
    "train[:-37]",
    "train+test",
    "train[:10]+test[50%:]",
    "all",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_ranges_are_those_of_tfds(expression):
    tfds = pytest.importorskip("tensorflow_datasets")
    info = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0)
        for name, size in KNOWN.items()
    }
    instruction = tfds.core.splits.AbstractSplit.from_spec(expression)
    wanted = [
        (part.splitname, part.from_ or 0, KNOWN[part.splitname] if to is None else to)
        for part in instruction.to_absolute(info)
        for to in [part.to]
    ]
    assert [tuple(part) for part in splits.resolve(expression, KNOWN, "x")] == wanted


def test_percentages_partition_the_split():
    parts = [
        splits.resolve(f"train[{k}%:{k + 1}%]", {"train": 12345}, "x")
        for k in range(100)
    ]
    covered = [i for [part] in parts for i in range(part.start, part.stop)]
    assert covered == list(range(12345))


def bounds(expression, size):
    [part] = splits.resolve(expression, {"train": size}, "x")
    return part.start, part.stop


PERCENTAGES = ["0.1", "1", "2.5", "9.99", "33.3", "50", "66.66", "97.5", "99", "99.9"]


@pytest.mark.parametrize("size", [*range(1, 42), 100, 1037, 50000, 1281167])
def test_a_percentage_from_the_end_is_its_twin_from_the_start(size):
    twins = dict(zip(PERCENTAGES, ["99.9", "99", "97.5", "90.01", "66.7", "50"]))
    twins |= {"66.66": "33.34", "97.5": "2.5", "99": "1", "99.9": "0.1"}
    for behind, ahead in twins.items():
        cut = round(float(ahead) * size / 100.0)
        if cut < size:
            assert bounds(f"train[-{behind}%:]", size) == (cut, size)
        if cut > 0:
            assert bounds(f"train[:-{behind}%]", size) == (0, cut)
        if cut < round(0.999 * size):
            wanted = bounds(f"train[{ahead}%:99.9%]", size)
            assert bounds(f"train[-{behind}%:-0.1%]", size) == wanted
            assert bounds(f"train[-{behind}%:99.9%]", size) == wanted


@pytest.mark.parametrize("unit", ["%", ""])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 30, 99, 150, 211])
def test_every_example_is_on_one_side_of_a_bound(unit, size):
    def selected(expression):
        try:
            return list(range(*bounds(expression, size)))
        except errors.UserError as error:
            assert "selects no example" in str(error)
            return []

    for k in range((100 if unit else size) + 1):
        for bound in (f"{k}{unit}", f"-{k}{unit}"):
            both = selected(f"train[:{bound}]") + selected(f"train[{bound}:]")
            assert both == list(range(size)), bound


def test_the_last_percent_of_thirty_files_is_none_and_not_all():
    info = catalog.describe(str(CASE))
    assert info.splits == {"train": 30}
    for twin in ("train[:-1%]", "train[:99%]", "train[:-0%]"):
        assert catalog.num_examples(info, twin) == 30
    for twin in ("train[-1%:]", "train[99%:]"):
        with pytest.raises(errors.UserError, match="selects no example"):
            catalog.num_examples(info, twin)
    names = [catalog.open_source(str(CASE), f"train[{k}%:]") for k in (90, -10)]
    ahead, behind = [[part.name(k) for k in range(len(part))] for part in names]
    assert ahead == behind and len(ahead) == 3


@pytest.mark.parametrize(
    "expression, shown",
    [
        ("val", "known splits: train (1037 examples), test (211 examples)"),
        ("trian", 'Did you mean "train"?'),
        ("train[:2000]", "1037 examples"),
        ("train[:101%]", "101%"),
        ("train[10:10]", "selects no example"),
        ("train[20:10]", "selects no example"),
        ("train[:0%]", "selects no example"),
        ("train[-0%:]", "selects no example"),
        ("test+train[99.99%:]", "selects no example by 'train[99.99%:]'"),
        ("train[-101%:]", "-101%"),
        ("train[:-1038]", "1037 examples"),
        ("train[:50%]+train[25%:]", "selects examples 259 to 517 of 'train' twice"),
        ("test+train+test", "selects examples 0 to 210 of 'test' twice"),
        ("all+test", "of 'test' twice"),
        ("train[10%:200]", "mixes"),
        ("train[:1.5]", "1.5"),
        ("train[:", "cannot be read"),
        ("train[3]", "cannot be read"),
        ("train[:]", "no bound"),
        ("", "cannot be read"),
        ("train++test", "cannot be read"),
        ("all[:10%]", "cannot be sliced"),
    ],
)
def test_a_wrong_expression_is_one_clear_error(expression, shown):
    with pytest.raises(errors.UserError) as error:
        splits.resolve(expression, KNOWN, "cifar10")
    assert shown in str(error.value)
    assert "\n" not in str(error.value)


def test_count_is_the_sum_of_the_ranges():
    assert splits.count("train[:98%]+test", KNOWN, "x") == round(0.98 * 1037) + 211
