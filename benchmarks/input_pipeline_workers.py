"""The pipelines that `input_pipeline.py` compares; each runs as a process of its own.

    python input_pipeline_workers.py NAME DATA_DIR SCRATCH
    python input_pipeline_workers.py machinery:DATASET DATA_DIR ""

Prints "ready", then for every number read from standard input draws so many batches
and prints "images COUNT".
"""

import itertools
import json
import os
import random
import shutil
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data import records, tfrecord

SHARD = "photographs-train.tfrecord-00000-of-00001"
SIZE = 224
BATCH = 128
CIFAR_BATCH = 512
AREA = (0.05, 1.0)
ASPECT = (3 / 4, 4 / 3)
# Batches a turn, in multiples of --batches: so that every turn takes a second or so.
SCALE = {
    "photos_ours": 1,
    "photos_ours_array_record": 1,
    "photos_torch": 1,
    "photos_tf": 1,
    "cifar_ours": 40,
    "cifar_grain_inline": 2,
    "cifar_grain_threads": 1,
    "cifar_crop_ours": 20,
    "cifar_crop_grain_inline": 1,
    "cifar_crop_grain_threads": 1,
}


def write_files(data_dir: str, scratch: Path) -> None:
    """Writes the photographs as JPEG files, and their records as TFDS TFRecord."""
    from vit_jax.data import catalog, tfds

    info = tfds.read_info(Path(data_dir) / "imagenet_samples" / "1.0.0")
    split = info.splits["train"]
    files = records.RecordFiles(info.format, split.paths, split.lengths)
    source = catalog.open_source("imagenet_samples", "train", data_dir=data_dir)
    for index in range(len(source)):
        example = source[index]
        name = f"{example['label']:04d}_{index:04d}.jpg"
        (scratch / name).write_bytes(example["image"])
    folder = scratch / "photographs" / "1.0.0"
    folder.mkdir(parents=True)
    shutil.copy(info.directory / "features.json", folder)
    described = json.loads((info.directory / "dataset_info.json").read_text())
    described |= {"name": "photographs", "fileFormat": "tfrecord"}
    (folder / "dataset_info.json").write_text(json.dumps(described))
    write_tfrecord(folder / SHARD, [files.read(index) for index in range(len(files))])


def write_tfrecord(path: Path, payloads: list[bytes]) -> None:
    """Writes records with their checksums, which tf.data verifies."""
    with open(path, "wb") as file:
        for payload in payloads:
            length = struct.pack("<Q", len(payload))
            file.write(length + _checksum(length) + payload + _checksum(payload))


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", tfrecord.masked_crc32c(data))


def _photos_ours(dataset: str, data_dir: str) -> Iterator[np.ndarray]:
    """Our loader; the flip, which training leaves to the device, added on the host."""
    import cv2

    from vit_jax.data import catalog, loader, transforms

    source = catalog.open_source(dataset, "train", data_dir=data_dir)
    crop = transforms.make(
        "train", "inception_crop", image_size=SIZE, area=AREA, aspect=ASPECT
    )
    rng = np.random.default_rng(0)
    batches = loader.train_loader(source, crop, batch_size=BATCH, seed=0)
    for batch in batches.iterate(0):
        images = batch["image"]
        for row in np.flatnonzero(rng.random(BATCH) < 0.5):
            images[row] = cv2.flip(images[row], 1)
        yield images


class PillowDataset:
    """Files through PIL, transformed as timm's training transform does."""

    def __init__(self, scratch: Path):
        self.files = sorted(scratch.glob("*.jpg"))

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        from PIL import Image

        path = self.files[index % len(self.files)]
        with open(path, "rb") as file:
            image = Image.open(file).convert("RGB")
        kind = random.choice((Image.BILINEAR, Image.BICUBIC))
        image = image.crop(_torch_crop(*image.size)).resize((SIZE, SIZE), kind)
        if random.random() < 0.5:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
        pixels = np.array(image, dtype=np.uint8)
        return np.rollaxis(pixels, 2), int(path.name[:4])


