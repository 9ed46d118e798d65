"""Compiles one training step: `python -m vit_jax.plan.worker JOB`.

A process of its own, because the TPU compiler has to be stopped before it generates
code where only memory is asked for, and because it may abort. JOB is a folder with
job.json; what is found out is written beside it, see `compiling`.
"""

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from vit_jax import cli, errors, experiment
from vit_jax.host import files as host_files
from vit_jax.parallel import memory
from vit_jax.plan import facts, topology


def _with_tuples(value: Any) -> Any:
    """JSON knows lists only; configurations hold tuples."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _write(path: Path, value: Any) -> None:
    host_files.write_whole(path, json.dumps(value))


def _experiment(job: dict[str, Any]) -> experiment.Experiment:
    config = _with_tuples(job["config"])
    devices = None
    if job["topology"]:
        devices = topology.devices(
            topology.parse(job["topology"], slices=job["slices"])
        )
    return experiment.assemble(config, experiment.make_mesh(config, devices))


def _compile(folder: Path, job: dict[str, Any]) -> None:
    exp = _experiment(job)
    _write(folder / "facts.json", facts.of(exp))
    compiled = exp.train_step.lower(*exp.arguments).compile()
    (folder / "compiled.hlo").write_text(compiled.as_text())
    cost = compiled.cost_analysis() or {}
    found = memory.of_compiled(compiled)
    figures = {
        "flops": cost.get("flops"),
        "peak": found and found.peak,
        "arguments": found and found.arguments,
    }
    _write(folder / "compiled.json", figures)


def main(folder: Path) -> None:
    """Runs the job in a folder; errors are written there too."""
    cli.end_with_parent()
    job = json.loads((folder / "job.json").read_text())
    try:
        _compile(folder, job)
    except errors.UserError as error:
        _write(folder / "error.json", {"user": True, "message": str(error)})
    except Exception as error:
        traceback.print_exc()
        _write(folder / "error.json", {"user": False, "message": str(error)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
