"""Labels by rules, on small datasets that TFDS writes with its builders' features."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from configs import tasks
from vit_jax import errors
from vit_jax.data import catalog, decode, label_rules, preparing


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Has TFDS's own builder of a dataset write these examples instead of its own."""

    def write(name, version, examples):
        real = tfds.builder_cls(name)
        splits = {"train": iter(enumerate(examples))}
        monkeypatch.setattr(real, "_split_generators", lambda *_: splits)
        builder = real(data_dir=str(tmp_path), version=version)
        builder.info.as_proto.disable_shuffling = True  # in the order of the keys
        builder.download_and_prepare(file_format="array_record")

    return write


def file(pixels):
    """A PNG: to write one of an array, TFDS would want TensorFlow."""
    data = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(data, "png")
    return io.BytesIO(data.getvalue())


def labels(name, rule, data_dir):
    dataset = f"{name}#label=rule:{rule}"
    source = catalog.open_source(dataset, "train", data_dir=str(data_dir))
    info = catalog.describe(dataset, data_dir=str(data_dir))
    classes = label_rules.RULES[rule].classes
    assert info.num_classes == source.num_classes == classes and not info.multi_label
    return [source[k]["label"] for k in range(len(source))]


def objects(count, **columns):
    """Lists of `count` objects: given columns, and zeros for the others of CLEVR's."""
    points = {"3d_coords": [[0.0] * 3] * count, "pixel_coords": [[0.0] * 3] * count}
    words = {"color": 0, "material": 0, "shape": 0, "size": 0, "rotation": 0.0}
    return points | {name: [value] * count for name, value in words.items()} | columns


def test_clevr_counts_objects_and_finds_the_nearest(prepare, tmp_path):
    nearest = [0.5, 8.0, 8.25, 9.0, 9.25, 9.75, 10.0, 10.5]
    examples = [
        {
            "image": file(np.zeros((4, 6, 3), np.uint8)),
            "file_name": f"{k}.png",
            "objects": objects(
                3 + k, pixel_coords=[[1.0, 2.0, 11.0]] * (2 + k) + [[0.0, 50.0, z]]
            ),
            "question_answer": {"question": ["?"], "answer": ["!"]},
        }
        for k, z in enumerate(nearest)
    ]
    prepare("clevr", "3.1.0", examples)
    assert labels("clevr:3.*.*", "clevr_count", tmp_path) == list(range(8))
    # Edges 0, 8, 8.5, 9, 9.5, 10, 100: the last one below the value.
    distances = labels("clevr:3.*.*", "clevr_distance", tmp_path)
    assert distances == [0, 0, 1, 2, 3, 4, 4, 5]
    with pytest.raises(errors.UserError, match="Versions there: 3.1.0"):
        labels("clevr:4.*.*", "clevr_count", tmp_path)
    with pytest.raises(errors.UserError, match="'objects/type', and the dataset has"):
        labels("clevr", "kitti_distance", tmp_path)
    info = preparing.run("clevr:3.*.*", data_dir=str(tmp_path))
    assert (info.num_classes, info.splits) == (0, {"train": 8})


def test_kitti_finds_the_nearest_car_van_or_truck(prepare, tmp_path):
    # Types: 0 car, 1 van, 2 truck, 3 pedestrian.
    scenes = [
        [(0, 7.5), (1, 30.0)],
        [(3, 1.0), (1, 8.0)],
        [(2, 8.5)],
        [(0, 20.0), (0, 25.0)],
        [(1, 20.5)],
        [(3, 5.0)],
        [],
    ]
    others = {"truncated": 0.0, "occluded": 0, "alpha": 0.0, "rotation_y": 0.0}
    box = tfds.features.BBox(ymin=0.0, xmin=0.0, ymax=1.0, xmax=1.0)
    examples = [
        {
            "image": file(np.zeros((4, 6, 3), np.uint8)),
            "image/file_name": f"{k}.png",
            "objects": [
                others
                | {"type": kind, "location": [1.0, 2.0, z], "dimensions": [1.0] * 3}
                | {"bbox": box}
                for kind, z in scene
            ],
        }
        for k, scene in enumerate(scenes)
    ]
    prepare("kitti", "3.3.0", examples)
    found = labels("kitti:3.*.*", "kitti_distance", tmp_path)
    assert found == [0, 0, 1, 1, 2, 3, 3]


