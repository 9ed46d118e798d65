"""Runs of no steps: a checkpoint is evaluated as it is, once."""

import json
import logging
import math

import jax
import numpy as np
import pytest
import small
from flax import nnx

from configs import base, fewshot
from vit_jax import errors, evaluate, main, models, train, tree
from vit_jax.checkpoints import checkpoint
from vit_jax.parallel import mesh
from vit_jax.runs import measuring
from vit_jax.weights import files
from vit_jax.weights.source import Tensors


@pytest.fixture(scope="module")
def device_mesh():
    return mesh.make_mesh()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of Google's dialect: features of random weights, 16 px, a head of 10."""
    small = dict(width=32, depth=1, mlp_width=64, heads=2, image_size=16)
    architecture = models.architecture("Ti/8", num_classes=10, **small)
    architecture = architecture.replace(pre_logits=False)
    _, params = models.split(models.create(architecture, rngs=nnx.Rngs(0)))
    leaves = dict(tree.named_leaves(jax.tree.map(np.asarray, params)))
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    tensors = Tensors(shapes, leaves.__getitem__, label="made here")
    path = tmp_path_factory.mktemp("weights") / "small.npz"
    files.write(files.Weights(architecture, tensors, None, "google", None), path)
    return str(path)


def recipe(weights, datasets="digits", **changes):
    config = fewshot.get_config(f"{weights},{datasets}")
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config


def lines(workdir):
    return [json.loads(line) for line in open(workdir / "metrics.jsonl")]


def test_its_figures_are_those_of_evaluate_and_it_runs_once(
    weights, device_mesh, tmp_path, caplog
):
    config = recipe(weights, **{"evals.digits.shots": (5,), "evals.digits.seeds": 2})
    figures = train.run(config, tmp_path, device_mesh)
    options = dict(fewshot=True, shots=(5,), seeds=2)
    theirs = evaluate.run(weights, "digits", **options)
    for name, value in figures.items():
        other = name.split("/")[1]
        key = other if other == "examples" else f"fewshot_{other}"
        assert value == pytest.approx(theirs[key], abs=1.01 / 359), name
    assert 0.15 < figures["digits/5shot"] <= 1
    (line,) = lines(tmp_path)
    assert line == {"step": 0} | figures
    before = (tmp_path / "metrics.jsonl").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        assert train.run(config, tmp_path, device_mesh) == figures
    assert "has all evaluations already" in caplog.text
    assert (tmp_path / "metrics.jsonl").stat().st_mtime_ns == before

    # Another evaluation of the name is another figure, an added one leaves it alone.
    with config.unlocked():
        config.evals.digits.seeds = 1
        config.evals.top1 = base.classify()
    changed = train.run(config, tmp_path, device_mesh)
    assert "digits/5shot_seed1" not in changed and "top1/top1" in changed
    assert changed["digits/5shot"] == figures["digits/5shot_seed0"]
    assert [line["step"] for line in lines(tmp_path)] == [0, 0]


def test_an_evaluation_that_is_there_already_is_not_made_again(
    weights, device_mesh, tmp_path, monkeypatch
):
    config = recipe(weights, **{"evals.digits.shots": (1,), "evals.digits.seeds": 1})
    stored = measuring.run(config, tmp_path, device_mesh)
    made = []
    make = measuring.evaluators.make

    def counted(options, context):
        made.append(options["type"])
        return make(options, context)

    monkeypatch.setattr(measuring.evaluators, "make", counted)
    with config.unlocked():
        config.evals.top1 = base.classify("test[:50]")
    both = measuring.run(config, tmp_path, device_mesh)
    assert made == ["classify"]
    assert {name: both[name] for name in stored} == stored
    assert both["top1/examples"] == 50
    assert sorted(len(line) for line in lines(tmp_path)) == sorted(
        [len(stored) + 1, len(both) - len(stored) + 1]
    )


