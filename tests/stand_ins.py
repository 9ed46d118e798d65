"""The datasets of real images that tests read, made of four photographs.

They have the names, splits and features of those in `../shared/data`, which are too
large for a repository: views of the photographs in golden/photographs, encoded anew.
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module
from PIL import Image
from test_data_example import bytes_feature, encode, packed_floats, packed_ints
from test_data_records import write_tfrecord

PHOTOGRAPHS = Path(__file__).parent / "golden" / "photographs"
OBJECTS = "airplane automobile bird cat deer dog frog horse ship truck"
CORE = "tensorflow_datasets.core.features"
OTHERS = {"center": "float32", "size": "int64"}  # features beside image and label
WITH_IMAGES = 1000  # of each split of CIFAR-10; no test opens those behind


def write(folder: Path) -> Path:
    """Writes cifar10, imagenet_samples and tfrecord_samples as TFDS does."""
    views = list(_views(250))
    records = [_record(*view) for view in views]
    kind = "array_record"
    directory = folder / "imagenet_samples" / "1.0.0"
    _write(directory, kind, {"train": [records]}, _features(1000))

    rng = np.random.default_rng(1)
    small = [
        _record(_jpeg(_view(rng, 32), 75), int(rng.integers(10)))
        for _ in range(WITH_IMAGES)
    ]
    splits = {
        name: [small + [_record(b"", 0)] * (count - WITH_IMAGES)]
        for name, count in (("train", 50_000), ("test", 10_000))
    }
    directory = folder / "cifar10" / "3.0.2"
    _write(directory, kind, splits, _features(10, "32"))
    (directory / "label.labels.txt").write_text("\n".join(OBJECTS.split()) + "\n")

    tensors = {key: _tensor(kind) for key, kind in OTHERS.items()}
    splits = {
        "train": [_with_others(views[k : k + 16]) for k in (0, 16, 32)],
        "validation": [_with_others(views[k : k + 4]) for k in (48, 52, 56)],
    }
    directory = folder / "tfrecord_samples" / "1.0.0"
    _write(directory, "tfrecord", splits, _features(1000) | tensors)
    return folder


def _photograph(index: int) -> Path:
    paths = sorted(PHOTOGRAPHS.iterdir())
    return paths[index % len(paths)]


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _view(rng: np.random.Generator, size: int = 0) -> Image.Image:
    """A part of a photograph, as it is or in `size`."""
    image = Image.open(_photograph(int(rng.integers(4)))).convert("RGB")
    width, height = (int(rng.integers(n * 3 // 5, n + 1)) for n in image.size)
    left = int(rng.integers(image.width - width + 1))
    top = int(rng.integers(image.height - height + 1))
    image = image.crop((left, top, left + width, top + height))
    return image.resize((size, size)) if size else image


def _views(count: int) -> Iterator[tuple[bytes, int]]:
    """JPEG images and their classes: the four photographs first."""
    rng = np.random.default_rng(0)
    for index in range(count):
        path = _photograph(index)
        if index < 4:
            yield path.read_bytes(), int(path.stem)
        else:
            yield _jpeg(_view(rng), int(rng.integers(70, 96))), index * 4


def _record(image: bytes, label: int, **others: bytes) -> bytes:
    features = {"image": bytes_feature(image), "label": packed_ints(label)}
    return encode(features | others)


def _with_others(views: list[tuple[bytes, int]]) -> list[bytes]:
    """Records with other features beside image and label."""
    records = []
    for image, label in views:
        width, height = Image.open(io.BytesIO(image)).size
        others = {"center": packed_floats(0.5, 0.5), "size": packed_ints(height, width)}
        records.append(_record(image, label, **others))
    return records


def _features(classes: int, side: str = "-1") -> dict[str, Any]:
    shape = {"dimensions": [side, side, "3"]}
    image = {"dtype": "uint8", "encodingFormat": "jpeg", "shape": shape}
    return {
        "image": {"pythonClassName": f"{CORE}.image_feature.Image", "image": image},
        "label": {
            "pythonClassName": f"{CORE}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(classes)},
        },
    }


def _tensor(dtype: str) -> dict[str, Any]:
    tensor = {"dtype": dtype, "encoding": "none", "shape": {"dimensions": ["2"]}}
    return {"pythonClassName": f"{CORE}.tensor_feature.Tensor", "tensor": tensor}


def _write(
    directory: Path,
    kind: str,
    splits: dict[str, list[list[bytes]]],
    features: dict[str, Any],
) -> None:
    """Writes the records of every shard of every split, and what TFDS says of them."""
    name, version = directory.parts[-2:]
    directory.mkdir(parents=True)
    table = []
    for split, shards in splits.items():
        for k, records in enumerate(shards):
            file = f"{name}-{split}.{kind}-{k:05d}-of-{len(shards):05d}"
            WRITERS[kind](directory / file, records)
        table.append(
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "shardLengths": [str(len(records)) for records in shards],
                "numBytes": str(sum(len(r) for records in shards for r in records)),
            }
        )
    pair = [{"featureKey": key} for key in ("image", "label")]
    info = {"name": name, "version": version, "fileFormat": kind, "splits": table}
    info["supervisedKeys"] = {"tuple": {"items": pair}}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    tree = {
        "pythonClassName": f"{CORE}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    (directory / "features.json").write_text(json.dumps(tree))


def _write_array_record(path: Path, records: list[bytes]) -> None:
    out = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        out.write(record)
    out.close()


WRITERS = {"array_record": _write_array_record, "tfrecord": write_tfrecord}
