"""Augmentation on the host side by side: CPU time of an image, in one run.

    python benchmarks/augmentation.py --data_dir=DIR [--rounds=5] [--write]

DIR holds the TFDS dataset imagenet_samples (1,000 JPEG photographs). Each pipeline runs
in a process of its own; they take turns and are stopped in between, as in
`input_pipeline`. A figure is the median over the turns of CPU time (user and system of
the process tree) over images: decoding, a crop of 5 to 100 % to 224 px, a flip, what
the row says, and a batch of 128. timm is its own transform (`create_transform`) on PIL
and its collation, in a torch DataLoader with a process a core; tf.data cuts while it
decodes, applies big_vision's operations (`augment_tensorflow`) to uint8 and goes to
floats. A peer that is not installed is reported as absent. `--write` replaces
`benchmarks/augmentation.md`; the last line is JSON.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import input_pipeline as turns
import input_pipeline_workers as peers
import numpy as np

HERE = Path(__file__).parent
BIG_VISION, TIMM = "randaug(2,15)", "rand-m9-mstd0.5-inc1"
JITTER = (0.3, 0.3, 0.3)
PLAIN = {
    **{"auto_augment": "", "color_jitter": (), "erase": 0.0, "erase_mode": "pixel"},
    **{"erase_count": 1, "filter": "", "area": peers.AREA, "aspect": peers.ASPECT},
}
# What each pipeline of ours is asked for.
OURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours_big_vision": {"auto_augment": BIG_VISION},
    "ours_timm": {"auto_augment": TIMM},
    "ours_timm_erase": {"auto_augment": TIMM, "erase": 0.25},
    "ours_three": {"auto_augment": "3a", "color_jitter": JITTER},
    "ours_bicubic": {"filter": "bicubic"},
    "ours_timm_bicubic": {"filter": "bicubic", "auto_augment": TIMM},
}


def _ours(scratch: Path, **asked: Any) -> Iterator[np.ndarray]:
    """Our loader; the flip, which training leaves to the device, added on the host."""
    import cv2

    from vit_jax.data import catalog, loader, training

    source = catalog.open_source("photographs", "train", data_dir=str(scratch))
    transform = training.train_transform(
        *((peers.SIZE, peers.SIZE),),
        transform="inception_crop",
        exif="turn",
        mean=(123.7, 116.3, 103.5),
        std=(58.4, 57.1, 57.4),
        **(PLAIN | asked),
    )
    rng = np.random.default_rng(0)
    batches = loader.train_loader(source, transform, batch_size=peers.BATCH, seed=0)
    for batch in batches.iterate(0):
        images = batch["image"]
        for row in np.flatnonzero(rng.random(peers.BATCH) < 0.5):
            images[row] = cv2.flip(images[row], 1)
        yield images


class TimmDataset:
    """Files through PIL and timm's training transform."""

    def __init__(self, scratch: Path, auto_augment: str | None):
        from timm.data import auto_augment as operations
        from timm.data import create_transform

        # Pillow refuses no bits since version 12, for which timm may ask.
        name = "PosterizeIncreasing"
        posterize = operations.NAME_TO_OP[name]
        operations.NAME_TO_OP[name] = lambda image, bits, **options: posterize(
            image, max(1, bits), **options
        )
        self.files = sorted(scratch.glob("*.jpg"))
        self.transform = create_transform(
            input_size=peers.SIZE,
            is_training=True,
            use_prefetcher=True,
            scale=peers.AREA,
            ratio=peers.ASPECT,
            color_jitter=None,
            auto_augment=auto_augment,
            interpolation="bicubic",
        )

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        path = self.files[index % len(self.files)]
        with open(path, "rb") as file:
            image = Image.open(file).convert("RGB")
        return self.transform(image), int(path.name[:4])


def _timm(scratch: Path, auto_augment: str | None) -> Iterator[Any]:
    import torch
    from timm.data import loader

    torch.set_num_threads(1)
    dataset = TimmDataset(scratch, auto_augment)
    yield from torch.utils.data.DataLoader(
        dataset,
        batch_size=peers.BATCH,
        sampler=iter(peers._endless(len(dataset.files))),
        num_workers=os.cpu_count(),
        collate_fn=loader.fast_collate,
        drop_last=True,
        persistent_workers=True,
    )


