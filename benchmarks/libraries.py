"""What we read ourselves, beside a library that reads it too: time and memory.

    python benchmarks/libraries.py [--mib=300]

A `.safetensors` file of that size, tensor by tensor: our reader and the library's
`safe_open`, each in a process of its own, from the disk (the pages of the file put out
of memory before) and from memory, and by how much the process's largest size grows.
Then `tf.train.Example` records of CIFAR's and of photographs' size.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vit_jax.data import example
from vit_jax.weights.formats import safetensors

ROUNDS = 5
TENSOR = (1024, 1024)  # 4 MiB


def _ours(path: Path) -> None:
    with safetensors.open(path) as tensors:
        for name in tensors.names:
            tensors.read(name)


def _library(path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as tensors:
        for name in tensors.keys():
            tensors.get_tensor(name)


def _forget(path: Path) -> None:
    """Puts a file's pages out of memory."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def _timed(read: Callable[[Path], None], path: Path, cold: bool) -> float:
    seconds = []
    for _ in range(ROUNDS):
        if cold:
            _forget(path)
        start = time.perf_counter()
        read(path)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _largest() -> int:
    """The largest size that this process has had, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) // 1024


def _measure(name: str, path: Path) -> None:
    read = {"ours": _ours, "safe_open": _library}[name]
    before = _largest()
    cold, warm = _timed(read, path, True), _timed(read, path, False)
    grown = _largest() - before
    print(f"{name:10} disk {cold:.3f} s, memory {warm:.3f} s, grows {grown} MiB")


def _records() -> None:
    for size in (3072, 110_000):
        payload = np.random.default_rng(0).bytes(size)
        record = _delimited(10, _feature("image", payload) + _feature("id", b"7"))
        start = time.perf_counter()
        for _ in range(10_000):
            example.parse(record, frozenset({"image"}))
        took = (time.perf_counter() - start) / 10_000
        print(f"a record of {size} bytes: {took * 1e6:.1f} us")


def _feature(name: str, value: bytes) -> bytes:
    content = _delimited(10, _delimited(10, value))
    return _delimited(10, _delimited(10, name.encode()) + _delimited(18, content))


def _delimited(tag: int, content: bytes) -> bytes:
    length, size = b"", len(content)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([tag]) + length + bytes([size]) + content


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=300)
    arguments = parser.parse_args()
    from safetensors.numpy import save_file

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        arrays = {f"t{i}": np.ones(TENSOR, np.float32) for i in range(8)}
        count = arguments.mib // 4
        save_file({f"t{i}": arrays[f"t{i % 8}"].copy() for i in range(count)}, file)
        for contestant in ("ours", "safe_open"):
            process = multiprocessing.get_context("spawn").Process(
                target=_measure, args=(contestant, file)
            )
            process.start()
            process.join()
    _records()
