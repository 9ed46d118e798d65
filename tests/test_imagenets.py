"""ReaL, ImageNet-V2 and ObjectNet as evaluations of an ImageNet checkpoint."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_data_example import bytes_feature, packed_ints
from test_data_tfds import IMAGE, prepare

import vit_jax
from configs import base
from configs import imagenets as recipe
from vit_jax import errors, evaluators, train
from vit_jax.data import catalog, labels, preprocessing
from vit_jax.data.forms import imagenets
from vit_jax.evaluators import classify
from vit_jax.parallel import mesh

# Of real.json: 50,000 lists; 3,163 are empty, 39,394 of one class, 7,443 of several, of
# which the longest has 9; 1.229 classes an image that has any.
IMAGES, EMPTY, SINGLE, MOST, MEAN = 50_000, 3_163, 39_394, 9, 1.229


def as_published():
    """Lists of classes with these statistics, in a random order."""
    rng = np.random.default_rng(0)
    several = IMAGES - EMPTY - SINGLE
    more = round(MEAN * (IMAGES - EMPTY)) - SINGLE - 2 * several
    sizes = np.full(several, 2)
    sizes[0] = MOST
    sizes[1 : 1 + more - (MOST - 2)] += 1
    sizes = np.concatenate([np.zeros(EMPTY, int), np.ones(SINGLE, int), sizes])
    first = rng.integers(0, imagenets.CLASSES, IMAGES)
    return [
        [int(f + 7 * k) % imagenets.CLASSES for k in range(size)]
        for f, size in zip(first, rng.permutation(sizes), strict=True)
    ]


def test_the_denominator_of_real_is_that_of_the_published_file(tmp_path, monkeypatch):
    monkeypatch.setattr(imagenets, "CLASSES", 20)  # which saves seconds
    lists = as_published()
    assert sum(map(len, lists)) / (IMAGES - EMPTY) == pytest.approx(MEAN, abs=1e-4)
    (tmp_path / "real.json").write_text(json.dumps(lists))
    real = imagenets.read_real(tmp_path / "real.json")
    several = imagenets._Several(lambda index: real[index])
    measured = jax.jit(classify.measured, static_argnames="loss")
    total = None
    for start in range(0, IMAGES, 5_000):
        rows = np.stack([several[start + k] for k in range(5_000)])
        # The last class of a list is the best one, and a wrong one for every 5th image.
        best = np.array([(one or [0])[-1] for one in real[start : start + 5_000]])
        best[::5] = (best[::5] + 3) % imagenets.CLASSES
        logits = jax.nn.one_hot(best, imagenets.CLASSES)
        batch = {"label": rows, "mask": np.ones(5_000, np.float32)}
        part = jax.device_get(measured({"logits": logits}, batch, loss="softmax"))
        total = part if total is None else total.merge(part)
    figures = total.compute()
    assert (int(figures["examples"]), int(figures["seen"])) == (46_837, IMAGES)
    right = sum(bool(one) for k, one in enumerate(real) if k % 5)
    assert float(figures["top1"]) == pytest.approx(right / 46_837, rel=1e-6)


def picture(path, shade, side=12, border=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side, 3), shade, np.uint8)
    if border:
        pixels[:border] = pixels[-border:] = (255, 0, 0)
        pixels[:, :border] = pixels[:, -border:] = (255, 0, 0)
    Image.fromarray(pixels).save(path, format="png")


def evaluate(dataset, data_dir=""):
    """Of a model whose best classes are 5 x the shade, and one above, 2 above, ..."""

    def forward(params, images):
        first = 5 * images[:, 0, 0, 0].astype(jnp.int32)
        after = (jnp.arange(imagenets.CLASSES)[None] - first[:, None]) % 1000
        return {"logits": -after.astype(jnp.float32)}

    context = evaluators.Context(
        datasets=evaluators.Datasets(dataset, data_dir),
        forward=forward,
        preprocessing=preprocessing.Preprocessing((8, 8)),
        outputs=labels.Side("an ImageNet model", imagenets.CLASSES),
        batch_size=8,
        mesh=mesh.make_mesh(),
    )
    return evaluators.make(base.classify().to_dict(), context)({})


REAL = [[], [10, 15], [16], [20, 500], [24]]  # of shades 1 to 5


@pytest.mark.parametrize("deep", [False, True])
def test_real_of_a_folder(tmp_path, deep):
    """However deep; top-1 is of shade 2, top-5 of 3, 4 and 5 as well, of 4 in all."""
    for k in range(1, 6):
        below = f"n0144{k}" if deep else "."
        name = f"ILSVRC2012_val_{6 - k:08}.JPEG"
        picture(tmp_path / "images" / below / name, 6 - k)
    (tmp_path / "real.json").write_text(json.dumps(REAL))
    dataset = f"real:{tmp_path}/real.json,{tmp_path}/images"
    figures = evaluate(dataset)
    assert figures["examples"] == 4 and figures["corrupt"] == 0
    assert (figures["top1"], figures["top5"]) == (0.5, 0.75)
    assert catalog.describe(dataset).splits == {"validation": 5}


def real_tfds(directory, names=None):
    label = {"classLabel": {"numClasses": "1000"}}
    features = {
        "image": IMAGE,
        "original_label": label,
        "real_label": {"sequence": {"feature": label}},
        "file_name": {"text": {}},
    }
    rows = []
    for k in (3, 1, 5, 2, 4):
        picture(directory.parent / "one.png", k)
        rows.append(
            {
                "image": bytes_feature((directory.parent / "one.png").read_bytes()),
                "original_label": packed_ints(0),
                "real_label": packed_ints(*REAL[k - 1]) if REAL[k - 1] else b"",
                "file_name": bytes_feature(b"ILSVRC2012_val_%08d.JPEG" % k),
            }
        )
    splits = {"validation": [rows[:2], rows[2:]]}
    prepare(directory, features, splits, pair=("image", "real_label"))


def test_real_of_tfds_is_real_of_the_file(tmp_path):
    (tmp_path / "real.json").write_text(json.dumps(REAL))
    real_tfds(tmp_path / "imagenet2012_real" / "1.0.0")
    real_tfds(tmp_path / "imagenet2012" / "5.1.0")
    theirs = evaluate("imagenet2012_real", str(tmp_path))
    assert theirs == evaluate(f"real:{tmp_path}/real.json", str(tmp_path))
    assert (theirs["top1"], theirs["top5"], theirs["examples"]) == (0.5, 0.75, 4)


def test_v2_is_by_the_number_of_the_folder(tmp_path):
    for k in (1, 2, 10, 100):  # "10" stands before "2" in the order of text
        picture(tmp_path / str(5 * k) / "a.jpeg", k)
    picture(tmp_path / "999" / "b.jpeg", 1)
    figures = evaluate(f"imagenetv2:{tmp_path}")
    assert (figures["top1"], figures["examples"]) == (0.8, 5)
    picture(tmp_path / "1000" / "b.jpeg", 1)
    with pytest.raises(errors.UserError, match="folder '1000'; want .* 0 to 999"):
        catalog.describe(f"imagenetv2:{tmp_path}/.")


def objectnet(root, first):
    """Three folders, of which one is none of ImageNet's, and one is two."""
    (root / "mappings").mkdir(parents=True)
    lines = [f"thing {k}, a thing" for k in range(1000)]
    files = {
        "folder_to_objectnet_label.json": {
            "air": "Air freshener",
            "alarm_clock": "Alarm clock",
            "still_camera": "Still Camera",
        },
        "objectnet_to_imagenet_1k.json": {
            "Alarm clock": f"{lines[9]}; {lines[10]}",
            "Still Camera": lines[20],
        },
        # Line k is class 999 - k.
        "pytorch_to_imagenet_2012_id.json": {
            str(999 - k): k + first for k in range(1000)
        },
    }
    for name, content in files.items():
        (root / "mappings" / name).write_text(json.dumps(content))
    path = root / "mappings" / "imagenet_to_label_2012_v2"
    path.write_text("\n".join(lines) + "\n")
    for folder, shades in (
        ("air", [198]),
        ("alarm_clock", [198]),
        ("still_camera", [7]),
    ):
        for shade in shades:
            picture(root / "images" / folder / f"{shade}.png", shade, border=2)
    picture(root / "images" / "still_camera" / "195.png", 195, border=2)


