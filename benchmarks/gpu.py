"""What one GPU does with vit_jax, in one command of under nine minutes.

    python benchmarks/gpu.py [--out=DIR] [--parts=card,parity] [--minutes=9] [--tiny]

Each part runs in a process of its own with a limit of its own, so that one that fails
or hangs costs the others nothing. Results are appended to DIR/gpu.jsonl as they come,
what a part printed is in DIR/NAME.log, and the tables are printed at the end. A
checkout is enough, with jax[cuda13], flax, optax, orbax-checkpoint, ml-collections,
absl-py, clu, tensorflow-datasets, array_record, google-crc32c, simplejpeg,
opencv-python-headless, Pillow, tensorboardX and rich; torch and timm for the parts
called so. `--data_dir` has the TFDS datasets imagenet_samples (for `loader` and `fed`)
and cifar10.

`--tiny` rehearses everything with models and batches for a CPU.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import gpu_parts as parts  # noqa: E402, beside this file; packages load in its functions


class Part(NamedTuple):
    """A measurement and the seconds it may take."""

    measure: Callable[[argparse.Namespace], dict[str, Any]]
    limit: int
    environment: dict[str, str] = {}


def _step(model: str, batch: int, limit: int = 120, flags: str = "", **model_keys: Any):
    def measure(options: argparse.Namespace) -> dict[str, Any]:
        return parts.step(options, model, batch, **model_keys)

    return Part(measure, limit, {"XLA_FLAGS": flags} if flags else {})


def _timm(model: str, batch: int, limit: int = 150):
    return Part(lambda options: parts.timm(options, model, batch), limit)


def _parity(pixels: int):
    return Part(lambda options: parts.parity(options, pixels), 120)


# What is tried beside the defaults, one flag at a time, on B/16 at 256 images.
FLAGS = (
    "--xla_gpu_enable_triton_gemm=false",
    "--xla_gpu_autotune_level=0",
    "--xla_gpu_enable_command_buffer=",
    "--xla_gpu_enable_latency_hiding_scheduler=true",
    "--xla_gpu_deterministic_ops=true",
)

PARTS: dict[str, Part] = {
    "card": Part(parts.card, 60),
    "step-B16-256": _step("B/16", 256),
    "profile-B16-256": Part(parts.profile, 120),
    "timm-B16-256": _timm("B/16", 256),
    "attention": Part(parts.attention, 90),
    **{f"parity-{pixels}": _parity(pixels) for pixels in (224, 256, 384, 512)},
    "step-L16-128": _step("L/16", 128, 150),
    "fed": Part(parts.fed, 150),
    "loader": Part(parts.loader, 60),
    "step-B16-256-einsum": _step("B/16", 256, attention="einsum"),
    "step-B16-64": _step("B/16", 64),
    "step-B16-512": _step("B/16", 512),
    "step-H14-64": _step("H/14", 64, 240, remat="dots_nb"),
    "timm-L16-128": _timm("L/16", 128, 200),
    "timm-B16-64": _timm("B/16", 64),
    "timm-B16-512": _timm("B/16", 512),
    "timm-H14-64": _timm("H/14", 64, 240),
    **{
        f"flag-{flag.lstrip('-').split('=')[0].removeprefix('xla_gpu_')}": _step(
            "B/16", 256, flags=flag
        )
        for flag in FLAGS
    },
    "cifar10": Part(parts.cifar10, 420),
}


def _run(name: str, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Runs one part in a process of its own; returns its result or its error."""
    part, log = PARTS[name], options.out / f"{name}.log"
    command = [sys.executable, __file__, f"--part={name}", f"--out={options.out}"]
    command += [f"--data_dir={options.data_dir}", *(["--tiny"] if options.tiny else [])]
    environment = os.environ | part.environment
    result = options.out / f"{name}.json"
    result.unlink(missing_ok=True)
    started = time.perf_counter()
    with open(log, "w") as output:
        process = subprocess.Popen(
            *(command,), stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            code = process.wait(min(part.limit, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = "its time was over"
    found = json.loads(result.read_text()) if result.is_file() else None
    result.unlink(missing_ok=True)
    if found is None:
        lines = log.read_text().strip().splitlines()
        found = {"error": f"{code}: {lines[-1][:300] if lines else ''}"}
    return {"part": name, "seconds": round(time.perf_counter() - started, 1)} | found


def main() -> None:
    """Runs the parts that were asked for, in order, while there is time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--parts", default=",".join(p for p in PARTS if p != "cifar10"))
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--data_dir", default=str(ROOT.parent / "shared/data"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part:
        found = PARTS[options.part].measure(options)
        (options.out / f"{options.part}.json").write_text(json.dumps(found))
        return
    names = options.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"parts {unknown} are unknown; known: {', '.join(PARTS)}")
    end = time.perf_counter() + 60 * options.minutes
    for name in names:
        left = end - time.perf_counter()
        if left < 20:
            print(f"no time for {name} and what follows")
            break
        found = _run(name, options, left)
        with open(options.out / "gpu.jsonl", "a") as file:
            file.write(json.dumps(found) + "\n")
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
