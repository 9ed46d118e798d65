"""A training step compiled in a process of its own, wholly or up to its memory."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_jax import errors
from vit_jax.parallel import memory
from vit_jax.parallel.memory import Memory
from vit_jax.plan import buffers, hlo, topology

# The compilers write these before they generate code; one that lacks the memory stops
# with the last.
_REPORT = "*after_optimizations-memory-usage-report.txt"
_ASSIGNMENT = "*after_optimizations-buffer-assignment.txt"
_OUT_OF_MEMORY = "*after_optimizations.txt"
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """What to compile.

    Attributes:
        config: Plain nested dict, as `configs/base.py` has it.
        topology: The devices; None: this machine's own.
        fast: Stop before code is generated. For devices that are not there only.
        keep: Folder for what the compiler prints; None: thrown away.
    """

    config: dict[str, Any]
    topology: topology.Topology | None
    fast: bool = False
    keep: Path | None = None


@dataclass(frozen=True)
class Result:
    """What was found out.

    Attributes:
        facts: Of the run before it is compiled, see `facts.of`.
        memory: None where the compiler says nothing.
        module: The optimized program; None where the compiler failed before.
        flops: The compiler's own count, each loop's body once; None in fast mode.
        complete: Whether code was generated.
        out_of_memory: The compiler's message; "" where the program fits.
        seconds: How long compiling took.
    """

    facts: dict[str, Any]
    memory: Memory | None
    module: hlo.Module | None
    flops: float | None
    complete: bool
    out_of_memory: str
    seconds: float


def run(job: Job) -> Result:
    """Compiles a job.

    Raises:
        UserError: the configuration, or the slice, cannot be.
        RuntimeError: the compiler failed for another reason than memory.
    """
    folder = Path(tempfile.mkdtemp(prefix="vit_jax_plan_"))
    try:
        return _run(job, folder)
    finally:
        if job.keep is not None:
            shutil.copytree(folder, job.keep, dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _run(job: Job, folder: Path) -> Result:
    started = time.perf_counter()
    described = {
        "config": job.config,
        "topology": job.topology.name if job.topology else None,
        "slices": job.topology.slices if job.topology else 1,
    }
    (folder / "job.json").write_text(json.dumps(described))
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vit_jax.plan.worker", str(folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(job, folder),
        )
        try:
            _wait(process, folder, _scheduled(job) if job.fast else "")
        finally:
            process.kill()
            process.wait()
    return _result(folder, _scheduled(job), time.perf_counter() - started)


def _scheduled(job: Job) -> str:
    """Pattern of the file with the scheduled program; "": there is none."""
    return job.topology.compiler.scheduled if job.topology else ""


def _environment(job: Job, folder: Path) -> dict[str, str]:
    """Ours, with what makes a compiler write down what it does."""
    environment = dict(os.environ)
    # The worker finds the package wherever the command was started.
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, environment["PYTHONPATH"]] if "PYTHONPATH" in environment else [root]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    if job.topology is None:
        return environment
    given = environment["XLA_FLAGS"].split() if "XLA_FLAGS" in environment else []
    compiler = job.topology.compiler
    flags = [one for one in given if not one.startswith(compiler.foreign)]
    flags += [
        *compiler.flags,
        f"--xla_dump_to={folder}",
        "--xla_dump_hlo_as_text",
        "--xla_dump_hlo_module_re=jit_train_step",
    ]
    return environment | compiler.environment | {"XLA_FLAGS": " ".join(flags)}


def _wait(process: subprocess.Popen, folder: Path, scheduled: str) -> None:
    """Waits for the end, or for the file that a pattern names, if it does."""
    size = 0
    while process.poll() is None:
        time.sleep(_POLL_SECONDS)
        for path in folder.glob(scheduled) if scheduled else ():
            if size == (size := path.stat().st_size) and _is_whole(path):
                return


def _is_whole(path: Path) -> bool:
    """Whether a program has been written to its end, the entry's closing brace."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 16))
        return file.read().endswith(b"\n}\n\n")


def _read(folder: Path, pattern: str) -> str:
    """The text of the one file that matches; "" without one."""
    found = sorted(folder.glob(pattern)) if pattern else []
    return found[0].read_text() if found else ""


def _result(folder: Path, scheduled: str, seconds: float) -> Result:
    error = json.loads(_read(folder, "error.json") or "{}")
    if error and error["user"]:
        raise errors.UserError(error["message"])
    report = _read(folder, _REPORT)
    compiled = json.loads(_read(folder, "compiled.json") or "null")
    wanted = memory.wanted(error["message"]) if error else None
    if wanted is None and not report and compiled is None:
        tail = _read(folder, "log")[-3000:]
        raise RuntimeError(f"the compiler stopped without a result:\n{tail}")
    found = None
    if report:
        found = buffers.dumped(report, _read(folder, _ASSIGNMENT))
    elif compiled and compiled["peak"]:
        found = Memory(compiled["peak"], compiled["arguments"])
    elif wanted:
        found = Memory(wanted, None)
    text = (
        _read(folder, "compiled.hlo")
        or _read(folder, scheduled)
        or _read(folder, _OUT_OF_MEMORY)
    )
    return Result(
        facts=json.loads(_read(folder, "facts.json")),
        memory=found,
        module=hlo.Module(text) if text else None,
        flops=compiled["flops"] if compiled else None,
        complete=compiled is not None,
        out_of_memory=_first_line(error["message"]) if error else "",
        seconds=seconds,
    )


def _first_line(message: str) -> str:
    return re.sub(r"^RESOURCE_EXHAUSTED: (E\d+: )?", "", message).splitlines()[0]
