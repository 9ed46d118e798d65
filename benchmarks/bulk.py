"""`python -m benchmarks.bulk [--model=S/16] [--images=320] [--rounds=3]`.

How much slower `vit_jax predict --out=rows.parquet` is than its bare forward pass,
which has its pixels ready. Both run in turns, in one process, with the same compiled
function. Decoding alone is measured beside them, in CPU seconds: where the device is
the CPU itself these come on top, however well they overlap, so that the ratio cannot be
below (forward + decoding) / forward in CPU seconds. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

import vit_jax
from vit_jax.data import preprocessing
from vit_jax.runs.bulk import inputs, job, predictions, tables


def write_photos(folder: Path, count: int) -> None:
    """JPEG files of 500x375 pixels, which are smooth as photographs are."""
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (24, 32, 3), np.uint8)
        image = Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC)
        noisy = np.asarray(image) + rng.normal(0, 8, (375, 500, 3))
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{number:06}.jpg", quality=90)


def write_model(folder: Path, name: str) -> str:
    """A random model, saved as a user does it."""
    model = vit_jax.create_model(name, num_classes=1000)
    wanted = preprocessing.Preprocessing(
        (224, 224), transform="resize_small_crop", resize=256, filter="bilinear"
    )
    vit_jax.save(model, folder, preprocessing=wanted)
    return str(folder)


def both_times(function, *arguments):
    """Wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - wall, time.process_time() - cpu


def forward_all(forward, pixels, batches):
    """The bare forward pass, one batch under way while the last is read."""
    pending = None
    for _ in range(batches):
        values = forward(pixels)
        if pending is not None:
            jax.device_get(pending)
        pending = values
    jax.device_get(pending)


def decode_all(found, transform, pixels):
    """Decoding alone, in this thread."""
    for index in range(len(found)):
        transform(found.content(index), out=pixels[index % len(pixels)])


def run_all(ready, task, found, out):
    """The whole of a command behind loading its checkpoint."""
    encode = tables.Parquet(task.kind, task.count)
    job.run(ready, task, encode, found, out)


def measure(root: Path, options: argparse.Namespace) -> dict:
    """Returns the figures."""
    photos = root / "photos"
    photos.mkdir()
    write_photos(photos, options.images)
    checkpoint = write_model(root / "model", options.model)
    found = inputs.find([str(photos)])
    ready = job.prepare(checkpoint, batch_size=options.batch_size)
    task = predictions.wanted(ready.loaded)
    forward = ready.compiled(task)
    transform = ready.loaded.preprocessing.eval_transform(exif="turn")
    shape = (ready.batch_size, *transform.image_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    batches = -(-options.images // ready.batch_size)
    forward_all(forward, pixels, 1)  # compiles
    decoding = both_times(decode_all, found, transform, pixels)[1]
    bare, bulk = [], []
    for number in range(options.rounds):
        bare.append(both_times(forward_all, forward, pixels, batches))
        out = root / f"{number}.parquet"
        bulk.append(both_times(run_all, ready, task, found, out))
        print(f"round {number}: bare {bare[-1]} bulk {bulk[-1]} s (wall, CPU)")
    ratios = [b[0] / f[0] for b, f in zip(bulk, bare, strict=True)]
    forward_cpu = statistics.median(cpu for _, cpu in bare)
    return {
        "model": options.model,
        "images": options.images,
        "batch_size": ready.batch_size,
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "bare_images_per_second": options.images / min(wall for wall, _ in bare),
        "bulk_images_per_second": options.images / min(wall for wall, _ in bulk),
        "bulk_over_bare": statistics.median(ratios),
        "bulk_over_bare_cpu": statistics.median(b[1] for b in bulk) / forward_cpu,
        "decoding_cpu_ms_per_image": 1000 * decoding / options.images,
        "forward_cpu_ms_per_image": 1000 * forward_cpu / options.images,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="S/16")
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), parser.parse_args())
    rounded = {k: round(v, 4) if type(v) is float else v for k, v in figures.items()}
    print(json.dumps(rounded))


if __name__ == "__main__":
    main()
