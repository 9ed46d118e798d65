import json
import math

import numpy as np
import pytest

from vit_jax import errors
from vit_jax.data import preprocessing, transforms

Preprocessing = preprocessing.Preprocessing
GOOD = [
    Preprocessing((224, 224)),
    Preprocessing((160, 240), "resize_small_crop", 256),
    Preprocessing((8, 8), "none", mean=(1, 2, 3), std=(0.5, 1, 2)),
]


@pytest.mark.parametrize("good", GOOD)
def test_survives_json(good):
    again = Preprocessing.from_dict(json.loads(json.dumps(good.to_dict())))
    assert again == good
    assert again.eval_transform().image_size == good.image_size


def test_a_single_side_means_a_square():
    assert Preprocessing(384).image_size == (384, 384)


def test_transform_is_that_of_the_table():
    image = np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3)
    wanted = transforms.make("eval", "resize_small_crop", image_size=(9, 7), resize=12)
    got = Preprocessing((9, 7), "resize_small_crop", 12).eval_transform()
    np.testing.assert_array_equal(got(image), wanted(image))


@pytest.mark.parametrize(
    "change, shown",
    [
        ({"colour": 1}, "unknown keys ['colour']"),
        ({"image_size": None}, "image_size=None"),
        ({"image_size": [224]}, "image_size=[224]"),
        ({"image_size": [224, -1]}, "image_size"),
        ({"image_size": [10**9, 10**9]}, "image_size"),
        ({"image_size": [224.0, 224]}, "image_size"),
        ({"transform": "inception_crop"}, "eval transform='inception_crop'"),
        ({"transform": ["resize"]}, "wanted a name"),
        ({"transform": "resize_small_crop"}, "resize=0"),
        ({"transform": "resize_small_crop", "resize": 100}, "resize=100"),
        ({"transform": "resize_small_crop", "resize": "256"}, "resize='256'"),
        ({"resize": 256}, "no meaning"),
        ({"resize": False}, "no meaning"),
        ({"mean": [1, 2]}, "mean=[1, 2]"),
        ({"mean": "abc"}, "mean='abc'"),
        ({"mean": [1, 2, math.nan]}, "finite"),
        ({"std": [1, 0, 1]}, "above 0"),
        ({"std": [1, math.inf, 1]}, "finite"),
        ({"std": [True, 1, 1]}, "std"),
    ],
)
def test_hostile_values_are_clear_errors(change, shown):
    values = Preprocessing((224, 224)).to_dict() | change
    with pytest.raises(errors.UserError) as error:
        Preprocessing.from_dict(values)
    assert shown in str(error.value)


def test_not_a_mapping_or_empty_is_an_error():
    for values in (None, [], "resize", {}):
        with pytest.raises(errors.UserError, match="preprocessing"):
            Preprocessing.from_dict(values)


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
def test_pillow_filters_are_pillows(filter):
    from PIL import Image

    image = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    resample = Image.Resampling[filter.upper()]
    resized = np.asarray(Image.fromarray(image).resize((28, 20), resample))
    crop = Preprocessing((16, 12), "resize_small_crop", 20, filter)
    np.testing.assert_array_equal(crop.eval_transform()(image), resized[2:18, 8:20])
    whole = Preprocessing((20, 28), filter=filter)
    np.testing.assert_array_equal(whole.eval_transform()(image), resized)
    assert Preprocessing.from_dict(whole.to_dict()) == whole


def test_unknown_filters_are_errors():
    with pytest.raises(errors.UserError, match="filter='sinc' is unknown"):
        Preprocessing((16, 12), filter="sinc")