def _torch_crop(width: int, height: int) -> tuple[int, int, int, int]:
    """Torchvision's RandomResizedCrop: (left, upper, right, lower)."""
    log_aspect = np.log(ASPECT)
    for _ in range(10):
        area = random.uniform(*AREA) * width * height
        aspect = np.exp(random.uniform(*log_aspect))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            x, y = random.randint(0, width - w), random.randint(0, height - h)
            return x, y, x + w, y + h
    return 0, 0, width, height


def fast_collate(samples: list[tuple[np.ndarray, int]]) -> Any:
    """Timm's collation into a uint8 batch."""
    import torch

    labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
    images = torch.zeros((len(samples), *samples[0][0].shape), dtype=torch.uint8)
    for row, (pixels, _) in enumerate(samples):
        images[row] += torch.from_numpy(pixels.copy())
    return images, labels


def photos_torch(data_dir: str, scratch: Path) -> Iterator[Any]:
    """Torch DataLoader with one worker process a core."""
    import torch

    torch.set_num_threads(1)
    dataset = PillowDataset(scratch)
    batches = torch.utils.data.DataLoader(
        dataset,
        batch_size=BATCH,
        sampler=iter(_endless(len(dataset.files))),
        num_workers=os.cpu_count(),
        collate_fn=fast_collate,
        drop_last=True,
        persistent_workers=True,
    )
    yield from batches


def _endless(size: int) -> Iterator[int]:
    rng = np.random.default_rng(0)
    while True:
        yield from rng.permutation(size).tolist()


def photos_tf(data_dir: str, scratch: Path) -> Iterator[Any]:
    """tf.data after its performance guide: fused decode and crop, parallel map."""
    import tensorflow as tf

    path = str(scratch / "photographs" / "1.0.0" / SHARD)
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

    def read(record: Any) -> Any:
        example = tf.io.parse_single_example(record, features)
        shape = tf.image.extract_jpeg_shape(example["image"])
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            shape,
            tf.zeros([0, 0, 4], tf.float32),
            area_range=AREA,
            aspect_ratio_range=ASPECT,
            min_object_covered=0,
            use_image_if_no_bounding_boxes=True,
        )
        box = tf.stack([begin[0], begin[1], size[0], size[1]])
        image = tf.image.decode_and_crop_jpeg(example["image"], box, channels=3)
        image = tf.image.resize(image, (SIZE, SIZE), "bilinear")
        image = tf.image.random_flip_left_right(image)
        return image / 127.5 - 1.0, example["label"]

    data = tf.data.TFRecordDataset(path).repeat().shuffle(512)
    data = data.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    data = data.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    yield from data.as_numpy_iterator()


def _cifar(data_dir: str) -> Any:
    """CIFAR-10 decoded into memory, the same arrays for everybody."""
    from vit_jax.data import catalog, loader, sources, transforms

    source = catalog.open_source("cifar10", "train", data_dir=data_dir)
    keep = transforms.make("eval", "none", image_size=32)
    batches = list(loader.eval_loader(source, keep, batch_size=1000))
    images = np.concatenate([batch["image"] for batch in batches])
    labels = np.concatenate([batch["label"] for batch in batches])
    return sources.ArraySource(images, labels, num_classes=10)


def _cifar_ours(data_dir: str, name: str, **params: Any) -> Iterator[np.ndarray]:
    from vit_jax.data import loader, transforms

    transform = transforms.make("train", name, image_size=32, **params)
    batches = loader.train_loader(
        _cifar(data_dir), transform, batch_size=CIFAR_BATCH, seed=0, cache="ram"
    )
    for batch in batches.iterate(0):
        yield batch["image"]


def cifar_ours(data_dir: str, scratch: Path) -> Iterator[np.ndarray]:
    """Whole batches gathered from memory."""
    return _cifar_ours(data_dir, "none")


def cifar_crop_ours(data_dir: str, scratch: Path) -> Iterator[np.ndarray]:
    """The same with padded crops, and the flip on the host."""
    import cv2

    rng = np.random.default_rng(0)
    for images in _cifar_ours(data_dir, "random_crop_pad", pad=4, mode="reflect"):
        rows = np.flatnonzero(rng.random(len(images)) < 0.5)
        # Chosen images one above the other are one image to mirror.
        tall = images[rows].reshape(-1, 32, 3)
        images[rows] = cv2.flip(tall, 1).reshape(-1, 32, 32, 3)
        yield images


