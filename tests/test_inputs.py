"""A run prepares images as its checkpoint wants, unless its recipe says otherwise."""

import dataclasses
import logging

import numpy as np
import pytest
from cases import CASES, expected

from configs import base, finetune
from vit_jax import errors, experiment
from vit_jax.data import augment, catalog, inputs
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.parallel import mesh
from vit_jax.weights import pretrained

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
WANTED = Preprocessing((64, 64), "resize_small_crop", 73, "bicubic", mean=MEAN, std=STD)
CASE = CASES / "init_from_normalization"


def resolve(**options):
    return inputs.resolve((64, 64), wanted=WANTED, source="CHECKPOINT", **options)


def test_what_is_not_said_is_the_checkpoints(caplog):
    caplog.set_level(logging.INFO)
    assert resolve() == WANTED
    assert "as CHECKPOINT wants them" in caplog.text and "bicubic" in caplog.text


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ({"mean": (1.0, 2.0, 3.0)}, {"mean": (1.0, 2.0, 3.0)}),
        ({"std": (9.0, 9.0, 9.0)}, {"std": (9.0, 9.0, 9.0)}),
        ({"resize": 80}, {"resize": 80}),
        ({"filter": "bilinear"}, {"filter": "bilinear"}),
        ({"filter": inputs.OURS}, {"filter": ""}),
        ({"transform": "resize"}, {"transform": "resize", "resize": 0}),
        (
            {"transform": "none"},
            {"transform": "none", "resize": 0, "filter": ""},
        ),
        (
            {"transform": "resize_small_crop", "resize": 64},
            {"transform": "resize_small_crop", "resize": 64},
        ),
    ],
)
def test_what_is_said_wins_and_the_log_names_both(said, changes, caplog):
    found = resolve(**said)
    assert found == Preprocessing.from_dict(WANTED.to_dict() | changes)
    assert "not prepared as CHECKPOINT wants" in caplog.text
    changed = [key for key in said if getattr(WANTED, key) != getattr(found, key)]
    for key in changed:
        assert repr(getattr(WANTED, key)) in caplog.text


def test_what_is_said_as_the_checkpoint_wants_it_is_no_difference(caplog):
    assert resolve(mean=MEAN, transform="resize_small_crop", resize=73) == WANTED
    assert not caplog.text  # of warnings


def test_without_a_checkpoint_nothing_changes():
    assert inputs.resolve((8, 8)) == Preprocessing((8, 8))
    half = (127.5,) * 3
    assert inputs.resolve((8, 8), mean=half, std=half) == Preprocessing((8, 8))


@pytest.mark.parametrize(
    ("size", "resize"), [((64, 64), 73), ((32, 32), 36), ((32, 96), 96), ((96, 32), 96)]
)
def test_a_crop_keeps_its_share_at_another_size_as_far_as_it_fits(size, resize):
    found = WANTED.at(size)
    changes = {"image_size": size, "resize": resize}
    assert found == Preprocessing.from_dict(WANTED.to_dict() | changes)
    whole = Preprocessing((64, 64))
    assert whole.at(size) == Preprocessing(size)


def test_a_value_without_a_meaning_is_an_error():
    with pytest.raises(errors.UserError, match="resize=9 has no meaning"):
        inputs.resolve((8, 8), wanted=Preprocessing((8, 8)), source="C", resize=9)


def config_of(recipe, **changes):
    recipe.update_from_flattened_dict(
        {
            "total": "1 steps",
            "batch_size": 8,
            "init_from": str(CASE / "hf"),
            "keep_head": True,
            "model.name": "checkpoint",
            "model.image_size": (32, 32),
            "model.pre_logits": False,
            "model.compute_dtype": "float32",
            "data.dataset": f"folder:{CASE / 'data'}",
            "data.train_split": "train",
            "optimizer.warmup": "",
        }
        | changes
    )
    base.set_evals(recipe, t=base.classify("train"))
    return recipe


@pytest.mark.parametrize("recipe", [base, finetune])
def test_a_run_sees_the_pixels_that_its_checkpoint_was_trained_on(recipe):
    config = config_of(recipe.get_config())
    exp = experiment.assemble(config, mesh.make_mesh())
    wanted = pretrained.load(CASE / "hf").preprocessing
    assert exp.preprocessing == dataclasses.replace(wanted, exif=config.data.exif)
    right = expected("init_from_normalization")
    np.testing.assert_allclose(exp.preprocessing.mean, right["mean"], atol=1e-3)
    np.testing.assert_allclose(exp.preprocessing.std, right["std"], atol=1e-3)
    source = catalog.open_source(exp.data.dataset, "train")
    names = [source.name(i) for i in range(len(source))]
    (first,) = [i for i, name in enumerate(names) if name.endswith("c0/0.png")]
    image = exp.preprocessing.eval_transform()(source[first]["image"])
    pixels = np.asarray(
        augment.normalize(
            image[None],
            mean=exp.preprocessing.mean,
            std=exp.preprocessing.std,
            dtype="float32",
        )
    )[0]
    wanted = right["pixels_of_c0_0"]
    np.testing.assert_allclose(pixels.mean((0, 1)), wanted["mean"], atol=1e-3)
    np.testing.assert_allclose(pixels.std((0, 1)), wanted["std"], atol=1e-3)


def test_an_explicit_recipe_wins_and_its_configuration_says_so(caplog):
    half = (127.5,) * 3
    config = config_of(base.get_config(), **{"data.mean": half, "data.std": half})
    exp = experiment.assemble(config, mesh.make_mesh())
    assert exp.preprocessing.mean == exp.preprocessing.std == half
    assert "data.mean=(127.5, 127.5, 127.5) where it has (123.675" in caplog.text


def test_a_run_from_scratch_stores_what_it_did():
    config = config_of(
        base.get_config(), init_from="", keep_head=False, **{"model.name": "mu/16"}
    )
    exp = experiment.assemble(config, mesh.make_mesh())
    data = exp.config["data"]
    assert data["mean"] == data["std"] == (127.5,) * 3
    assert data["eval"]["transform"] == "resize"
    assert exp.preprocessing == Preprocessing((32, 32))
