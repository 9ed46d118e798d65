"""What every command shares: logs on standard error, figures on standard output."""

import ctypes
import difflib
import json
import logging
import re
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags
from absl import logging as absl_logging

from vit_jax import errors, evals_flags, validation


def print_figures(figures: dict[str, Any]) -> None:
    """Prints one line of JSON, the last line a command writes to standard output."""
    print(json.dumps(figures), flush=True)


def configure_logging() -> None:
    """Sends our log lines, and warnings of libraries, to standard error."""
    absl_logging.use_absl_handler()
    handler = absl_logging.get_absl_handler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.python_handler.stream = sys.stderr
    logging.getLogger().setLevel(logging.INFO)
    for chatty in ("jax", "orbax", "etils"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Orbax logs the traceback of a failed write five times, and asyncio the futures
    # it leaves behind; it reaches us as an exception, and users as one error.
    for chatty in ("absl", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)


def guard(main: Callable[..., int | None], *args: Any) -> int:
    """Runs `main` and turns what users cause into one message and an exit code."""
    try:
        return main(*args) or errors.EXIT_DONE
    except errors.UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except errors.Preempted as stop:
        print(f"stopped: {stop}", file=sys.stderr, flush=True)
        return stop.exit_code


def parse_flags(argv: list[str]) -> list[str]:
    """Parses absl flags; a wrong one is a `UserError`."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise errors.UserError(f"{error}; --help lists the flags") from error


def config_path(argv: list[str]) -> str:
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


def _whole(argv: list[str]) -> list[str]:
    """The command line with what its flag files hold."""
    try:
        return flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
    except flags.Error as error:
        raise errors.UserError(str(error)) from error


def _parsed(argv: list[str]) -> list[str]:
    """Parses flags; ml_collections looks for its own in `sys.argv` alone."""
    whole = sys.argv
    sys.argv = argv
    try:
        return flags.FLAGS(argv)
    finally:
        sys.argv = whole


def parse_recipe(argv: list[str]) -> list[str]:
    """Parses the flags of a command with a recipe; a wrong one is a `UserError`."""
    argv, evaluations = evals_flags.split(_whole(argv))
    path = config_path(argv)
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
        rest = _parsed(argv)
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
    evals_flags.apply(flags.FLAGS["config"].value, evaluations)
    return rest


def run(
    main: Callable[[list[str]], int | None],
    *,
    parse: Callable[[list[str]], list[str]] = parse_flags,
) -> None:
    """Parses flags, runs `main(argv)`, and exits with the code of what users cause."""

    def guarded_parse(argv: list[str]) -> list[str]:
        parsed: list[str] = []
        if code := guard(lambda: parsed.extend(parse(argv))):
            sys.exit(code)
        return parsed

    def guarded_main(argv: list[str]) -> None:
        configure_logging()  # after the flags, which set absl's levels
        sys.exit(guard(main, argv))

    app.run(guarded_main, flags_parser=guarded_parse)


def end_with_parent() -> None:
    """Has the kernel kill this process when its parent goes; on Linux only.

    A thread could not: the TPU compiler keeps Python's lock while it works.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
