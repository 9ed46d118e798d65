import pytest

from vit_jax import errors
from vit_jax.data import splits

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


@pytest.mark.parametrize(
    "expression, shown",
    [
        ("val", "known splits: train (1037 examples), test (211 examples)"),
        ("trian", 'Did you mean "train"?'),
        ("train[:2000]", "1037 examples"),
        ("train[:101%]", "101%"),
        ("train[10:10]", "selects no example"),
        ("train[20:10]", "selects no example"),
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
