"""A run of everything, killed and run again, ends in the bits of an unbroken one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small

from vit_jax.checkpoints import checkpoint, record

REPOSITORY = Path(__file__).resolve().parent.parent
EVERYTHING = {
    **{"total": "24 steps", "save_every": "4 steps", "log_every": "1 steps"},
    **{"eval_every": "12 steps", "batch_size": 12, "keep": 3, "data.flip": True},
    **{"model.name": "mu/4", "model.depth": 2, "model.unroll": 1},
    **{"model.width": 16, "model.heads": 2, "model.mlp_width": 16},
    **{"model.drop_path": 0.2, "model.patch_dropout": 0.25, "model.dropout": 0.1},
    **{"data.repeats": 3, "data.cache": "none", "data.train.area": "(0.08,1.0)"},
    **{"data.train.color_jitter": "(0.3,)", "data.train.erase": 0.25},
    **{"data.mix.form": "timm", "data.mix.mixup": 0.8, "data.mix.cutmix": 1.0},
    **{"ema": 0.9, "ema_warmup": True, "label_smoothing": 0.1},
    **{"optimizer.name": "lamb", "optimizer.layer_decay": 0.75},
}
# What is measured of it, in metrics.jsonl.
OF_THE_MACHINE = ("images_per_second", "step_seconds", "input_wait", "eta_seconds")
OF_THE_MACHINE += ("wall_time", "memory_bytes", "mfu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Digits, and photographs of classes that these do not have."""
    folder = tmp_path_factory.mktemp("photographs")
    small.photographs(folder / "train", ("cat", "dog"), 5)
    small.photographs(folder / "test", ("cat", "dog"), 2)
    return f"mix:0.7*digits@train[:90%],0.3*folder:{folder}"


def started(workdir, devices, changes):
    flags = [f"--config.{key}={value}" for key, value in (EVERYTHING | changes).items()]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "vit_jax", "train", "--config=quickstart"),
            *(*flags, f"--workdir={workdir}"),
        ],
        env=os.environ
        | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "PYTHONPATH": str(REPOSITORY),
        },
    )


def figures(workdir):
    """What metrics.jsonl has of each step, without times."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [
        {key: value for key, value in line.items() if key not in OF_THE_MACHINE}
        for line in lines
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "devices"),
    [("randaug(2,15)", 1), ("rand-m9-mstd0.5-inc1", 1), ("3a", 4)],
)
def test_a_killed_run_is_the_unbroken_one(policy, devices, dataset, tmp_path):
    """Every figure and each leaf of the last state; devices change the rounding."""
    changes = {"data.dataset": dataset, "data.train.auto_augment": policy}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert started(whole, devices, changes).wait() == 0
    process = started(killed, devices, changes)
    deadline = time.time() + 600
    while time.time() < deadline and not (killed / "checkpoints" / "8").exists():
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "checkpoints" / "24").exists()
    assert started(killed, devices, changes).wait() == 0
    found = figures(whole)
    assert figures(killed) == found
    leaves = record.read(checkpoint.find(whole)).leaves
    assert record.read(checkpoint.find(killed)).leaves == leaves and len(leaves) > 40
    losses = [line["loss"] for line in found if "loss" in line]
    assert len(set(losses)) > 20
    if devices > 1:
        alone = tmp_path / "alone"
        assert started(alone, 1, changes).wait() == 0
        of_one = [line["loss"] for line in figures(alone) if "loss" in line]
        np.testing.assert_allclose(of_one, losses, rtol=1e-4)
