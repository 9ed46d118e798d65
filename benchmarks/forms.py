"""What an image costs to read from each form of data: CPU-seconds beside ArrayRecord's.

    python benchmarks/forms.py --data_dir=DIR [--rounds=7] [--copies=4]

DIR holds the TFDS dataset imagenet_samples (JPEG photographs). The same bytes are
written as Parquet (without compression as Hugging Face writes images, with Snappy and
with Zstandard as pyarrow does when asked), tar shards and files; each form takes turns
in one process and one thread. "read" is the source alone, in random order, "batches"
the whole of it: read, decode, inception crop to 224 pixels. Prints a table and JSON.
"""

import argparse
import io
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data import catalog, loader, transforms

BATCH = 50


def write(examples: list[Any], root: Path, copies: int) -> dict[str, str]:
    """Writes the examples in every form; returns the names of the datasets."""
    import pyarrow
    from pyarrow import parquet

    images = [{"bytes": one["image"], "path": None} for one in examples] * copies
    labels = [one["label"] for one in examples] * copies
    table = pyarrow.table({"image": images, "label": labels})
    names = {}
    for codec in ("none", "snappy", "zstd"):
        parquet.write_table(
            table, root / f"{codec}.parquet", compression=codec, row_group_size=100
        )
        names[f"parquet, {codec}"] = f"parquet:{root}/{codec}.parquet"
    with tarfile.open(root / "a.tar", "w") as tar:
        for index, (image, label) in enumerate(zip(images, labels)):
            files = ("jpg", image["bytes"]), ("cls", str(label).encode())
            for extension, data in files:
                member = tarfile.TarInfo(f"{index:06d}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    lines = ["file,label"]
    for index, (image, label) in enumerate(zip(images, labels)):
        (root / f"{index:06d}.jpg").write_bytes(image["bytes"])
        lines.append(f"{index:06d}.jpg,{label}")
    (root / "a.csv").write_text("\n".join(lines))
    return names | {"wds": f"wds:{root}/a.tar", "csv": f"csv:{root}/a.csv"}


def reading(source: Any, rng: np.random.Generator) -> Callable[[], int]:
    """One turn: a third of the images, in random order."""

    def turn() -> int:
        order = rng.permutation(len(source))[: len(source) // 3].tolist()
        for index in order:
            source[index]
        return len(order)

    return turn


def batching(source: Any) -> Callable[[], int]:
    """One turn: two batches of the training loader."""
    crop = transforms.make("train", "inception_crop", image_size=224)
    made = loader.train_loader(
        source, crop, batch_size=BATCH, seed=0, threads=1, cache="none"
    )
    steps = iter(range(1 << 30))

    def turn() -> int:
        for _ in range(2):
            made.batch(next(steps))
        return 2 * BATCH

    return turn


def measure(turns: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Microseconds of CPU an image: medians over turns that are taken in a circle."""
    spent: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            began = time.process_time()
            images = turn()
            if number:  # the first opens files and looks at row groups
                spent[name].append((time.process_time() - began) / images * 1e6)
    return {name: statistics.median(values) for name, values in spent.items()}


def main() -> None:
    """Runs both measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="of imagenet_samples")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--copies", type=int, default=4, help="of each photograph")
    options = parser.parse_args()
    record = catalog.open_source("imagenet_samples", "train", data_dir=options.data_dir)
    examples = [record[index] for index in range(len(record))]
    with tempfile.TemporaryDirectory() as scratch:
        names = write(examples, Path(scratch), options.copies)
        sources = {"array_record": record}
        sources |= {name: catalog.open_source(at, "all") for name, at in names.items()}
        rng = np.random.default_rng(0)
        read = measure({n: reading(s, rng) for n, s in sources.items()}, options.rounds)
        batches = measure({n: batching(s) for n, s in sources.items()}, options.rounds)
    print("us of CPU an image | read | of ArrayRecord's | batches | of ArrayRecord's")
    base = "array_record"
    for name in sources:
        print(
            f"  {name:16s} {read[name]:8.1f} {read[name] / read[base]:7.2f}x "
            f"{batches[name]:10.1f} {batches[name] / batches[base]:7.2f}x"
        )
    print(json.dumps({"read_us": read, "batches_us": batches}))


if __name__ == "__main__":
    main()
