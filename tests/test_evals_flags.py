"""Evaluations by flags: what a command line makes of a recipe's."""

import sys

import pytest
from absl import flags
from ml_collections import config_flags

from configs import base
from vit_jax import cli, errors, evaluators
from vit_jax.settings import evals_flags

FEW = base.fewshot("train", "test", dataset="oxford_iiit_pet").to_dict()
VAL = base.classify("validation").to_dict()


def evals(*words, config=None):
    config = base.get_config() if config is None else config
    others, given = evals_flags.split(["main", *words])
    assert others == ["main"]
    evals_flags.apply(config, given)
    assert config.is_locked and config.evals.is_locked
    return config.evals.to_dict()


ADDED = {
    ("few=fewshot:pets",): FEW,
    ("few=fewshot:oxford_iiit_pet",): FEW,
    ("few.type=fewshot", "few.dataset=pets"): FEW,
    ("few=fewshot:pets", "few.shots=1,5"): FEW | {"shots": (1, 5)},
    ("few=fewshot:pets", "few.shots=(5,)"): FEW | {"shots": (5,)},
    ("few.shots=(10,)", "few=fewshot:pets"): FEW | {"shots": (10,)},
    ("few=fewshot:pets", "few.seeds=1", "few.l2=32", "few.every=5%"): FEW
    | {"seeds": 1, "l2": 32.0, "every": "5%"},
    ("few=fewshot:pets", "few.optional=true"): FEW | {"optional": True},
    ("few=fewshot:uc_merced",): FEW
    | {"dataset": "uc_merced", "train_split": "train[:1000]", "split": "train[1000:]"},
    ("few=fewshot:cars196:2.1.0",): FEW | {"dataset": "cars196:2.1.0"},
    ("few=fewshot:pets,uc_merced", "few.l2_rule=mean_rank", "few.l2_powers=-4,8"): FEW
    | {
        "dataset": "oxford_iiit_pet + uc_merced",
        "train_split": "train + train[:1000]",
        "split": "test + train[1000:]",
        "l2_rule": "mean_rank",
        "l2_powers": (-4, 8),
    },
    ("few=fewshot:folder:/a,b",): FEW | {"dataset": "folder:/a,b", "split": ""},
    ("few=fewshot:folder:/a/b",): FEW | {"dataset": "folder:/a/b", "split": ""},
    # Of the run's own dataset: its splits, and it follows the run.
    ("few=fewshot",): FEW
    | {"dataset": "", "train_split": "train[:65000]", "split": "validation"},
    ("few=classify:pets",): VAL | {"dataset": "oxford_iiit_pet", "split": ""},
    ("few=masked",): base.masked().to_dict(),
    (
        "few=classify",
        "few.image_size=384",
        "few.transform=resize_crop",
    ): base.classify().to_dict() | {"image_size": (384,), "transform": "resize_crop"},
    ("few=fewshot:pets", "few.image_size=32x48", "few.filter=area", "few.resize=60"): (
        FEW | {"image_size": (32, 48), "filter": "area", "resize": 60}
    ),
}


@pytest.mark.parametrize("words", ADDED)
def test_an_evaluation_is_added(words):
    got = evals(*(f"--config.evals.{word}" for word in words))
    assert got == {"val": VAL, "few": ADDED[words]}
    apart = [part for w in words for part in f"--config.evals.{w}".split("=", 1)]
    assert evals(*apart) == got


def test_an_evaluation_is_changed():
    assert evals("--config.evals.val.split=test") == {"val": VAL | {"split": "test"}}
    assert evals("-config.evals.val.every=") == {"val": VAL}
    new = evals("--config.evals.val.type=fewshot", "--config.evals.val.shots=5")["val"]
    assert new == FEW | {
        **{"dataset": "", "train_split": "train[:65000]", "split": "validation"},
        "shots": (5,),
    }
    replaced = evals("--config.evals.val=fewshot:pets")
    assert replaced == {"val": FEW}


def test_other_data_means_other_splits_and_the_rest_stays():
    config = base.get_config()
    base.set_evals(config, few=base.fewshot_on("uc_merced", every="7", optional=True))
    got = evals("--config.evals.few.dataset=pets", config=config)["few"]
    assert got == FEW | {"every": "7"}  # asked for by name: optional no more


def test_penalties_are_fractions():
    words = ("lin=probe:pets", "lin.l2=1e-4,1")
    assert evals(*(f"--config.evals.{w}" for w in words))["lin"]["l2"] == (1e-4, 1.0)


def test_evaluations_are_removed():
    assert evals("--config.evals.val=none") == {}
    assert evals("--config.evals=none") == {}
    assert evals("--config.evals=none", "--config.evals.few=fewshot:pets") == {
        "few": FEW
    }