@pytest.mark.parametrize("first", [0, 1])
def test_objectnet_is_by_its_own_map_without_the_border(tmp_path, first):
    objectnet(tmp_path, first)
    found = imagenets.read_objectnet(tmp_path / "mappings")
    assert found == {"alarm_clock": [990, 989], "still_camera": [979]}
    source = catalog.open_source(f"objectnet:{tmp_path}", "test")
    assert len(source) == 3 and source[0]["image"].tolist() == [[[198] * 3] * 8] * 8
    figures = evaluate(f"objectnet:{tmp_path}")
    assert figures["examples"] == 3
    assert figures["top1"] == pytest.approx(1 / 3)
    assert figures["top5"] == pytest.approx(2 / 3)


def test_what_is_no_such_dataset_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    good, bad = tmp_path / "real.json", tmp_path / "bad.json"
    good.write_text("[[1]]")
    bad.write_text("[[1000]]")
    picture(tmp_path / "images" / "ILSVRC2012_val_00000002.JPEG", 1)
    picture(tmp_path / "others" / "0" / "a.png", 1)
    objectnet(tmp_path / "objectnet", 0)
    (tmp_path / "objectnet/mappings/imagenet_to_label_2012_v2").write_text("thing 0")
    for dataset, message in (
        (f"real:{bad}", "no real.json; want a list with a list of classes, 0 to 999"),
        (f"real:{good}", "imagenet2012 is not prepared .* want real:FILE,IMAGES"),
        (f"real:{good},{tmp_path}/others", "holds no validation image, ILSVRC2012_val"),
        (f"real:{good}#label=a", "has no columns"),
        (f"imagenetv2:{tmp_path}", "folder 'images'; want a folder a class"),
        (f"objectnet:{tmp_path}", "folder_to_objectnet_label.json"),
        (f"objectnet:{tmp_path}/objectnet", "not of the 1 lines beside it"),
    ):
        with pytest.raises(errors.UserError, match=message):
            catalog.describe(dataset)
    with pytest.raises(errors.UserError, match="has labels of 1 images"):
        evaluate(f"real:{good},{tmp_path}/images")


def test_a_recipe_measures_a_checkpoint_on_all_that_are_there(tmp_path, caplog):
    model = vit_jax.create_model(
        "mu/8", num_classes=1000, image_size=16, depth=1, width=8, heads=1, mlp_width=8
    )
    vit_jax.save(model, tmp_path / "model")
    objectnet(tmp_path / "objectnet", 0)
    real_tfds(tmp_path / "imagenet2012_real" / "1.0.0")
    config = recipe.get_config(f"{tmp_path}/model,objectnet:{tmp_path}/objectnet")
    config.data.data_dir = str(tmp_path)
    config.batch_size = 8
    figures = train.run(config, tmp_path / "run", mesh.make_mesh())
    assert {name.split("/")[0] for name in figures} == {"real", "objectnet"}
    assert (figures["real/examples"], figures["objectnet/examples"]) == (4, 3)
    for wrong in ("", "x,", "augreg:B/16,imagenet2012", "x,objectnet:a,objectnet:b"):
        with pytest.raises(ValueError, match="imagenets.py:CHECKPOINT|there twice"):
            recipe.get_config(wrong)
