"""`python -m vit_jax.main --config=configs/vit_b16.py [--config.KEY=VALUE ...]`.

Parses the flags and starts the run, alone or as one of several processes: on SLURM,
GKE and Cloud TPU VMs by itself, elsewhere with --coordinator, --processes, --process.
Exit codes: 0 done, 2 bad input, 4 the loss is not finite, 42 run the same command
again (stopped with its state saved, or another process was lost).
"""

import difflib
import functools
import logging
import re
import runpy
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from vit_jax import cli, distributed, errors, validation

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Recipe, as in configs/vit_b16.py:i21k", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Checkpoints and logs; workdirs/NAME_OF_THE_CONFIG by default."
)
_PRINT_CONFIG = flags.DEFINE_bool(
    "print_config", False, "Show the resolved configuration and stop."
)
_PROFILE = flags.DEFINE_bool(
    "profile", False, "Trace a few steps into WORKDIR/profile."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0, or $VIT_JAX_COORDINATOR."
)
_PROCESSES = flags.DEFINE_integer(
    "processes", 0, "How many processes run this command, or $VIT_JAX_PROCESSES."
)
_PROCESS = flags.DEFINE_integer(
    "process", -1, "Which of them this is, from 0, or $VIT_JAX_PROCESS."
)
_START_TIMEOUT = flags.DEFINE_integer(
    "start_timeout", distributed.START_TIMEOUT, "Seconds for all processes to come."
)
_PEER_TIMEOUT = flags.DEFINE_integer(
    "peer_timeout",
    distributed.PEER_TIMEOUT,
    "Seconds without a sign of life after which a process is lost.",
)


def _config_path(argv: list[str]) -> str:
    """The value of --config as written, "" without one."""
    for i, argument in enumerate(argv):
        if match := re.fullmatch(r"--?config=(.*)", argument):
            return match[1]
        if argument in ("--config", "-config") and i + 1 < len(argv):
            return argv[i + 1]
    return ""


def _check_keys(argv: list[str], path: str) -> None:
    """Raises `UserError`, with the nearest key, for a --config.KEY that is none."""
    file, *argument = path.split(":", 1)
    config = runpy.run_path(file)["get_config"](*argument)
    known = validation.flatten(config.to_dict())
    for argument in argv:
        match = re.match(r"--?(?:no)?config\.([^=]+)", argument)
        if match and match[1] not in known:
            key = match[1]
            by_last_word = {name.split(".")[-1]: name for name in known}
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            word = difflib.get_close_matches(
                key.split(".")[-1], by_last_word, n=1, cutoff=0.0
            )
            nearest = near[0] if near else by_last_word[word[0]]
            raise errors.UserError(
                f'unknown configuration key {key!r}. Did you mean "{nearest}"? '
                "--print_config shows all keys"
            )


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; whatever is wrong with them is one `UserError`."""
    path = _config_path(argv)
    if file := path.split(":")[0]:
        if not Path(file).is_file():
            there = [str(p) for p in Path(file).parent.glob("*.py")]
            raise errors.UserError(
                f"--config={path}: there is no file {file};"
                f"{errors.suggest(file, there)} recipes are in configs/"
            )
        # Recipes import configs.base, wherever the command is started.
        sys.path.append(str(Path(file).resolve().parent.parent))
    try:
        rest = flags.FLAGS(argv)
    except (KeyError, AttributeError) as error:
        _check_keys(argv, path)
        raise errors.UserError(f"--config={path}: {error.args[0]}") from error
    except flags.Error as error:
        # A config file's own error arrives as the last line of a formatted traceback.
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise errors.UserError(lines[-1].strip()) from error
    if rest[1:]:
        raise errors.UserError(
            f"what is {rest[1]!r}? Want flags only: --config=FILE --config.KEY=VALUE"
        )
    if not path:
        raise errors.UserError("want --config=FILE, as in --config=configs/vit_b16.py")
    return rest


def default_workdir(config_path: str) -> Path:
    """`workdirs/vit_b16-i21k` for `configs/vit_b16.py:i21k`."""
    file, _, argument = config_path.partition(":")
    name = Path(file).stem + (f"-{argument}" if argument else "")
    return Path("workdirs") / re.sub(r"[^A-Za-z0-9_.+-]+", "_", name)


def _train(config: ConfigDict, workdir: Path) -> None:
    from vit_jax import mesh, train

    device_mesh = mesh.make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp)
    logging.info("workdir %s", workdir)
    figures = train.run(config, workdir, device_mesh, profile=_PROFILE.value)
    for name, value in figures.items():
        if name.endswith("/top1"):
            logging.info("%s accuracy: %.4f", name.removesuffix("/top1"), value)
    cli.print_figures({"workdir": str(workdir), **figures})


def _main(argv: list[str]) -> int:
    del argv
    if _PRINT_CONFIG.value:
        print(_CONFIG.value)
        return errors.EXIT_DONE
    workdir = _WORKDIR.value or default_workdir(_config_path(sys.argv[1:]))
    train = functools.partial(_train, _CONFIG.value, Path(workdir))
    cluster = distributed.find(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    if cluster is None:
        train()
        return errors.EXIT_DONE
    return distributed.run(
        cluster,
        train,
        start_timeout=_START_TIMEOUT.value,
        peer_timeout=_PEER_TIMEOUT.value,
    )


if __name__ == "__main__":
    cli.run(_main, parse=parse_flags)