def test_dsprites_have_sixteen_places_and_angles_and_white_shapes(prepare, tmp_path):
    image = np.zeros((64, 64, 1), np.uint8)
    image[3:9, 5:7] = 1
    names = ("shape", "scale", "orientation", "x_position", "y_position")
    examples = [
        {"image": file(image)}
        | {f"label_{name}": 0 for name in names}
        | {f"value_{name}": 0.0 for name in names}
        | {"label_x_position": k * 31 // 39, "label_orientation": k}
        for k in range(40)
    ]
    prepare("dsprites", "2.0.0", examples)
    places = labels("dsprites:2.*.*", "dsprites_location", tmp_path)
    assert places == [k * 31 // 39 // 2 for k in range(40)]
    assert set(places) == {*range(16)}
    angles = labels("dsprites:2.*.*", "dsprites_orientation", tmp_path)
    assert angles == [int(np.floor(k / 2.5)) for k in range(40)]
    dataset = "dsprites#label=rule:dsprites_location"
    source = catalog.open_source(dataset, "train", data_dir=str(tmp_path))
    pixels = source[0]["image"]
    assert pixels.shape[:2] == source.image_shape[:2]
    assert np.array_equal(pixels, np.repeat(image * 255, 3, axis=2))


def test_smallnorb_has_angles_beside_its_category(prepare, tmp_path):
    image = np.zeros((96, 96, 1), np.uint8)
    examples = [
        {"image": file(image + k), "image2": file(image)}
        | {"label_category": 1, "instance": 0, "label_lighting": 0}
        | {"label_elevation": 8 - k, "label_azimuth": 17 - k}
        for k in range(2)
    ]
    prepare("smallnorb", "2.0.0", examples)
    assert labels("smallnorb:2.*.*", "smallnorb_azimuth", tmp_path) == [17, 16]
    assert labels("smallnorb:2.*.*", "smallnorb_elevation", tmp_path) == [8, 7]
    source = catalog.open_source("smallnorb", "train", data_dir=str(tmp_path))
    assert (source[1]["label"], source.num_classes) == (1, 5)
    pixels = decode.whole(decode.open_image(source[1]["image"]))
    assert np.array_equal(pixels, np.ones((96, 96, 3)))


@pytest.mark.parametrize("name", tasks.VTAB)
def test_pinned_versions_are_what_tfds_makes(name, tmp_path):
    task = tasks.VTAB[name]
    builder = tfds.builder(task.dataset, data_dir=str(tmp_path), try_gcs=False)
    features = builder.info.features
    assert builder.version == builder.canonical_version, "it prepares no other"
    if not task.label:
        assert features["label"].num_classes == task.classes
        return
    rule = label_rules.named(task.label)
    assert rule.classes == task.classes
    label_rules.check(task.label, features.to_json()["content"]["features"], tmp_path)


def test_what_has_no_class_is_an_error():
    rule = label_rules.RULES["clevr_distance"]
    for value in (0.0, 100.5, np.nan):
        values = {"objects/pixel_coords": np.float32([1, 1, value])}
        with pytest.raises(errors.UserError, match=r"shard:3: class -?\d follows from"):
            label_rules.label(rule, values, "shard:3")
    with pytest.raises(errors.UserError, match="no class follows"):
        label_rules.label(rule, {}, "shard:3")
    with pytest.raises(errors.UserError, match="known: clevr_count"):
        catalog.describe("clevr#label=rule:clevr")
    with pytest.raises(errors.UserError, match="clevr has several labels; want one"):
        catalog.describe("clevr:3.*.*", data_dir="/nowhere")
    with pytest.raises(decode.BadImage, match="pixels up to 2"):
        label_rules.bright(np.full((2, 2), 2, np.uint8), 1)
