import numpy as np
import pytest
import simplejpeg
from PIL import Image

from vit_jax import errors
from vit_jax.data import catalog, decode, folder


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


def wrong_missing(root):
    return root / "nowhere", "does not exist"


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
