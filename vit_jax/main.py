"""`vit_jax train --config=configs/vit_b16.py [--config.KEY=VALUE ...]`.

Parses the flags and starts the run, alone or as one of several processes: on SLURM,
GKE and Cloud TPU VMs by itself, elsewhere with --coordinator, --processes, --process.
Exit codes: 0 done, 2 bad input, 4 the loss is not finite, 42 run the same command
again (stopped with its state saved, or another process was lost).
"""

if __name__ == "__main__":  # a signal is answered from here on
    from vit_jax.runs import stopping

    stopping.stand()

import contextlib
import hashlib
import logging
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from vit_jax import cli, errors
from vit_jax.host import files
from vit_jax.runs import distributed, stopping, watchdog
from vit_jax.settings import packaged, recipe, validation

_CONFIG = recipe.define_flag("configs/vit_b16.py:i21k")
flags.declare_key_flag("config")
flags.declare_key_flag("config_json")
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Checkpoints and logs; workdirs/NAME_OF_THE_CONFIG by default."
)
_PRINT_CONFIG = flags.DEFINE_bool(
    "print_config", False, "Show the resolved configuration, as flags, and stop."
)
_PARAMETERS = flags.DEFINE_bool(
    "parameters", False, "List every parameter, in place of a summary."
)
_PROFILE = flags.DEFINE_bool(
    "profile", False, "Trace a few steps into WORKDIR/profile."
)
_ON_STORAGE_ERROR = flags.DEFINE_enum(
    "on_storage_error",
    "stop",
    ["stop", "continue"],
    "Where nothing can be written: end, or try again.",
)
distributed.define_flags()
watchdog.define_flags()
for _module in (distributed, watchdog):
    flags.adopt_module_key_flags(_module)  # so that --help lists them


def default_workdir(config_path: str) -> Path:
    """Returns `workdirs/vit_b16-i21k` for `configs/vit_b16.py:i21k`."""
    file, _, argument = config_path.removeprefix(packaged.JSON).partition(":")
    name = Path(file).stem + (f"-{argument}" if argument else "")
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "_", name)
    if len(name) > 200:  # file systems take 255 bytes; a path may be the argument
        name = f"{name[:180]}-{hashlib.sha1(name.encode()).hexdigest()[:12]}"
    return Path("workdirs") / name


def as_flags(config: Mapping[str, Any]) -> list[str]:
    """Returns a nested configuration as words to paste behind a command in a shell.

    Evaluations are all of them: what a recipe has beside them is taken away.
    """
    from vit_jax.settings import evals_flags

    return [
        f"--config.evals={evals_flags.NONE}",
        *(
            f"--config.{key}={shlex.quote(str(value))}"
            for key, value in validation.flatten(config).items()
        ),
    ]


def _main(argv: list[str]) -> int:
    """The way to the update: here, `train.run`, its loop, `exp.train_step`."""
    del argv
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    if _PRINT_CONFIG.value:
        print("\n".join([f"--config={path}", *as_flags(_CONFIG.value.to_dict())]))
        return errors.EXIT_DONE
    workdir = _WORKDIR.value or default_workdir(path)
    validation.check_workdir(workdir, "--workdir")
    requests, limits = stopping.of_process(), watchdog.limits()
    with (
        distributed.joined(requests),
        contextlib.closing(
            watchdog.Watchdog(requests.phases, limits, requests.tell_hang)
        ),
    ):
        requests.begin()
        if "VIT_JAX_ACCOUNT" in os.environ:  # somebody starts it again and again
            from vit_jax.runs import goodput

            goodput.record(requests.phases, lambda now: limits.of(now)[1])
        # Whoever only guards the process that joins does without.
        import jax

        from vit_jax import experiment, train
        from vit_jax.host import programs

        programs.keep()
        mesh = experiment.make_mesh(_CONFIG.value)
        first = jax.process_index() == 0
        if not first:  # all say the same
            logging.getLogger().setLevel(logging.WARNING)
        figures = train.run(
            *(_CONFIG.value, workdir, mesh),
            profile=_PROFILE.value,
            parameters=_PARAMETERS.value,
            on_storage_error=_ON_STORAGE_ERROR.value,
        )
        for name, value in figures.items():
            if name.endswith("/top1"):
                logging.info("%s accuracy: %.4f", name.removesuffix("/top1"), value)
        if first:
            cli.print_figures({"workdir": str(files.folder(workdir)), **figures})
    return errors.EXIT_DONE


if __name__ == "__main__":
    cli.run(_main, parse=cli.parse_recipe, at_once=True)
