"""Files of other codes, and the pixels that those codes make of an image."""

import json
import logging
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import vit_jax
from vit_jax import errors, models, predict
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.weights import files, pretrained
from vit_jax.weights.dialects import processors, timm_data

CASES = Path(__file__).parent / "golden" / "cases"


def loaded(case, folder):
    """The preprocessing of a checkpoint, without a model on the device."""
    weights = files.read(CASES / case / folder)
    return pretrained.Loaded(
        None, weights.architecture, weights.preprocessing, None, "", weights.dialect
    )


@pytest.mark.parametrize(
    ("case", "folder"), [("deit_int_size", "hf"), ("timm_rect_preprocessing", "timm")]
)
def test_pixels_are_those_of_the_code(case, folder):
    got = loaded(case, folder).images([CASES / case / "image.png"])[0]
    wanted = np.load(CASES / case / "expected.npz")["pixels"]
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_a_rescale_factor_of_its_own():
    case = CASES / "hf_rescale_factor"
    wanted = json.loads((case / "expected.json").read_text())["pixels"]
    got = loaded("hf_rescale_factor", "hf").images(case / "image.png")[0]
    np.testing.assert_allclose(got.mean((0, 1)), wanted["mean"], atol=1e-4)
    np.testing.assert_allclose(got.std((0, 1)), wanted["std"], atol=1e-4)
    assert abs(got.min() - wanted["min"]) < 1e-4 > abs(got.max() - wanted["max"])


def test_what_the_patches_leave_over_is_not_seen():
    case = CASES / "timm_patch_remainder"
    wanted = json.loads((case / "expected.json").read_text())
    found = vit_jax.load(case / "timm")
    images = found.images([case / "image.png"])
    assert list(images.shape[1:]) == wanted["input"]
    assert found.architecture.crop == "valid" and found.architecture.grid == (4, 4)
    other = images.copy()
    other[:, 32:], other[:, :, 32:] = 7, 7
    graphdef, params = models.split(found.model)
    forward = jax.jit(lambda params, x: models.merge(graphdef, params)(x))
    logits = np.asarray(forward(params, np.concatenate([images, other])))
    np.testing.assert_allclose(logits[0], wanted["logits"], atol=1e-4)
    np.testing.assert_array_equal(logits[1], logits[0])


def test_a_photograph_on_its_side_is_predicted_as_transformers_does():
    case = CASES / "exif_orientation"
    wanted = json.loads((case / "expected.json").read_text())["pipeline"]
    files = [str(case / "phone.jpg")]
    top = predict.run(str(case / "hf" / "model.safetensors"), files)[0]["top"]
    found = {entry["name"]: entry["probability"] for entry in top}
    assert found == pytest.approx(wanted, abs=2e-5)


def test_a_thin_file_takes_what_its_window_does():
    prepared = Preprocessing(224, "resize_small_crop", 256, "bicubic")
    data = (CASES / "thin_image" / "t8000.png").read_bytes()
    assert prepared.eval_transform()(data).shape == (224, 224, 3)


def test_one_image_is_a_batch_of_one():
    path = CASES / "images_single_array" / "image.png"
    found = loaded("images_single_array", "hf")
    wanted = found.images([path])
    assert wanted.shape == (1, 32, 32, 3)
    image = Image.open(path).convert("RGB")
    array = np.asarray(image)
    for one in (
        path,
        str(path),
        path.read_bytes(),
        image,
        array,
        {"bytes": path.read_bytes()},
    ):
        np.testing.assert_array_equal(found.images(one), wanted)
    for several in (
        [image, array],
        (path, array),
        np.stack([array, array]),
        iter([path, path]),
    ):
        np.testing.assert_array_equal(
            found.images(several), np.concatenate([wanted] * 2)
        )
    assert found.images(array[..., 0]).shape == (1, 32, 32, 3)
    assert found.images([]).shape == (0, 32, 32, 3)
    with pytest.raises(errors.UserError, match="channels first"):
        found.images(array.transpose(2, 0, 1))
    for nothing in (None, 5):
        with pytest.raises(errors.UserError, match="wanted paths"):
            found.images(nothing)


WRONG = [
    ({"image_processor_type": "MobileViTImageProcessor"}, "known: ViTImageProcessor"),
    ({"feature_extractor_type": "X"}, "feature_extractor_type='X'"),
    ({"resample": 9}, "resample='9'; known: 0 (nearest), 1 (lanczos)"),
    ({"resample": True}, "resample='True'"),
    ({"resample": None}, "resample='None'"),
    ({"do_resize": "yes"}, "do_resize='yes'; want true or false"),
    ({"do_pad": True}, "do_pad"),
    ({"rescale_factor": 0}, "rescale_factor='0'"),
    ({"rescale_factor": "1/255"}, "rescale_factor"),
    ({"image_mean": [1, 2]}, "preprocessor_config.json: image_mean=[1, 2]"),
    ({"image_std": [0, 1, 1]}, "std=(0.0"),
    ({"image_mean": None}, "image_mean"),
    ({"size": {"longest_edge": 32}}, "{shortest_edge, longest_edge}"),
    ({"size": {"height": 32}}, "size="),
    ({"size": None}, "size="),
    ({"size": {"shortest_edge": 3.5}}, "size="),
    ({"size": {"min_pixels": 1, "max_pixels": 2}}, "min_pixels"),
    ({"size": {"max_height": 9, "max_width": 9}}, "without do_center_crop"),
    ({"do_center_crop": True}, "crop_size='None'"),
    ({"do_center_crop": True, "crop_size": [3]}, "crop_size"),
]


@pytest.mark.parametrize(("said", "shown"), WRONG)
def test_unknown_values_of_a_processor_are_named(said, shown):
    with pytest.raises(errors.UserError) as error:
        processors.read(said, "ViT", (32, 32))
    assert shown in str(error.value)
    assert len(str(error.value).splitlines()) <= 10


