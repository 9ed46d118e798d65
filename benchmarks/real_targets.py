"""Small sets of real pictures from packages of Debian and PyPI, to transfer to.

    python -m benchmarks.real_targets --out=DIR [--fashion=DIR] [--stamps=DIR]

Writes what is installed, and says what is not and how to get it:

- `parquet:OUT/fashion_mnist/*.parquet`: Fashion-MNIST, 60,000 and 10,000 grey pictures
  of clothes, 28 px, ten classes (MIT; Debian's dataset-fashion-mnist).
- `folder:OUT/stamps`: the stamps of Tux Paint, photographs and drawings in folders by
  what they show, of which those with at least 30 are classes (GPL-2; Debian's
  tuxpaint-stamps-default). They are put on white and fitted into 64 px.
- `folder:OUT/faces`: 100 grey faces and 100 pictures of none, 25 px, of Labeled Faces
  in the Wild (scikit-image's `data.lfw_subset`).

Test of the last two is every fifth picture of a class, by name. `digits` comes with
vit_jax. Nothing of this is in the repository.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
from PIL import Image

FASHION = Path("/usr/share/datasets/fashion-mnist")
STAMPS = Path("/usr/share/tuxpaint/stamps")
CLOTHES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt"),
    *("sneaker", "bag", "ankle boot"),
)
FEWEST = 30  # pictures of a class
SIDE = 64  # pixels, of a stamp's longer side


def read_idx(path: Path) -> np.ndarray:
    """Returns the bytes of a file of the MNIST format, [n] or [n, height, width]."""
    data = gzip.decompress(path.read_bytes())
    axes = data[3]
    shape = np.frombuffer(data, ">i4", axes, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def fashion(source: Path, target: Path) -> str:
    """Writes train and test as Parquet files of PNG; returns the dataset's name."""
    import cv2
    import pyarrow
    from pyarrow import parquet

    target.mkdir(parents=True, exist_ok=True)
    for split, name in (("train", "train"), ("test", "t10k")):
        images = read_idx(source / f"{name}-images-idx3-ubyte.gz")
        labels = read_idx(source / f"{name}-labels-idx1-ubyte.gz")
        files = [cv2.imencode(".png", image)[1].tobytes() for image in images]
        columns = {
            "image": [{"bytes": data, "path": None} for data in files],
            "label": [CLOTHES[label] for label in labels],
        }
        # Pages, which a reader keeps, of a few hundred pictures.
        parquet.write_table(
            *(pyarrow.table(columns), target / f"{split}-00000.parquet"),
            compression="none",
            data_page_size=2**16,
        )
    return f"parquet:{target}/*.parquet"


def place(target: Path, name: str, index: int) -> Path:
    """Returns the file of the picture `index` of a class, in its folder."""
    folder = target / ("test" if index % 5 == 4 else "train") / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{index:04d}.png"


def stamps(source: Path, target: Path) -> str:
    """Writes the stamps on white; returns the dataset's name."""
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        pictures = sorted(folder.rglob("*.png"))
        if len(pictures) < FEWEST:
            continue
        for index, path in enumerate(pictures):
            stamp = Image.open(path).convert("RGBA")
            white = Image.new("RGBA", stamp.size, "white")
            picture = Image.alpha_composite(white, stamp).convert("RGB")
            picture.thumbnail((SIDE, SIDE))
            picture.save(place(target, folder.name, index))
    return f"folder:{target}"


def faces(target: Path) -> str:
    """Writes faces and others; returns the dataset's name."""
    from skimage import data

    images = data.lfw_subset()
    levels = images if images.dtype == np.uint8 else np.round(images * 255)
    for index, image in enumerate(levels.astype(np.uint8)):
        name = "face" if index < 100 else "other"
        Image.fromarray(image).save(place(target, name, index % 100))
    return f"folder:{target}"


def main() -> None:
    """Writes the datasets that can be had here."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fashion", type=Path, default=FASHION)
    parser.add_argument("--stamps", type=Path, default=STAMPS)
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    for name, source, write, package in (
        ("fashion_mnist", arguments.fashion, fashion, "dataset-fashion-mnist"),
        ("stamps", arguments.stamps, stamps, "tuxpaint-stamps-default"),
    ):
        if source.is_dir():
            print(write(source, out / name))
        else:
            print(f"no {source}: apt-get install {package}, or unpack it: see --help")
    try:
        print(faces(out / "faces"))
    except ImportError:
        print("no scikit-image: pip install scikit-image")


if __name__ == "__main__":
    main()
