"""`vit_jax prepare`: TFDS's builders write what training reads; errors are one each."""

import io
import json

import commands
import numpy as np
import pytest
import requests
import simplejpeg
import tensorflow_datasets as tfds

from vit_jax import errors
from vit_jax.data import catalog, preparing


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    """Pictures that nothing has to be downloaded for."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image = tfds.features.Image(shape=(8, 8, 3), encoding_format="jpeg")
        label = tfds.features.ClassLabel(names=["ant", "bee"])
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, downloads):
        return {"train": self._generate_examples(6), "test": self._generate_examples(2)}

    def _generate_examples(self, count):
        for index in range(count):
            pixels = np.full((8, 8, 3), index, np.uint8)
            file = io.BytesIO(simplejpeg.encode_jpeg(pixels))
            yield index, {"image": file, "label": index % 2}


class OfHands(TinyPictures):
    """Pictures of which some have to be fetched by hand."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put a.zip there."

    def _split_generators(self, downloads):
        raise AssertionError("Manual directory does not exist")


def test_what_is_prepared_is_read_and_left_alone_the_second_time(tmp_path, capsys):
    with commands.own_flags("prepare") as command:
        argv = ["prepare", "tiny_pictures", f"--data_dir={tmp_path}"]
        assert command._main(commands.parse("prepare", argv)) == errors.EXIT_DONE
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["splits"] == {"train": 6, "test": 2} and told["num_classes"] == 2
    source = catalog.open_source("tiny_pictures", "train", data_dir=str(tmp_path))
    assert [source[k]["label"] for k in range(6)].count(1) == 3
    assert source.label_names == ("ant", "bee")
    [shard] = tmp_path.rglob("*train*array_record*")
    before = shard.stat().st_mtime_ns
    preparing.run("tiny_pictures", data_dir=str(tmp_path))
    assert shard.stat().st_mtime_ns == before


def test_of_several_those_that_cannot_be_prepared_are_named(tmp_path, capsys, caplog):
    with commands.own_flags("prepare") as command:
        argv = ["prepare", "of_hands", "tiny_pictures", f"--data_dir={tmp_path}"]
        with pytest.raises(errors.UserError, match="1 of 2 are not prepared: of_hands"):
            command._main(commands.parse("prepare", argv))
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["dataset"] == "tiny_pictures"
    assert "Put a.zip there." in caplog.text


@pytest.mark.parametrize(
    "name, shown",
    [
        ("cifer10", 'Did you mean "cifar10"?'),
        ("jft", "not public"),
        ("imagenet21k", "no TFDS builder that downloads it"),
        ("cifar10/large", "cannot be prepared"),
        ("of_hands", "Put a.zip there."),
    ],
)
def test_what_cannot_be_prepared_says_why(name, shown, tmp_path):
    with pytest.raises(errors.UserError) as caught:
        preparing.run(name, data_dir=str(tmp_path))
    assert shown in str(caught.value)
    assert str(caught.value).count("\n") < 10


@pytest.mark.parametrize(
    "raised, shown",
    [
        (requests.ConnectionError("no route"), "no route. Is there a network?"),
        (tfds.download.DownloadError("503"), "503. Is there a network?"),
        (ModuleNotFoundError("no tensorflow"), r"pip install 'vit_jax\[prepare\]'"),
        (ModuleNotFoundError("none", name="tensorflow.io"), r"'vit_jax\[prepare\]'"),
        (ModuleNotFoundError("none", name="cocoapi"), r"\(none\): pip install cocoapi"),
        (OSError(28, "No space left"), "No space left"),
    ],
)
def test_what_goes_wrong_on_the_way_is_one_error(raised, shown, tmp_path, monkeypatch):
    def fail(self, **options):
        raise raised

    monkeypatch.setattr(TinyPictures, "download_and_prepare", fail)
    with pytest.raises(errors.UserError, match=shown):
        preparing.run("tiny_pictures", data_dir=str(tmp_path))
