import hashlib
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image, features

from vit_jax import errors
from vit_jax.data import catalog, decode, folder, walking

CASE = Path(__file__).parent / "golden" / "cases" / "nested_images"


def write(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((6, 5, 3), value, np.uint8)
    if path.suffix.lower() in (".jpg", ".jpeg"):
        path.write_bytes(simplejpeg.encode_jpeg(pixels))
    else:
        Image.fromarray(pixels).save(path)


@pytest.fixture
def flat(tmp_path):
    for label, name in enumerate(["ant", "bee", "cat"]):
        for k in range(20):
            suffix = [".jpg", ".JPEG", ".png", ".WebP"][k % 4]
            write(tmp_path / name / f"{k:02d}{suffix}", 50 * label)
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "ant" / ".hidden.jpg").write_bytes(b"")
    (tmp_path / ".cache").mkdir()
    return tmp_path


def test_class_folders_are_one_split(flat):
    info = catalog.describe(f"folder:{flat}")
    assert info.splits == {"train": 60}
    assert info.label_names == ("ant", "bee", "cat")
    assert info.num_classes == 3 and info.prepared and not info.multi_label
    source = catalog.open_source(str(flat), "train")
    everything = catalog.open_source(str(flat), "all")
    assert len(source) == len(everything) == 60
    for k in range(60):
        opened = decode.open_image(source[k]["image"])
        pixels, _ = opened.pixels(6, 1)
        assert round(pixels.mean() / 50) == source[k]["label"]
        assert f"/{info.label_names[source[k]['label']]}/" in source.name(k)


def test_cut_of_a_folder_sorted_by_class_holds_every_class(flat):
    parts = [catalog.open_source(str(flat), s) for s in ("train[:50%]", "train[50%:]")]
    names = [[part.name(k) for k in range(len(part))] for part in parts]
    assert sorted(names[0] + names[1]) == sorted(
        str(path) for path in folder_images(flat)
    )
    for part in parts:
        counts = np.bincount([part[k]["label"] for k in range(len(part))])
        assert counts.min() >= 4
    again = catalog.open_source(str(flat), "train[:50%]")
    assert [again.name(k) for k in range(len(again))] == names[0]


def folder_images(root):
    return [
        path
        for path in root.glob("*/*")
        if path.suffix != ".txt" and not path.name.startswith(".")
    ]