def _tf(scratch: Path, layers: int, level: float) -> Iterator[Any]:
    import augment_tensorflow
    import tensorflow as tf

    path = str(scratch / "photographs" / "1.0.0" / peers.SHARD)
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
            area_range=peers.AREA,
            aspect_ratio_range=peers.ASPECT,
            min_object_covered=0,
            use_image_if_no_bounding_boxes=True,
        )
        box = tf.stack([begin[0], begin[1], size[0], size[1]])
        image = tf.image.decode_and_crop_jpeg(example["image"], box, channels=3)
        image = tf.image.resize(image, (peers.SIZE, peers.SIZE), "bilinear")
        image = tf.image.random_flip_left_right(tf.cast(image, tf.uint8))
        image = augment_tensorflow.randaugment(image, layers, level)
        return tf.cast(image, tf.float32) / 127.5 - 1.0, example["label"]

    data = tf.data.TFRecordDataset(path).repeat().shuffle(512)
    data = data.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    data = data.batch(peers.BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    yield from data.as_numpy_iterator()


PIPELINES: dict[str, Callable[[Path], Iterator[Any]]] = {
    **{
        name: lambda scratch, asked=asked: _ours(scratch, **asked)
        for name, asked in OURS.items()
    },
    "peer_torch": lambda scratch: _timm(scratch, None),
    "peer_timm_torch": lambda scratch: _timm(scratch, TIMM),
    "peer_tf": lambda scratch: _tf(scratch, 0, 0.0),
    "peer_big_vision_tf": lambda scratch: _tf(scratch, 2, 15.0),
}
# Rows of the table: a pipeline, what it does, and beside which its time is put.
ROWS = (
    ("ours", "decode and crop, bilinear as TensorFlow's", ()),
    ("ours_big_vision", f"+ `{BIG_VISION}`", ("ours", "peer_big_vision_tf")),
    ("ours_timm", f"+ `{TIMM}`", ("ours", "peer_timm_torch")),
    ("ours_timm_erase", f"+ `{TIMM}`, erasing 0.25", ("ours", "peer_timm_torch")),
    ("ours_three", "+ `3a`, jitter 0.3", ("ours",)),
    ("ours_bicubic", "decode and crop, bicubic as Pillow's", ()),
    (
        *("ours_timm_bicubic", f"+ `{TIMM}`, bicubic"),
        ("ours_bicubic", "peer_timm_torch"),
    ),
    ("peer_torch", "timm: decode and crop, bicubic", ()),
    ("peer_timm_torch", f"timm: + `{TIMM}`", ("peer_torch",)),
    ("peer_tf", "tf.data: decode and crop", ()),
    ("peer_big_vision_tf", f"tf.data: + `{BIG_VISION}`", ("peer_tf",)),
)


def serve(name: str, scratch: Path) -> None:
    """Draws batches on request, as `input_pipeline_workers` does."""
    stream = PIPELINES[name](scratch)
    next(stream)
    print("ready", flush=True)
    for line in sys.stdin:
        images = sum(map(peers._count, itertools.islice(stream, int(line))))
        print(f"images {images}", flush=True)
    os._exit(0)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of CPU an image, by pipeline."""
    with tempfile.TemporaryDirectory() as scratch:
        peers.write_files(options.data_dir, Path(scratch))
        running = [
            turns.Worker(name, options.data_dir, scratch, script=__file__)
            for name in PIPELINES
            if not turns.absent(name)
        ]
        try:
            for number in range(options.rounds):
                for worker in running:
                    worker.turn(options.batches)
                print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            return {w.name: 1e3 / statistics.median(w.rates) for w in running}
        finally:
            for worker in running:
                worker.close()


def table(times: dict[str, float]) -> list[str]:
    """Markdown."""
    lines = ["| pipeline | ms of CPU an image | images per CPU-second | beside |"]
    lines.append("|---|---|---|---|")
    for name, said, beside in ROWS:
        if name not in times:
            lines.append(f"| {said} | absent | | |")
            continue
        shown = []
        for other in (one for one in beside if one in times):
            ratio = times[name] / times[other]
            if other.startswith("peer") and name.startswith("ours"):
                code = "timm" if "timm" in other else "tf.data"
                shown.append(f"{1 / ratio:.2f} times the images of {code}")
            else:
                shown.append(f"{ratio:.2f} times the time without")
        time = times[name]
        lines.append(
            f"| {said} | {time:.2f} | {1e3 / time:,.0f} | {', '.join(shown)} |"
        )
    return lines


def write(lines: list[str]) -> None:
    """Replaces the committed table, and leaves what follows it."""
    said = "\n\n".join(__doc__.strip().split("\n\n")[2:]).split(" `--write`")[0]
    versions = []
    for module in ("cv2", "PIL", "timm", "torch", "tensorflow"):
        try:
            versions.append(f"{module} {__import__(module).__version__}")
        except ImportError:
            continue
    text = (
        "# Augmentation on the host beside timm's and tf.data's\n\n"
        "`python benchmarks/augmentation.py --data_dir=DIR --write` "
        f"({', '.join(versions)})\n\n{said}\n\n" + "\n".join(lines) + "\n"
    )
    table_file = HERE / "augmentation.md"
    _, mark, others = table_file.read_text().partition("\n## ")
    table_file.write_text(text + mark + others)


def main() -> None:
    """Measures everything, or serves as one pipeline."""
    if len(sys.argv) == 4 and sys.argv[1] in PIPELINES:
        serve(sys.argv[1], Path(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="of the TFDS dataset")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=10, help="of 128, a turn")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    times = measure(options)
    lines = table(times)
    print("\n".join(lines))
    if options.write:
        write(lines)
    print(json.dumps({"milliseconds": times}))


if __name__ == "__main__":
    main()
