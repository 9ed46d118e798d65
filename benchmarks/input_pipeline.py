"""Input pipelines side by side: images per CPU-second, memory, seeking.

    python benchmarks/input_pipeline.py --data_dir=DIR [--rounds=5] [--batches=30]

DIR holds the TFDS datasets imagenet_samples (JPEG photographs) and cifar10. Each
pipeline runs in a process of its own; they take turns and are stopped in between, so
they meet the same noise. A turn first draws a few batches untimed, so that it neither
starts on full buffers nor pays for filling them. Figures are medians over the turns of
images / (user + system time of the process tree). A peer that is not installed (torch,
tensorflow, grain) is reported as absent. The last line is JSON.

Photographs: ours and tf.data read the same TFRecord file (ours from ArrayRecord is
shown, too); torch reads files through PIL as timm does (random resized crop, bilinear
or bicubic at random, flip, uint8 collation); tf.data crops while decoding and ends in
float32. CIFAR-10 is in memory for both ours and Grain. Ours flips on the device when
training; here it flips on the host, so that everybody does the same work.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import input_pipeline_workers as workers
import psutil

UNTIMED = 12


@dataclasses.dataclass(frozen=True)
class Contest:
    """Pipelines that do the same work; the first is ours."""

    title: str
    pipelines: tuple[str, ...]


PHOTOS = ("photos_ours", "photos_ours_array_record", "photos_torch", "photos_tf")
CONTESTS = (
    Contest(
        "photographs, 224 px",
        ("photos_ours", "photos_ours_array_record", "photos_torch", "photos_tf"),
    ),
    Contest("CIFAR-10", ("cifar_ours", "cifar_grain_inline", "cifar_grain_threads")),
    Contest(
        "CIFAR-10, pad + crop + flip",
        ("cifar_crop_ours", "cifar_crop_grain_inline", "cifar_crop_grain_threads"),
    ),
)
NEEDS = {"torch": "torch", "tf": "tensorflow", "grain": "grain"}


class Worker:
    """A pipeline in a process of its own, stopped except during its turn."""

    def __init__(
        self, name: str, data_dir: str, scratch: str, script: str = workers.__file__
    ):
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, script, name, data_dir, scratch],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"},
        )
        self._tree = psutil.Process(self._process.pid)
        self.rates: list[float] = []
        self.wall: list[float] = []
        self.memory = 0
        self._expect("ready")
        self._signal(signal.SIGSTOP)

    def _expect(self, start: str) -> str:
        for line in self._process.stdout:
            if line.startswith(start):
                return line
        raise RuntimeError(f"{self.name} ended with code {self._process.wait()}")

    def _members(self) -> list[psutil.Process]:
        return [self._tree, *self._tree.children(recursive=True)]

    def _signal(self, number: int) -> None:
        for member in self._members():
            member.send_signal(number)

    def _cpu(self) -> float:
        times = [member.cpu_times() for member in self._members()]
        return sum(one.user + one.system for one in times)

    def _draw(self, batches: int) -> int:
        self._process.stdin.write(f"{batches}\n")
        self._process.stdin.flush()
        return int(self._expect("images").split()[1])

    def turn(self, batches: int) -> None:
        """Lets the pipeline run for so many batches and notes its figures."""
        self._signal(signal.SIGCONT)
        self._draw(UNTIMED)
        cpu, wall = self._cpu(), time.perf_counter()
        images = self._draw(batches)
        self.wall.append(images / (time.perf_counter() - wall))
        self.rates.append(images / (self._cpu() - cpu))
        memory = sum(member.memory_full_info().pss for member in self._members())
        self.memory = max(self.memory, memory)
        self._signal(signal.SIGSTOP)

    def close(self) -> None:
        """Ends the process and its children."""
        members = self._members()
        self._signal(signal.SIGCONT)
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            for member in members:
                member.kill()

    def figures(self) -> dict[str, float]:
        """Medians over the turns."""
        return {
            "images_per_cpu_second": statistics.median(self.rates),
            "images_per_second": statistics.median(self.wall),
            "peak_pss_mb": self.memory / 2**20,
        }


def absent(name: str) -> bool:
    """Whether the pipeline needs a package that is not installed."""
    needs = [module for part, module in NEEDS.items() if part in name.split("_")]
    return any(importlib.util.find_spec(module) is None for module in needs)


def compete(contest: Contest, options: argparse.Namespace, scratch: str) -> dict:
    """Runs one contest and prints its table; returns figures by pipeline."""
    running = [
        Worker(name, options.data_dir, scratch)
        for name in contest.pipelines
        if not absent(name)
    ]
    try:
        for _ in range(options.rounds):
            for worker in running:
                worker.turn(options.batches * workers.SCALE[worker.name])
        table = {worker.name: worker.figures() for worker in running}
    finally:
        for worker in running:
            worker.close()
    ours = table[contest.pipelines[0]]["images_per_cpu_second"]
    print(f"\n{contest.title}: images/CPU-s | ours is | images/s | peak PSS MB")
    for name in contest.pipelines:
        if name not in table:
            print(f"  {name:26s} absent")
            continue
        row = table[name]
        rate = row["images_per_cpu_second"]
        print(
            f"  {name:26s} {rate:10.0f} {ours / rate:8.2f}x "
            f"{row['images_per_second']:10.0f} {row['peak_pss_mb']:8.0f}"
        )
    return table


def measure_machinery(dataset: str, data_dir: str) -> dict[str, float]:
    """Our loader without decoding, in a process of its own."""
    command = [sys.executable, workers.__file__, f"machinery:{dataset}", data_dir, ""]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    print(f"\nours without decoding, {dataset}:")
    for name, value in figures.items():
        print(f"  {name:26s} {value:10.1f}")
    return figures


def summarise(tables: dict[str, dict]) -> dict[str, float]:
    """The ratios that the project promises."""
    rate = {name: row["images_per_cpu_second"] for name, row in tables.items()}
    ratios = {}
    for peer in ("photos_torch", "photos_tf"):
        if peer in rate:
            ratios[f"{peer}_times"] = rate["photos_ours"] / rate[peer]
            memory = tables[peer]["peak_pss_mb"]
            ratios[f"{peer}_memory_share"] = (
                tables["photos_ours"]["peak_pss_mb"] / memory
            )
    for kind in ("cifar", "cifar_crop"):
        for peer in (f"{kind}_grain_inline", f"{kind}_grain_threads"):
            if peer in rate:
                ratios[f"{peer}_times"] = rate[f"{kind}_ours"] / rate[peer]
    return ratios


def main() -> None:
    """Runs everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="of the TFDS datasets")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="part of a contest's title")
    parser.add_argument("--batches", type=int, default=30, help="of 128, a turn")
    options = parser.parse_args()
    tables: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as scratch:
        workers.write_files(options.data_dir, Path(scratch))
        for contest in CONTESTS:
            if options.only in contest.title:
                tables |= compete(contest, options, scratch)
        machinery = {
            "tfrecord": measure_machinery("photographs", scratch),
            "array_record": measure_machinery("imagenet_samples", options.data_dir),
        }
    summary = summarise(tables)
    print(json.dumps({"pipelines": tables, "machinery": machinery, "ratios": summary}))


if __name__ == "__main__":
    main()
