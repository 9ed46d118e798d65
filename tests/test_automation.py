"""Workflows and hooks name commands, targets and files that are there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vit_jax import __main__ as front

REPOSITORY = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((REPOSITORY / ".github/workflows").glob("*.y*ml"))
TARGETS = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.M)
PROJECT = (REPOSITORY / "pyproject.toml").read_text()


def jobs():
    return [
        pytest.param(job, id=f"{path.stem}-{name}")
        for path in WORKFLOWS
        for name, job in yaml.safe_load(path.read_text())["jobs"].items()
    ]


def commands(job):
    """The shell of each step, what GitHub fills in left out."""
    scripts = [step["run"] for step in job["steps"] if "run" in step]
    return [re.sub(r"\$\{\{.*?\}\}", "FILLED_IN", script) for script in scripts]


def check_command(script):
    for target in re.findall(r"\bmake ([\w./-]+)", script):
        known = (*TARGETS, ".venv/installed", ".venv/installed-test")
        assert target in known, f"make {target}"
    for word in re.findall(r"[\w./-]+", script):
        if word.startswith((".github/", "configs/", "tests/", "benchmarks/")):
            assert (REPOSITORY / word).exists(), word
    for name in re.findall(r"^ *vit_jax (\w+)", script, re.M):
        assert name in front.COMMANDS, name
    for module in re.findall(r"-m (vit_jax[\w.]*)", script):
        assert (REPOSITORY / f"{module.replace('.', '/')}.py").exists(), module


def test_what_has_to_pass_is_run():
    run = "\n".join(script for job in jobs() for script in commands(job.values[0]))
    for wanted in (
        "make lint",
        "make types",
        "make test",
        "make test-slow",
        "-m build",
    ):
        assert wanted in run


@pytest.mark.parametrize("job", jobs())
def test_a_job_runs_what_is_there(job):
    assert job["runs-on"] and job["timeout-minutes"] <= 90
    assert "uses" in job["steps"][0] and commands(job)
    for script in commands(job):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        check_command(script)


def test_jax_is_tested_at_both_ends_of_its_range():
    lowest, end = re.search(r'"jax>=([\d.]+),<([\d.]+)"', PROJECT).groups()
    (workflow,) = WORKFLOWS
    matrix = yaml.safe_load(workflow.read_text())["jobs"]["test"]["strategy"]["matrix"]
    first, last = matrix["jax"]
    assert first == f"jax=={lowest}"
    assert last.endswith(f",<{end}") and last.startswith("jax>=")


def test_hooks_run_what_is_there():
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())
    ruff, local = hooks["repos"]
    least, end = re.search(r'"ruff>=([\d.]+),<([\d.]+)"', PROJECT).groups()
    version = ruff["rev"].removeprefix("v")
    assert ruff["repo"].endswith("ruff-pre-commit")
    assert numbers(least) <= numbers(version) < numbers(end)
    for hook in local["hooks"]:
        check_command(hook["entry"])


def numbers(version):
    return tuple(map(int, version.split(".")))


def test_everything_imports_without_tensorflow_and_torch():
    script = REPOSITORY / ".github/import_all.py"
    done = subprocess.run(
        [sys.executable, str(script), "tensorflow", "torch"],
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 100