def test_fields_that_do_not_matter_do_not_matter(caplog):
    said = {
        **{"do_resize": False, "resample": 77, "size": "odd", "crop_size": "odd"},
        **{"do_normalize": False, "image_mean": "odd", "do_convert_rgb": None},
        **{
            "processor_class": "X",
            "data_format": "channels_first",
            "do_rescale": False,
        },
    }
    with caplog.at_level(logging.WARNING):
        found = processors.read(said, "ViT", (32, 32))
    assert found == Preprocessing((32, 32), "none", mean=(0,) * 3, std=(1,) * 3)
    assert not caplog.records


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({"crop_mode": "corner"}, "crop_mode='corner'; known: center, squash, border"),
        ({"interpolation": "random"}, "interpolation='random'; known: nearest"),
        ({"crop_pct": -1}, "crop_pct='-1'"),
        ({"crop_pct": "all"}, "crop_pct='all'"),
        ({"crop_pct": 1000.0}, "nothing would be left"),
        ({"mean": [1.0, 2.0]}, "mean=[1.0, 2.0]"),
    ],
)
def test_unknown_values_of_timm_are_named(said, shown):
    with pytest.raises(errors.UserError) as error:
        timm_data.read(said, (32, 32))
    assert shown in str(error.value)


HF = [
    Preprocessing((32, 48), filter="tensor_bicubic"),
    Preprocessing((32, 48), filter="bicubic"),
    Preprocessing((32, 32), "none", mean=(1, 2, 3), std=(4, 5, 6)),
    *(
        Preprocessing((32, 32), name, resize, filter, rounding=rounding)
        for filter, rounding in (
            ("lanczos", "transformers"),
            ("tensor_lanczos", "transformers_fast"),
        )
        for name, resize in (
            ("resize_small_crop", 41),
            ("resize_crop", (40, 39)),
            ("resize_inside_crop", (60, 50)),
            ("resize_between_crop", (40, 60)),
        )
    ),
    Preprocessing((32, 32), "resize_small", 32, "box", rounding="transformers"),
    Preprocessing((30, 33), "crop", rounding="transformers"),
]


@pytest.mark.parametrize("said", HF, ids=lambda said: said.transform)
def test_processors_are_written_and_read_back(said):
    written = json.loads(json.dumps(processors.write(said)))
    assert processors.read(written, "ViT", said.image_size) == said


TIMM = [
    Preprocessing((32, 48), filter="bicubic"),
    *(
        Preprocessing(
            (side, side), "resize_small_crop", resize, "box", rounding="torchvision"
        )
        for side, resize in (
            (224, 256),
            (224, 248),
            (224, 224),
            (7, 9),
            (97, 101),
            (96, 83),
        )
    ),
    Preprocessing((16, 64), "resize_cover_crop", (17, 71), "hamming", rounding="timm"),
    Preprocessing((16, 64), "resize_crop", (17, 71), "nearest", rounding="torchvision"),
    Preprocessing(
        *((16, 64), "resize_inside_crop", (18, 73), "lanczos"),
        **{"rounding": "timm", "fill": (128, 128, 128)},
    ),
]


@pytest.mark.parametrize(
    "said", TIMM, ids=lambda said: f"{said.transform}-{said.resize}"
)
def test_timms_configs_are_written_and_read_back(said):
    written = json.loads(json.dumps(timm_data.write(said)))
    assert timm_data.read(written, said.image_size) == said


def test_defaults_of_timm_are_its_own():
    bare, empty = timm_data.read(None, (224, 224)), timm_data.read({}, (224, 224))
    assert (bare.resize, bare.mean) == (248, (127.5,) * 3)
    assert (empty.resize, empty.filter, empty.rounding) == (
        256,
        "bicubic",
        "torchvision",
    )
    assert empty.mean == (123.675, 116.28, 103.53)


def test_another_size_is_scaled_as_the_code_does():
    said = {"crop_pct": 0.9, "input_size": [3, 224, 224]}
    assert timm_data.read(said, (384, 384)).resize == 426  # floor(384 / 0.9)
    dino = processors.read({"size": {"shortest_edge": 256}}, "Bit", (518, 518))
    assert (dino.image_size, dino.resize) == ((224, 224), 256)
    assert dino.at((518, 518)).resize == 592
    squash = Preprocessing((32, 64), "resize_crop", (40, 72))
    assert squash.at((64, 32)).resize == (80, 36)


def test_a_model_is_loaded_at_the_size_of_its_evaluation(tmp_path):
    """DINOv2's tables are for 518 pixels, its processors make 224."""
    arch = models.architecture(
        *("mu/8",),
        **{"image_size": 32, "num_classes": 0, "heads": 2, "depth": 1, "gelu": "erf"},
        **{"layer_scale": 1.0, "mask_token": True},
    )
    _, like = models.abstract(arch)
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), like)
    said = Preprocessing(
        (24, 24), "resize_small_crop", 28, "bicubic", rounding="transformers"
    )
    files.write(files.Weights(arch, params, said, "hf_dinov2"), tmp_path)
    assert files.read(tmp_path).architecture.image_size == (32, 32)
    found = vit_jax.load(tmp_path)
    assert found.architecture.image_size == (24, 24) and found.preprocessing == said
    assert found.params["posemb"].shape[1] == 1 + 9
    asked = vit_jax.load(tmp_path, image_size=36)  # the patch of 8 leaves 4 unseen
    assert (asked.architecture.grid, asked.architecture.crop) == ((4, 4), "valid")
    assert (asked.preprocessing.image_size, asked.preprocessing.resize) == (
        (36, 36),
        42,
    )
