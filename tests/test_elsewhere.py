"""Models load and predict where Unix's modules, calls and signals are missing."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vit_jax import host, predict
from vit_jax.host import files

SCRIPT = """
import json, os, signal, sys
import absl.app, flax.nnx, jax, multiprocessing, numpy, optax, PIL.Image, psutil, clu
import orbax.checkpoint, concurrent.futures, tempfile, asyncio, subprocess
import clu.metrics, ml_collections.config_flags, cv2, simplejpeg
sys.modules |= dict.fromkeys(["fcntl", "resource", "pwd", "grp", "termios"])
for module, names in {
    os: "pread preadv sched_getaffinity sysconf fork getuid killpg O_CLOEXEC",
    signal: "SIGALRM SIGKILL SIGHUP SIGUSR1 SIGUSR2 setitimer pthread_kill",
}.items():
    for name in names.split():
        delattr(module, name)

import vit_jax
from vit_jax import host, main, predict
from vit_jax.data import records
from vit_jax.parallel import hardware
from vit_jax.weights.remote import cache

path, image, folder = sys.argv[1:]
model = vit_jax.create_model("mu/16", num_classes=5, image_size=32)
state = jax.tree.map(
    lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(0), leaf.shape),
    flax.nnx.state(model),
)
flax.nnx.update(model, state)
vit_jax.save(model, path)
loaded = vit_jax.load(path)
figures = predict.run(path, [image])
from vit_jax import convert
convert.run(path, folder, "timm")
again = predict.run(folder, [image])
with cache.alone(__import__("pathlib").Path(folder)):
    pass
assert host.total_memory() > 2**20
assert hardware.host_memory() == 0 and records.open_file_budget(9) == 9
print(json.dumps([figures, again]))
"""


@pytest.mark.slow
def test_a_model_loads_and_predicts_without_what_unix_alone_has(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    image = tmp_path / "cat.png"
    Image.fromarray(pixels).save(image)
    paths = [tmp_path / "ours", image, tmp_path / "theirs"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, paths)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(done.stdout.splitlines()[-1])
    for path, found in ((paths[0], ours), (paths[2], theirs)):
        (here,) = predict.run(str(path), [str(image)])
        wanted = {entry["label"]: entry["probability"] for entry in here["top"]}
        got = {entry["label"]: entry["probability"] for entry in found[0]["top"]}
        assert len(set(wanted.values())) == 5
        assert got == pytest.approx(wanted, abs=1e-5)


def test_reading_is_the_same_with_one_position_a_file(tmp_path, monkeypatch):
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(100)))
    descriptor = files.open_to_read(path)

    def read():
        buffer = memoryview(bytearray(30))
        got = files.read_into(buffer, descriptor, 80)
        return files.read_at(descriptor, 10, 5), got, bytes(buffer)

    wanted = read()
    assert wanted == (bytes(range(5, 15)), 20, bytes(range(80, 100)) + bytes(10))
    for name in ("pread", "preadv"):
        monkeypatch.delattr(os, name)
    assert read() == wanted
    os.close(descriptor)


def test_limits_are_left_alone_where_nothing_says_them(monkeypatch):
    assert host.peak_memory() > 2**20
    for module in (host, files):
        monkeypatch.setattr(module, "resource", None)
    assert host.peak_memory() == 0
    assert files.raise_open_files(2**20) is None