WRONG = {
    ("few.shots=1,5",): ("no evaluation 'few'", "--config.evals.few=TYPE"),
    ("vall.split=test",): ("no evaluation 'vall'", 'Did you mean "val"'),
    ("vall=none",): ("no evaluation 'vall'", "the recipe has: val"),
    ("few=fewshots:pets",): ("'fewshots' is unknown", 'Did you mean "fewshot"'),
    ("few.type=few",): ("type 'few' is unknown", "classify, fewshot, masked"),
    ("few=fewshot:pets", "few.shot=1"): ("evals.few.shot", 'Did you mean "shots"'),
    ("val.shots=1",): ("unknown key evals.val.shots", "classify has dataset, every"),
    ("few=fewshot:pets", "few.shots=one"): ("shots=one: want whole numbers",),
    ("few=fewshot:pets", "few.shots=1,,5"): ("shots=1,,5: want whole numbers",),
    ("few=fewshot:pets", "few.image_size=224x"): ("want whole numbers",),
    ("few=fewshot:pets", "few.seeds=1.5"): ("seeds=1.5: want a whole number",),
    ("few=fewshot:pets", "few.l2=big"): ("l2=big: want a number",),
    ("lin=probe:pets", "lin.l2=big"): ("l2=big: want numbers, as in 1e-4,0.1",),
    ("few=fewshot:pets", "few.optional=maybe"): ("want true or false",),
    ("val=",): ("has no value",),
    ("val=none", "val.split=test"): ("which is it?",),
    ("a b=fewshot",): ("which evaluation?",),
}


@pytest.mark.parametrize("words", WRONG)
def test_mistakes_are_one_clear_error(words):
    with pytest.raises(errors.UserError) as caught:
        evals(*(f"--config.evals.{word}" for word in words))
    for part in WRONG[words]:
        assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 10


@pytest.mark.parametrize(
    "words",
    [
        ["--config.evals={'a': 1}"],
        ["--config.evals=fewshot:pets"],
        ["--noconfig.evals.val"],
        ["--config.evals.val"],
        ["--config.evals.val", "--config.seed=1"],
    ],
)
def test_a_flag_that_names_nothing_is_one_clear_error(words):
    with pytest.raises(errors.UserError, match=r"--config.evals.NAME=TYPE\[:DATASET\]"):
        evals_flags.split(words)


def test_every_type_of_evaluation_can_be_added():
    assert base.EVALUATIONS.keys() == evaluators.EVALUATORS.keys()
    for kind in base.EVALUATIONS:
        assert evals(f"--config.evals.x={kind}")["x"]["type"] == kind


@pytest.fixture
def own_flags(monkeypatch):
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
    monkeypatch.setattr(flags, "FLAGS", values)
    return values


def test_flags_of_every_kind_on_one_command_line(own_flags, monkeypatch, tmp_path):
    """Whatever their order, from a flag file too; sys.argv stays as it was."""
    file = tmp_path / "more.txt"
    file.write_text("--config.evals.few.seeds=2\n--config.optimizer.lr=0.5\n")
    argv = ["main", "--config.evals.few=fewshot:pets", "--config=configs/quickstart.py"]
    argv += ["--config.seed=3", f"--flagfile={file}", "--config.evals.test=none"]
    monkeypatch.setattr(sys, "argv", argv)
    cli.parse_recipe(argv)
    config = own_flags.config
    assert config.evals.to_dict() == {"few": FEW | {"seeds": 2}}
    assert (config.seed, config.optimizer.lr) == (3, 0.5)
    assert sys.argv is argv and len(argv) == 6


def test_a_value_may_be_a_word_of_its_own(own_flags, monkeypatch):
    argv = ["main", "--config=configs/quickstart.py", "--config.model.image_size"]
    argv += ["32x48", "--config.data.mean", "", "--config.data.flip", "--config.seed"]
    argv += ["3", "--config.optimizer.lr", "1e-2"]
    monkeypatch.setattr(sys, "argv", argv)
    cli.parse_recipe(argv)
    config = own_flags.config
    assert config.model.image_size == (32, 48) and config.data.mean == ()
    assert config.data.flip and (config.seed, config.optimizer.lr) == (3, 0.01)


def test_wrong_keys_beside_evaluations_are_still_named(own_flags, monkeypatch):
    argv = ["main", "--config=configs/quickstart.py", "--config.evals.few=fewshot:pets"]
    argv += ["--config.optimizer.lrr=1"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(errors.UserError, match='Did you mean "optimizer.lr"'):
        cli.parse_recipe(argv)
