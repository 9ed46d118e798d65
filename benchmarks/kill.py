"""SIGKILL at random moments of a CIFAR-10 run; are the final bits those of a whole run?

    python benchmarks/kill.py --data_dir=DIR [--kills=10] [--steps=1200] [--seed=0]

One run goes through; another is killed `kills` times, each after a time drawn
uniformly up to 1.5 / kills of what the first one took (start-up, compilation, steps,
saves, evaluation), and the same command is given again each time. Every array of the
final checkpoints is compared byte for byte. Prints one line of JSON.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vit_jax import tree
from vit_jax.checkpoints import checkpoint, disk, manager

REPOSITORY = Path(__file__).resolve().parent.parent


def command(arguments: argparse.Namespace, workdir: Path) -> list[str]:
    """The command of one run: small steps, frequent saves, dropout and average on."""
    return [
        *(sys.executable, "-m", "vit_jax.main", "--config=configs/cifar10.py:adam"),
        f"--workdir={workdir}",
        f"--config.data.data_dir={Path(arguments.data_dir).resolve()}",
        f"--config.total={arguments.steps} steps",
        "--config.batch_size=32",
        "--config.save_every=20 steps",
        "--config.log_every=10 steps",
        "--config.eval_every=50%",
        "--config.ema=0.99",
        "--config.model.depth=3",
        "--config.model.dropout=0.1",
        "--config.data.train_split=train[:5000]",
        "--config.evals.test.split=test[:1000]",
    ]


def run(arguments: argparse.Namespace, workdir: Path, seconds: float | None) -> int:
    """Runs the command, killing it after `seconds`; returns its exit code."""
    process = subprocess.Popen(
        command(arguments, workdir),
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def final_arrays(workdir: Path) -> tuple[int, dict[str, np.ndarray]]:
    """The step of the newest checkpoint and its arrays, optimizer and average too."""
    folder = checkpoint.find(workdir)
    items = ("params", "ema", "optimizer")
    trees = {item: disk.read_item(folder, item) for item in items}
    return int(folder.name), dict(tree.named_leaves(trees))


def main() -> None:
    """Runs both and compares."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        start = time.perf_counter()
        assert run(arguments, whole, None) == 0, "the uninterrupted run failed"
        length = time.perf_counter() - start
        kills, code = 0, -9
        while code == -9:
            delay = (
                moments.uniform(0, 0.4 * length) if kills < arguments.kills else None
            )
            code = run(arguments, killed, delay)
            kills += code == -9
            newest = manager.Checkpoints(killed).latest()
            print(f"kill {kills}: exit {code}, newest step {newest}", file=sys.stderr)
        (step, ours), (other, theirs) = final_arrays(killed), final_arrays(whole)
        differing = [
            name
            for name in sorted(ours.keys() | theirs.keys())
            if ours[name].tobytes() != theirs[name].tobytes()
        ]
    result = {"kills": kills, "steps": [step, other], "arrays": len(ours)}
    print(json.dumps(result | {"exit": code, "differing": differing}))
    sys.exit(bool(differing or code or step != other))


if __name__ == "__main__":
    main()