def test_another_image_size_is_another_run(weights, device_mesh, tmp_path):
    quick = {"evals.digits.shots": (1,), "evals.digits.seeds": 1}
    measuring.run(recipe(weights, **quick), tmp_path, device_mesh)
    other = recipe(weights, **quick, **{"model.image_size": (24, 24)})
    with pytest.raises(errors.UserError, match="model.image_size.*there"):
        measuring.run(other, tmp_path, device_mesh)


def test_an_evaluation_sees_images_of_its_own_size_as_a_run_of_it(
    weights, device_mesh, tmp_path
):
    config = recipe(weights, **{"batch_size": 64})
    few = dict(shots=(1,), seeds=1, filter="bilinear", transform="resize_crop")
    own = base.prepared(config.evals.digits, image_size=(24, 32), **few)
    base.set_evals(config, own=own, run=base.prepared(config.evals.digits, **few))
    both = measuring.run(config, tmp_path / "both", device_mesh)
    with config.unlocked():
        config.model.image_size = (24, 32)
    alone = measuring.run(config, tmp_path / "alone", device_mesh)
    assert both["own/1shot"] == alone["run/1shot"] == alone["own/1shot"]
    assert both["own/1shot"] != both["run/1shot"]


def test_one_penalty_is_chosen_for_several_datasets(weights, device_mesh, tmp_path):
    """Its figures are those at that penalty, of each and their mean."""
    small.photographs(tmp_path / "shades", "abcd", 8)
    chosen = base.prepared(
        base.fewshot_on("digits"),
        dataset=f"digits + folder:{tmp_path}/shades/",
        train_split="train + train[:50%]",
        split="test + train[50%:]",
        **{"shots": (2,), "seeds": 2, "l2_rule": "mean_rank"},
    )
    config = recipe(weights)
    base.set_evals(config, few=chosen)
    figures = measuring.run(config, tmp_path / "chosen", device_mesh)
    l2 = figures["few/2shot_l2"]
    assert math.log2(l2) in range(-10, 20)
    base.set_evals(config, few=base.prepared(chosen, l2=l2, l2_rule="constant"))
    constant = measuring.run(config, tmp_path / "constant", device_mesh)
    assert constant == pytest.approx(figures, abs=1.01 / 359)
    both = [figures[f"few/{name}_2shot"] for name in ("digits", "shades")]
    assert figures["few/2shot"] == pytest.approx(np.mean(both))
    assert figures["few/examples"] == 359 + 16


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"evals.digits.l2_rule": "mean_rank"}, "of one it would be chosen on its"),
        ({"evals.digits.l2_rule": "rank"}, 'Did you mean "mean_rank"'),
        ({"evals.digits.choice": "last"}, "known: first, random"),
        ({"evals.digits.image_size": (20, 20)}, "patch"),
        ({"evals.digits.transform": "resize_crops"}, 'mean "resize_crop"'),
        ({"optimizer.lr": 0.5}, "optimizer.lr=0.5"),
        ({"model.pool": "mean"}, "model.pool='mean'"),
        ({"data.mean": (0.0, 0.0, 0.0)}, "data.mean"),
        ({"init_from": ""}, "want --config.init_from=PATH"),
        ({"evals": {}}, "--config.evals.NAME=TYPE"),
        ({"batch_size": 100}, "batch_size=100 cannot be split over 8 devices"),
        ({"evals.digits.split": "tset"}, "'tset' is not a split of digits"),
        ({"evals.digits.shots": (0,)}, "want shots >= 1"),
        ({"evals.digits.dataset": "jft"}, "wants one label an image"),
        ({"evals.digits.dataset": "digitss"}, "'digitss' is not prepared"),
        ({"model.image_size": (0,)}, "model.image_size"),
    ],
)
def test_mistakes_are_one_error_and_write_nothing(
    weights, device_mesh, tmp_path, changes, words
):
    config = recipe(weights)
    with config.unlocked():
        if "evals" in changes:
            config.evals = type(config)(changes["evals"])
        else:
            config.update_from_flattened_dict(changes)
    with pytest.raises(errors.UserError) as caught:
        train.run(config, tmp_path / "run", device_mesh)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 10
    assert not (tmp_path / "run").exists()


