"""Datasets of every form that tests read, made of the same images."""

import io
import sys
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

NAMES = ("ant", "bee", "cat")
COUNTS = {"train": 24, "test": 6}


def images(split: str) -> list[tuple[bytes, int]]:
    """JPEG files and their classes; no two are alike."""
    rng = np.random.default_rng(len(split))
    drawn = []
    for index in range(COUNTS[split]):
        label = index % len(NAMES)
        pixels = rng.integers(0, 256, (3, 3, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        drawn.append((simplejpeg.encode_jpeg(np.ascontiguousarray(pixels)), label))
    return drawn


def write_tar(path: Path, files: list[tuple[str, bytes]], **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def tars(root: Path) -> str:
    for split in COUNTS:
        samples = images(split)
        half = len(samples) // 2
        for shard, part in enumerate((samples[:half], samples[half:])):
            files = []
            for index, (data, label) in enumerate(part):
                key = f"{shard}-{index:03d}"
                files += [(f"{key}.jpg", data), (f"{key}.cls", NAMES[label].encode())]
            write_tar(root / f"{split}-{shard:03d}.tar", files)
    return f"wds:{root}/{{train,test}}-{{000..001}}.tar"


def arrow_table(split: str, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    rows = images(split)
    structs = [{"bytes": data, "path": f"{k}.jpg"} for k, (data, _) in enumerate(rows)]
    labels = [NAMES[label] for _, label in rows]
    return pyarrow.table({"image": structs, "label": labels} | columns)


def parquets(root: Path) -> str:
    parquet = pytest.importorskip("pyarrow.parquet")
    root.mkdir(parents=True, exist_ok=True)
    for split in COUNTS:
        table = arrow_table(split)
        half = len(table) // 2
        for shard, part in enumerate((table[:half], table[half:])):
            path = root / f"{split}-{shard:05d}-of-00002.parquet"
            parquet.write_table(part, path, row_group_size=5)
    return f"parquet:{root}/*.parquet"


def huggingface(root: Path) -> str:
    datasets = pytest.importorskip("datasets")
    labels = datasets.ClassLabel(names=list(NAMES))
    features = datasets.Features({"image": datasets.Image(), "label": labels})
    splits = {}
    for split in COUNTS:
        rows = [
            {"image": {"bytes": data, "path": None}, "label": label}
            for data, label in images(split)
        ]
        splits[split] = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict(splits).save_to_disk(str(root))
    return f"hf:{root}"


def lists(root: Path) -> str:
    lines = ["file,label,split"]
    for split in COUNTS:
        for index, (data, label) in enumerate(images(split)):
            path = root / "pictures" / f"{split}{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            lines.append(f"pictures/{path.name},{NAMES[label]},{split}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    return f"csv:{root}/table.csv"


class Pairs:
    """Pairs as torchvision's datasets yield them."""

    classes = list(NAMES)

    def __init__(self, split):
        self._images = images(split)

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        return self._images[index]


def objects(root: Path) -> str:
    module = types.ModuleType("vit_jax_test_shards")
    module.make = lambda: {split: Pairs(split) for split in COUNTS}
    sys.modules[module.__name__] = module
    return f"py:{module.__name__}:make"


FORMS = {
    "parquet": parquets,
    "wds": tars,
    "hf": huggingface,
    "csv": lists,
    "py": objects,
}
