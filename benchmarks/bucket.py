"""Saves of a training state in a bucket and on a disk: time, and requests.

    pip install 'vit_jax[gcs]'; python benchmarks/bucket.py [--model=S/16] [--saves=4]

The bucket is the tests' stand-in for Google Cloud Storage, in this process, with
everything in memory: its requests are those that a real one would get, its times leave
out the network. Prints a table, and one line of JSON.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

import buckets
import jax
import jax.numpy as jnp
from flax import nnx

import vit_jax
from vit_jax import models
from vit_jax.checkpoints import checkpoint, manager
from vit_jax.data import preprocessing
from vit_jax.host import files
from vit_jax.types import TrainState


def state_of(architecture: models.Architecture) -> TrainState:
    """Returns parameters, Adam's two moments, and an average."""
    model = models.create(architecture, rngs=nnx.Rngs(0))
    params = models.split(model)[1]
    moments = {name: jax.tree.map(jnp.ones_like, params) for name in ("mu", "nu")}
    return TrainState(jnp.int32(1), params, moments, jax.tree.map(jnp.copy, params))


def saves(
    where: str, state: TrainState, architecture: models.Architecture, count: int
) -> list[tuple[float, float]]:
    """Returns seconds that each save blocks for, and until it is there."""
    size = list(architecture.image_size)
    prepared = preprocessing.Preprocessing.from_dict({"image_size": size})
    saved = manager.Checkpoints(files.folder(where))
    found = []
    for step in range(1, count + 1):
        described = checkpoint.Description(architecture, prepared, None, {}, step)
        began = time.perf_counter()
        saved.save(state, described)
        blocked = time.perf_counter() - began
        saved._open().wait_until_finished()
        found.append((blocked, time.perf_counter() - began))
    saved.close()
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="S/16")
    parser.add_argument("--saves", type=int, default=4)
    given = parser.parse_args()
    architecture = models.architecture(given.model, num_classes=1000, image_size=224)
    state = state_of(architecture)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    with buckets.served("bucket") as server, tempfile.TemporaryDirectory() as disk:
        os.environ.update(server.environment)
        on_disk = saves(disk, state, architecture, given.saves)
        in_bucket = saves("gs://bucket/run", state, architecture, given.saves)
        requests = server.counts.total()
        began = time.perf_counter()
        vit_jax.load("gs://bucket/run")
        load = time.perf_counter() - began, server.counts.total() - requests
    print(f"| {size / 1e6:,.0f} MB | blocks, s | there after, s |\n|---|---|---|")
    rows = {"disk": on_disk, "bucket": in_bucket}
    for name, times in rows.items():  # the first opens and compiles
        blocked, done = (sorted(column)[len(column) // 2] for column in zip(*times[1:]))
        print(f"| {name} | {blocked:.2f} | {done:.2f} |")
    told = {"requests a save": requests // given.saves, "requests of a load": load[1]}
    print(json.dumps(told | {"seconds of a load": round(load[0], 2)}))


if __name__ == "__main__":
    main()
