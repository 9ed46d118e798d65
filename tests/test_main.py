"""The command line as users meet it: separate processes, their output and exit code."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vit_jax import tree
from vit_jax.checkpoints import checkpoint, manager

REPOSITORY = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
SMALL = (
    "--config=configs/quickstart.py",
    "--config.total=60 steps",
    "--config.log_every=5 steps",
    "--config.eval_every=",
    "--config.save_every=10 steps",
    "--config.ema=0.9",
    "--config.model.depth=2",
    "--config.model.width=32",
    "--config.model.mlp_width=64",
)


def command(*arguments):
    return [sys.executable, "-m", "vit_jax.main", *arguments]


def call(*arguments):
    return subprocess.run(
        command(*arguments),
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )


PRINT = ("--print_config",)
# A few in processes of their own; test_mistakes.py has them all.
BAD = {
    "unknown key": (
        ["--config=configs/vit_b16.py", "--config.optimizer.lrr=1"],
        'Did you mean "optimizer.lr"?',
    ),
    "no config": ([], "--config=configs/vit_b16.py"),
    "no dataset": (
        ["--config=configs/vit_b16.py", "--config.data.data_dir=."],
        "--config.data.dataset=digits",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_short_error(name, tmp_path):
    arguments, words = BAD[name]
    result = call(*arguments, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2, result.stderr
    errors_ = result.stderr[result.stderr.index("error: ") :]
    assert words in errors_
    assert "Traceback" not in result.stderr
    assert len(errors_.splitlines()) <= 10
    assert not (tmp_path / "run").exists()


def test_print_config_resolves_and_stops(tmp_path):
    removed = "--config.evals.val=none"
    result = call("--config=configs/vit_b16.py:i21k", removed, *PRINT)
    assert result.returncode == 0
    flags = result.stdout.splitlines()
    assert flags[0] == "--config=configs/vit_b16.py:i21k"
    assert "--config.total='90 epochs'" in flags
    assert "--config.model.name=B/16" in flags
    assert not any(flag.startswith("--config.evals.val") for flag in flags)
    words = [word for flag in flags for word in shlex.split(flag)]  # as a shell reads
    again = call(*words, *PRINT)
    assert again.stdout == result.stdout, "what is printed can be pasted"
    (tmp_path / "flags").write_text("\n".join(words))
    filed = call(f"--flagfile={tmp_path / 'flags'}", *PRINT)
    assert filed.stdout == result.stdout, "a flag file may name the recipe"


@pytest.mark.slow
def test_killed_anywhere_ends_in_the_same_bits(tmp_path):
    """SIGKILL at random moments, the same command again; then it says it is done."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result = call(*SMALL, f"--workdir={whole}")
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout.splitlines()[-1])
    moments = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(
            command(*SMALL, f"--workdir={killed}"),
            cwd=REPOSITORY,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_for_steps(killed, moments.randint(1, 25))
        process.send_signal(signal.SIGKILL)
        process.wait()
    result = call(*SMALL, f"--workdir={killed}")
    assert result.returncode == 0, result.stderr
    again = json.loads(result.stdout.splitlines()[-1])
    assert again | {"workdir": ""} == figures | {"workdir": ""}
    for (name, a), (_, b) in zip(
        tree.named_leaves(checkpoint.read_params(whole)[0]),
        tree.named_leaves(checkpoint.read_params(killed)[0]),
        strict=True,
    ):
        assert a.tobytes() == b.tobytes(), name
    done = call(*SMALL, f"--workdir={killed}")
    assert done.returncode == 0
    assert "done:" in done.stderr


def _wait_for_steps(workdir, more):
    """Until `more` lines beyond those already there are in metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    start = len(path.read_text().splitlines()) if path.exists() else 0
    deadline = time.time() + 120
    while time.time() < deadline:
        if path.exists() and len(path.read_text().splitlines()) >= min(
            start + 1 + more // 5, 10
        ):
            return
        time.sleep(0.01)


@pytest.mark.slow
def test_sigterm_saves_and_asks_to_be_run_again(tmp_path):
    process = subprocess.Popen(
        command(*SMALL, "--config.total=2000 steps", f"--workdir={tmp_path}"),
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_for_steps(tmp_path, 5)
    process.send_signal(signal.SIGTERM)
    _, errors_ = process.communicate(timeout=120)
    assert process.returncode == 42, errors_
    assert "Run the same command again" in errors_
    newest = manager.Checkpoints(tmp_path).latest()
    assert newest is not None and newest >= 5
