"""Evaluations with images of their own: transform, filter and size."""

import jax
import numpy as np
import pytest

from configs import quickstart
from vit_jax import errors, experiment
from vit_jax.data import preprocessing
from vit_jax.evaluators import images
from vit_jax.parallel import mesh
from vit_jax.runs import evaluations
from vit_jax.weights import files, pretrained

RUN = preprocessing.Preprocessing(
    (224, 224), "resize_small_crop", 248, "bicubic", (1.0, 2.0, 3.0), exif="stored"
)
KEPT = {"mean": RUN.mean, "std": RUN.std, "exif": "stored"}


def wanted(size, transform, resize, filter):
    return preprocessing.Preprocessing(size, transform, resize, filter, **KEPT)


@pytest.mark.parametrize(
    "said, expected",
    [
        ({}, RUN),
        # big_vision's few-shot evaluation: resize(256)|central_crop(224).
        (
            {"transform": "resize_crop", "filter": "default"},
            wanted((224, 224), "resize_crop", (256, 256), ""),
        ),
        (
            {"transform": "resize_crop", "image_size": (384,)},
            wanted((384, 384), "resize_crop", (439, 439), "bicubic"),
        ),
        (
            {"transform": "resize_small_crop", "filter": "area"},
            wanted((224, 224), "resize_small_crop", 256, "area"),
        ),
        (
            {"transform": "resize_crop", "resize": 300, "filter": "bilinear"},
            wanted((224, 224), "resize_crop", 300, "bilinear"),
        ),
        ({"image_size": (448, 448)}, wanted((448, 448), RUN.transform, 496, "bicubic")),
        ({"resize": 256}, wanted((224, 224), RUN.transform, 256, "bicubic")),
        ({"transform": "resize"}, wanted((224, 224), "resize", 0, "bicubic")),
        ({"transform": "none"}, wanted((224, 224), "none", 0, "")),
    ],
)
def test_what_an_evaluation_says_of_its_images(said, expected):
    assert images.prepared(RUN, **said) == expected


@pytest.mark.parametrize(
    "said, words",
    [
        ({"transform": "resized"}, 'Did you mean "resize"'),
        ({"transform": "resize_crop", "filter": "linear"}, "filter"),
        ({"resize": 100}, "wanted a whole number of pixels in 224"),
        ({"transform": "none", "resize": 256}, "has no meaning for transform 'none'"),
        ({"image_size": (0, 5)}, "wanted .height, width."),
    ],
)
def test_what_cannot_be_is_one_error(said, words):
    with pytest.raises(errors.UserError, match=words):
        images.prepared(RUN, **said)


def assembled(layout, **changes):
    config = quickstart.get_config()
    config.update_from_flattened_dict(
        {
            "model.depth": 2,
            "model.width": 32,
            "model.mlp_width": 64,
            "model.unroll": 1,
            "mesh.layout": layout,
            "mesh.fsdp": 1 if layout == "dp" else 4,
        }
        | changes
    )
    return experiment.assemble(config, experiment.make_mesh(config))


@pytest.mark.parametrize("layout", ["dp", "fsdp"])
def test_a_run_sees_other_sizes_as_its_checkpoint_would(layout):
    """Whatever its layout, with positions at the stem or in every block."""
    exp = assembled(layout, **{"model.posemb_at": "every"})
    size = (24, 32)
    params = jax.tree.map(
        lambda leaf: mesh.place(
            np.random.default_rng(leaf.size).normal(0, 0.3, leaf.shape), leaf.sharding
        ),
        exp.state.params,
    )
    resized = evaluations.resized(exp, size)
    pixels = np.random.default_rng(0).integers(0, 256, (8, *size, 3), np.uint8)
    found = resized.forward(resized.fit(params), pixels)

    weights = files.Weights(
        exp.architecture, jax.tree.map(mesh.to_host, params), exp.preprocessing, "ours"
    )
    loaded = pretrained.from_weights(weights, source="the run", image_size=size)
    floats = (pixels.astype(np.float32) - 127.5) / 127.5
    expected = loaded.model(floats)
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-4, atol=1e-4)


def test_a_model_of_one_size_says_so():
    mixer = {"model.name": "Mixer-S/4", "model.heads": 0, "model.mlp_width": 0}
    with pytest.raises(errors.UserError, match="do not fit"):
        evaluations.resized(assembled("dp", **mixer), (24, 24))
    relative = assembled("dp", **{"model.posemb": "relative"})
    with pytest.raises(errors.UserError, match="relative positions are learned for"):
        evaluations.resized(relative, (24, 24))
    with pytest.raises(errors.UserError, match="patch"):
        evaluations.resized(assembled("dp"), (23, 24))
