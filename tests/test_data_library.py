"""TFDS features that our own reader refuses are read by TFDS's, and it is said."""

import io
import logging

import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds

from vit_jax import errors
from vit_jax.data import catalog, decode, walking


class TinyFrames(tfds.core.GeneratorBasedBuilder):
    """Frames of films, and what is seen in them."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        names = tfds.features.ClassLabel(names=["ant", "bee", "cat"])
        image = tfds.features.Image(shape=(8, 8, 3), encoding_format="jpeg")
        features = {
            "frames": tfds.features.Sequence(image),
            "objects": tfds.features.Sequence({"label": names}),
            "scene": {"kind": tfds.features.ClassLabel(names=["in", "out"])},
        }
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, downloads):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for index in range(4):
            shades = [np.full((8, 8, 3), 60 * index + k, np.uint8) for k in range(3)]
            frames = [io.BytesIO(simplejpeg.encode_jpeg(one)) for one in shades]
            seen = [{"label": index % 3}, {"label": 1}]
            scene = {"kind": index // 2}
            yield index, {"frames": frames, "objects": seen, "scene": scene}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    builder = tfds.builder("tiny_frames", data_dir=folder)
    builder.download_and_prepare(file_format="array_record")
    return folder


def test_nested_features_and_frames_are_named_by_paths(data_dir, caplog):
    walking.tell_once.cache_clear()
    name = "tiny_frames#image=frames/2,label=objects/label"
    with caplog.at_level(logging.WARNING):
        source = catalog.open_source(name, "train", data_dir=data_dir)
    assert "read through tensorflow_datasets" in caplog.text
    info = catalog.describe(name, data_dir=data_dir)
    assert info.multi_label and info.label_names == ("ant", "bee", "cat")
    for index in range(4):
        example = source[index]
        pixels = decode.whole(decode.open_image(example["image"]))
        scene = round((pixels.mean() - 2) / 60)
        wanted = np.zeros(3)
        wanted[[scene % 3, 1]] = 1
        np.testing.assert_array_equal(example["label"], wanted)
    name = "tiny_frames#image=frames/0,label=scene/kind"
    labels = catalog.open_source(name, "train", data_dir=data_dir)
    assert sorted(int(labels[k]["label"]) for k in range(4)) == [0, 0, 1, 1]
    assert labels.num_classes == 2


@pytest.mark.parametrize(
    "columns, shown",
    [
        ("", "wanted one image and one label"),
        ("#image=frames/0", "say both"),
        ("#image=frames/0,label=scene/kinds", 'Did you mean "kind"'),
        ("#image=film/0,label=scene/kind", "no feature 'film/0'"),
    ],
)
def test_features_that_are_not_there_are_one_error(columns, shown, data_dir):
    with pytest.raises(errors.UserError, match=shown):
        catalog.describe(f"tiny_frames{columns}", data_dir=data_dir)