def test_order_does_not_depend_on_where_the_folder_lies(flat, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere") / "moved"
    names = [catalog.open_source(str(flat), "train").name(k) for k in range(60)]
    flat.rename(other)
    moved = [catalog.open_source(str(other), "train").name(k) for k in range(60)]
    assert [name.replace(str(flat), "") for name in names] == [
        name.replace(str(other), "") for name in moved
    ]


def test_split_folders(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for name in ("x", "y"):
            for k in range(count):
                write(tmp_path / split / name / f"{k}.jpg")
    (tmp_path / "val" / "x" / "deeper").mkdir()
    info = catalog.describe(str(tmp_path))
    assert info.splits == {"train": 6, "val": 4}
    assert catalog.num_examples(info, "train+val") == 10
    assert len(catalog.open_source(str(tmp_path), "val[:50%]")) == 2
    with pytest.raises(errors.UserError, match="known splits: train .*, val"):
        catalog.open_source(str(tmp_path), "test")


def test_a_folder_is_listed_again_only_where_something_came_or_went(
    tmp_path, monkeypatch
):
    for name in ("x", "y"):
        write(tmp_path / "train" / name / "0.jpg")
    places = [tmp_path, *(p for p in tmp_path.rglob("*") if p.is_dir())]
    listings, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda p: listings.append(p) or scandir(p))

    def walks():
        listings.clear()
        counts = catalog.describe(str(tmp_path)).splits
        assert len(catalog.open_source(str(tmp_path), "train")) == counts["train"]
        return counts["train"], listings.count(tmp_path)

    assert walks() == (2, 2)  # changed just now: whoever trusts it may miss a file
    for place in places:
        os.utime(place, ns=(0, 10**18))
    assert walks() == (2, 1)
    assert walks() == (2, 0)
    write(tmp_path / "train" / "x" / "1.jpg")
    assert walks() == (3, 2)
    os.utime(tmp_path / "train" / "x", ns=(0, 2 * 10**17))
    assert walks() == (3, 1) and walks() == (3, 0)
    (tmp_path / "train" / "x" / "1.jpg").unlink()
    assert walks()[0] == 2


def test_images_below_a_class_folder_belong_to_the_class():
    count, classes = json.loads((CASE / "expected.json").read_text())["torchvision"]
    for root in (CASE, CASE / "train"):
        info = catalog.describe(f"folder:{root}")
        assert info.splits == {"train": count}
        assert list(info.label_names) == classes
        source = catalog.open_source(f"folder:{root}", "train")
        for k in range(count):
            name = Path(source.name(k)).relative_to(CASE / "train").parts[0]
            assert info.label_names[source[k]["label"]] == name


def test_the_order_is_that_of_the_names_hashes(flat):
    write(flat / "bee" / "more" / "deep" / "a b.jpg")
    write(flat / "cat" / "größe" / "é.jpg")
    names = [path.relative_to(flat).as_posix() for path in folder_images(flat)]
    names += ["bee/more/deep/a b.jpg", "cat/größe/é.jpg"]
    names = [name for name in names if (flat / name).is_file()]

    def digest(name):
        return hashlib.blake2b(name.encode(), digest_size=8).digest()

    source = catalog.open_source(str(flat), "train")
    found = [source.name(k).removeprefix(f"{flat}/") for k in range(len(source))]
    assert found == sorted(names, key=digest) and len(found) == 62


@pytest.mark.parametrize("suffix", [*walking.EXTENSIONS, ".JPG", ".Tiff", ".GIF"])
def test_every_listed_extension_is_found_and_decoded(suffix, tmp_path):
    needs = {".avif": "avif", ".jp2": "jpg_2000", ".j2k": "jpg_2000"}
    if suffix in needs and not features.check(needs[suffix]):
        pytest.skip(f"this Pillow has no {suffix}")
    mode = {".pbm": "1", ".pgm": "L"}.get(suffix, "RGB")
    path = tmp_path / "cat" / f"1{suffix}"
    path.parent.mkdir()
    Image.new("RGB", (6, 5), (255, 255, 255)).convert(mode).save(path)
    source = catalog.open_source(str(tmp_path), "train")
    opened = decode.open_image(source[0]["image"])
    assert (opened.height, opened.width) == (5, 6)
    assert opened.pixels(5, 1)[0].min() >= 254


def test_what_is_left_out_is_counted_and_named_once(flat, caplog):
    for litter in ("Thumbs.db", "desktop.ini", "cat/._1.jpg", "cat/sub/.DS_Store"):
        (flat / litter).parent.mkdir(exist_ok=True)
        (flat / litter).write_text("litter")
    write(flat / "cat" / "sub" / "1.png")
    write(flat / "__MACOSX" / "cat" / "1.png")
    (flat / "bee" / "gone.jpg").symlink_to(flat / "nowhere.jpg")
    with caplog.at_level(logging.WARNING):
        assert catalog.describe(str(flat)).splits == {"train": 61}
        catalog.open_source(str(flat), "train")
    deeper, left_out = [record.getMessage() for record in caplog.records]
    assert deeper == (
        f"folder {flat}: of the images 1 lie deeper than their class's folder and "
        "belong to it: cat/sub/1.png"
    )
    # And .cache/, ant/.hidden.jpg, ant/notes.txt.
    assert left_out == (
        f"folder {flat}: left out 9 (no images, or of no class): .cache/, Thumbs.db, "
        "__MACOSX/, ant/.hidden.jpg, ant/notes.txt and 4 more"
    )


def test_links_are_followed_and_loops_end(flat, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere / "inner" / "1.jpg")
    (flat / "dog").symlink_to(elsewhere)
    (elsewhere / "inner" / "loop").symlink_to(elsewhere)
    (flat / "ant" / "self").symlink_to(flat / "ant")
    (flat / "ant" / "top").symlink_to(flat)
    listed = folder.Folder(flat)
    assert listed.class_names == ("ant", "bee", "cat", "dog")
    count = listed.counts()["train"]
    images = [listed.file("train", at)[1] for at in range(count)]
    assert images.count("dog") == 1 and images.count("bee") == 20


def test_labels_are_the_same_in_every_split(tmp_path, caplog):
    for name in ("a", "b", "c"):
        write(tmp_path / "train" / name / "1.jpg")
    write(tmp_path / "val" / "c" / "deeper" / "1.jpg")
    write(tmp_path / "extra" / "b" / "1.jpg")
    write(tmp_path / "beside.jpg")
    (tmp_path / "notes").mkdir()
    info = catalog.describe(str(tmp_path))
    assert info.splits == {"train": 3, "val": 1, "extra": 1}
    assert info.label_names == ("a", "b", "c")
    assert catalog.open_source(str(tmp_path), "val")[0]["label"] == 2
    assert catalog.open_source(str(tmp_path), "extra")[0]["label"] == 1
    assert "left out 2 (no images, or of no class): beside.jpg, notes/" in caplog.text
    assert "split 'val' has no image of 2 of 3 classes: a, b" in caplog.text


@pytest.mark.parametrize(
    "files, counts, classes",
    [
        # No name is a split's: classes, however deep their images lie.
        ("plant/fern/1 plant/moss/1 bird/owl/1", {"train": 3}, "bird plant"),
        ("cat/left/1 cat/right/1 dog/left/1 dog/right/1", {"train": 4}, "cat dog"),
        ("cat/1 plant/fern/1", {"train": 2}, "cat plant"),
        # A class may be named like a split where its images show that it is one.
        ("train/1 plane/1 car/sedan/1", {"train": 3}, "car plane train"),
        ("train/n1/images/1 train/n2/images/1", {"train": 2}, "n1 n2"),
        ("fold1/a/1 fold2/a/1", {"fold1": 1, "fold2": 1}, "a"),
        ("seg_train/a/1 seg_test/a/1", {"seg_test": 1, "seg_train": 1}, "a"),
        ("Train/a/1 TEST/a/1", {"TEST": 1, "Train": 1}, "a"),
        ("trainer/a/1 valley/a/1", {"train": 2}, "trainer valley"),
    ],
)
def test_splits_and_classes_are_told_apart_by_names(files, counts, classes, tmp_path):
    for name in files.split():
        write(tmp_path / f"{name}.jpg")
    info = catalog.describe(str(tmp_path))
    assert (info.splits, info.label_names) == (counts, tuple(classes.split()))


def wrong_missing(root):
    return root / "nowhere", "does not exist"


def wrong_file(root):
    write(root / "cat.jpg")
    return root / "cat.jpg", "is a file, not a folder"


def wrong_empty_class(root):
    write(root / "cat" / "a.jpg")
    (root / "dog" / "deeper").mkdir(parents=True)
    (root / "eel").mkdir()
    (root / "eel" / "a.txt").write_text("no image")
    return root, "2 of 3 class folders hold no image: dog, eel"


def wrong_empty_class_of_a_split(root):
    for split in ("train", "val"):
        write(root / split / "cat" / "a.jpg")
        write(root / split / "dog" / "a.jpg")
    (root / "val" / "dog" / "a.jpg").unlink()
    return root, "val: 1 of 2 class folders hold no image: dog"


def wrong_image_beside_classes(root):
    write(root / "cat" / "a.jpg")
    write(root / "b.jpg")
    return root, "b.jpg of split 'train' lies in no class folder"


def wrong_one_folder_too_high(root):
    write(root / "images" / "cat" / "a.jpg")
    write(root / "images" / "dog" / "a.jpg")
    return root, f"folder:{root / 'images'}"


def wrong_splits_inside_classes(root):
    for name in ("cat/train", "cat/test", "dog/train", "dog/test"):
        write(root / name / "a.jpg")
    return root, "has its splits (test, train) inside the classes (cat, dog)"


def wrong_empty(root):
    return root, "no class folder with images"


def wrong_bare_images(root):
    write(root / "a.jpg")
    return root, "no class folder with images"


def wrong_mixture(root):
    write(root / "cat" / "a.jpg")
    write(root / "train" / "cat" / "a.jpg")
    return root, "mixes two layouts"


def wrong_class_only_in_test(root):
    write(root / "train" / "cat" / "a.jpg")
    write(root / "test" / "Cat" / "a.jpg")
    return root, "class 'Cat' is in split 'test' but not in 'train'"


def wrong_stray_image(root):
    write(root / "train" / "cat" / "a.jpg")
    write(root / "train" / "dog" / "a.jpg")
    write(root / "b.jpg")
    (root / "train" / "dog" / "a.jpg").rename(root / "train" / "a.jpg")
    return root, "mixes two layouts"


@pytest.mark.parametrize(
    "make",
    [
        wrong_missing,
        wrong_empty,
        wrong_bare_images,
        wrong_mixture,
        wrong_class_only_in_test,
        wrong_stray_image,
        wrong_file,
        wrong_empty_class,
        wrong_empty_class_of_a_split,
        wrong_image_beside_classes,
        wrong_one_folder_too_high,
        wrong_splits_inside_classes,
    ],
)
def test_wrong_layouts_are_one_clear_error(make, tmp_path):
    root, shown = make(tmp_path)
    with pytest.raises(errors.UserError) as error:
        folder.Folder(root)
    assert shown in str(error.value)
    assert str(root) in str(error.value)


def test_unreadable_file_is_a_bad_image(flat):
    source = catalog.open_source(str(flat), "train")
    (flat / source.name(7).removeprefix(f"{flat}/")).unlink()
    with pytest.raises(decode.BadImage, match="No such file"):
        source[7]