def test_optional_data_is_left_out_and_a_misspelt_one_is_an_error(
    weights, device_mesh, tmp_path, caplog
):
    quick = {"evals.digits.shots": (1,), "evals.digits.seeds": 1}
    config = recipe(weights, **quick, **{"data.data_dir": str(tmp_path / "none")})
    base.add_evals(config, **base.fewshot_suite(every=""))
    with caplog.at_level(logging.INFO):
        figures = train.run(config, tmp_path / "run", device_mesh)
    assert {name.split("/")[0] for name in figures} == {"digits"}
    said = [r.message for r in caplog.records if "left out" in r.message]
    assert len(said) == 1 and "fewshot_pets (oxford_iiit_pet)" in said[0]
    assert all(row.dataset in said[0] for row in map(base.FEWSHOT.get, base.SUITE))
    command = said[0].split("to prepare it: ")[1]
    assert command.startswith("vit_jax prepare caltech_birds2011 caltech101 cars196 ")
    assert command.endswith(f"uc_merced --data_dir={tmp_path / 'none'}")
    alone = recipe(weights, **{"data.data_dir": str(tmp_path / "none")})
    base.set_evals(alone, pets=base.fewshot_on("pets", optional=True))
    with pytest.raises(errors.UserError, match="none of pets has its data"):
        train.run(alone, tmp_path / "alone", device_mesh)
    with config.unlocked():
        config.evals.fewshot_pets.dataset = "oxford_iit_pet"
    with pytest.raises(errors.UserError, match='Did you mean "oxford_iiit_pet"'):
        train.run(config, tmp_path / "run", device_mesh)


def test_a_workdir_with_a_newer_checkpoint_is_another_configuration(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoint, "problem", lambda folder: "")  # what is in them
    for step in (3, 12):
        folder = tmp_path / "checkpoints" / str(step) / "description"
        folder.mkdir(parents=True)
        (folder / "metadata").write_text("{}")
    assert measuring._newest(str(tmp_path)).endswith("checkpoints/12")
    for text in ("hf://a/b", "facebook/dinov2-base", "n" * 5000):
        assert measuring._newest(text) == text


@pytest.mark.parametrize(
    "argument, names, datasets",
    [
        ("a.npz,pets,digits", ["pets", "digits"], ["oxford_iiit_pet", "digits"]),
        ("hf://g/vit,sun397/tfds", ["tfds"], ["sun397/tfds"]),
        ("a/b,folder:/x/y z/", ["y_z"], ["folder:/x/y z/"]),
    ],
)
def test_the_recipe_names_its_evaluations(argument, names, datasets):
    config = fewshot.get_config(argument)
    assert config.init_from == argument.split(",")[0]
    assert sorted(config.evals) == sorted(names)
    assert [config.evals[name].dataset for name in names] == datasets


@pytest.mark.parametrize("argument", [None, "a.npz", "a.npz,", ",pets", "a,pets,pets"])
def test_an_incomplete_recipe_says_what_it_wants(argument):
    with pytest.raises(ValueError, match="fewshot.py:CHECKPOINT,DATASET|there twice"):
        fewshot.get_config(argument)


def test_addresses_with_commas_go_into_init_from():
    config = fewshot.get_config("checkpoint,pets")
    assert config.init_from == "" and config.model.name == "checkpoint"
    assert fewshot.get_config("augreg:B/16,pets").init_from == "augreg:B/16"
    for address in ("augreg:B/16,imagenet2012,384", "augreg:B/16,ds=i1k"):
        with pytest.raises(ValueError, match="configs/fewshot.py:checkpoint,DATASET"):
            fewshot.get_config(f"{address},pets")


def test_a_default_workdir_is_a_name_that_file_systems_take():
    deep = "configs/fewshot.py:" + "/deep" * 100
    names = [main.default_workdir(deep + end).name for end in (",pets", ",digits")]
    assert len(set(names)) == 2 and all(len(name) < 255 for name in names)
    usual = main.default_workdir("configs/vit_b16.py:i21k")
    assert usual.name == "vit_b16-i21k"