def _grain(data_dir: str, crop: bool, threads: int) -> Iterator[Any]:
    import grain

    source = _cifar(data_dir)

    class PadCropFlip(grain.transforms.RandomMap):
        """Per example, as Grain's tutorial does augmentation."""

        def random_map(self, element: Any, rng: np.random.Generator) -> Any:
            image = np.pad(element["image"], ((4, 4), (4, 4), (0, 0)), mode="reflect")
            y, x = rng.integers(0, 9, 2)
            image = image[y : y + 32, x : x + 32]
            if rng.random() < 0.5:
                image = image[:, ::-1]
            return {"image": image, "label": element["label"]}

    data = grain.MapDataset.source(source).seed(0).shuffle().repeat()
    if crop:
        data = data.random_map(PadCropFlip())
    options = grain.ReadOptions(threads, 0 if threads == 0 else 512)
    yield from data.to_iter_dataset(options).batch(CIFAR_BATCH)


def machinery(dataset: str, data_dir: str) -> dict[str, float]:
    """What our loader costs beside decoding, and what seeking costs."""
    from vit_jax.data import catalog, decode, loader, transforms

    crop = transforms.make("train", "inception_crop", image_size=SIZE)

    class Stub:
        """Reads the header and places the crop; decodes nothing."""

        image_size, draws, name = crop.image_size, crop.draws, crop.name

        def __call__(self, image: bytes, uniforms: list[float], out: Any) -> None:
            opened = decode.open_image(image)
            crop.plan(opened.height, opened.width, uniforms)

    source = catalog.open_source(dataset, "train", data_dir=data_dir)
    batches = loader.train_loader(source, Stub(), batch_size=BATCH, seed=0)
    stream = batches.iterate(0)
    next(stream)
    rates, cpu_rates = [], []
    for _ in range(5):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(100):
            next(stream)
        rates.append(100 * BATCH / (time.perf_counter() - wall))
        cpu_rates.append(100 * BATCH / (time.process_time() - cpu))
    seeks = []
    for step in (0, 10**6, 10**9, 10**12):
        wall = time.perf_counter()
        next(batches.iterate(step))
        seeks.append(1e3 * (time.perf_counter() - wall))
    return {
        "images_per_second": statistics.median(rates),
        "images_per_cpu_second": statistics.median(cpu_rates),
        "worst_seek_ms": max(seeks),
    }


PIPELINES: dict[str, Callable[[str, Path], Iterator[Any]]] = {
    "photos_ours": lambda _, scratch: _photos_ours("photographs", str(scratch)),
    "photos_ours_array_record": lambda data_dir, _: _photos_ours(
        "imagenet_samples", data_dir
    ),
    "photos_torch": photos_torch,
    "photos_tf": photos_tf,
    "cifar_ours": cifar_ours,
    "cifar_grain_inline": lambda data_dir, _: _grain(data_dir, False, 0),
    "cifar_grain_threads": lambda data_dir, _: _grain(data_dir, False, 16),
    "cifar_crop_ours": cifar_crop_ours,
    "cifar_crop_grain_inline": lambda data_dir, _: _grain(data_dir, True, 0),
    "cifar_crop_grain_threads": lambda data_dir, _: _grain(data_dir, True, 16),
}


def main() -> None:
    """Serves batches on request."""
    name, data_dir, scratch = sys.argv[1:]
    if name.startswith("machinery:"):
        print(json.dumps(machinery(name.split(":")[1], data_dir)), flush=True)
        return
    stream = PIPELINES[name](data_dir, Path(scratch))
    next(stream)
    print("ready", flush=True)
    for line in sys.stdin:
        images = 0
        for batch in itertools.islice(stream, int(line)):
            images += _count(batch)
        print(f"images {images}", flush=True)
    os._exit(0)


def _count(batch: Any) -> int:
    if isinstance(batch, dict):
        batch = batch["image"]
    return len(batch[0] if isinstance(batch, (tuple, list)) else batch)


if __name__ == "__main__":
    main()
