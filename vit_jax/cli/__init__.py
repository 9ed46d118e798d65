"""What every command shares: logs on standard error, figures on standard output."""

import contextlib
import ctypes
import itertools
import json
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, Protocol, TextIO

from absl import app, flags
from absl import logging as absl_logging

from vit_jax import errors, host
from vit_jax.settings import validation


def print_figures(figures: dict[str, Any]) -> None:
    """Prints one line of JSON, the last line a command writes to standard output."""
    print(json.dumps(figures), flush=True)


# What asks for plain lines, or says that what looks like a terminal is a notebook.
PLAIN = ("NO_COLOR", "CI", "JPY_PARENT_PID", "COLAB_RELEASE_TAG")
_left = False  # threads of libraries that nobody waits for
_watched = False  # by commands alone: what Python calls writes plain lines


def is_watched(stream: TextIO) -> bool:
    """Returns whether a stream is a terminal that tables and moving lines are for."""
    plain = any(os.environ.get(name) for name in PLAIN)
    plain |= os.environ.get("TERM") in (None, "dumb") and os.name != "nt"
    return stream.isatty() and not plain


def is_live() -> bool:
    """Returns whether standard error is a command's on a terminal, and asked for."""
    return _watched and logging.getLogger().isEnabledFor(logging.INFO)


class Tell(Protocol):
    """What a bar is told."""

    def __call__(self, done: int, text: str = "") -> None:
        """Takes how much is done, and a line about it; "" leaves the line before."""
        ...


@contextlib.contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Tell | None]:
    """Shows on a terminal how much of something is done; yields None elsewhere."""
    if not is_live():
        yield None
        return
    from vit_jax.cli import screen

    with screen.progress(what, total, done) as tell:
        yield tell


class Formatter(logging.Formatter):
    """Writes out what no line of a log should do to a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, or lines, of a record."""
        return "\n".join(map(errors.visible, super().format(record).split("\n")))


def configure_logging() -> None:
    """Sends our log lines, and warnings of libraries, to standard error."""
    global _watched
    _watched = is_watched(sys.stderr)
    absl_logging.use_absl_handler()
    handler = absl_logging.get_absl_handler()
    handler.setFormatter(Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.python_handler.stream = sys.stderr
    logging.getLogger().setLevel(logging.INFO)
    for chatty in ("jax", "orbax", "etils"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Orbax logs the traceback of a failed write five times, and asyncio the futures
    # it leaves behind; it reaches us as an exception, and users as one error.
    for chatty in ("absl", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    from vit_jax.cli import quiet

    sys.unraisablehook = quiet.unraisable


def guard(main: Callable[..., int | None], *args: Any) -> int:
    """Runs `main` and turns what users cause into one message and an exit code."""
    try:
        return main(*args) or errors.EXIT_DONE
    except Exception as error:
        if (code := explained(error)) is None:
            raise
        return code


_PASSES = "That may pass by itself: run the same command again"


def explained(error: Exception) -> int | None:
    """Prints what users caused as one message; the exit code, None of a bug of ours.

    Storage that may come back is nobody's fault: the same command is run again.
    """
    if isinstance(error, errors.UserError | OSError) and errors.transient(error):
        print(f"stopped: {error}\n{_PASSES}", file=sys.stderr, flush=True)
        return errors.EXIT_RETRY
    if isinstance(error, errors.UserError):
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    if isinstance(error, errors.Preempted):
        print(f"stopped: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    if isinstance(error, MemoryError):
        there = f"{host.available_memory() / 2**30:.2f} GiB can be had"
        print(f"error: out of memory, {there}: {error}", file=sys.stderr, flush=True)
        return errors.EXIT_BAD_INPUT
    if isinstance(error, BrokenPipeError):  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.EXIT_DONE
    if isinstance(error, OSError) and error.filename is not None:
        # A path that is none: too long, a loop of links, closed to us.
        said = errors.shown(f"{error.filename}: {error.strerror}")
        print(f"error: {said}", file=sys.stderr, flush=True)
        return errors.EXIT_BAD_INPUT
    return None


# Of words that have to be looked at before absl is given them.
_SPECIAL = re.compile(r"flagfile|config_json|\0|^-[^=]{200}")


def _checked(argv: list[str]) -> list[str]:
    if not any(map(_SPECIAL.search, argv)):
        return argv
    from vit_jax.cli import words

    return words.checked(argv)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses absl flags; a wrong one is a `UserError`."""
    try:
        return flags.FLAGS(_checked(argv))
    except flags.Error as error:
        raise errors.UserError(f"{error}; --help lists the flags") from error


def config_path(argv: list[str]) -> str:
    """Returns the value of --config as written, the last one; "" without one."""
    found = ""
    for i, argument in enumerate(argv):
        if match := re.fullmatch(r"--?config=(.*)", argument, re.S):
            found = match[1]
        elif argument in ("--config", "-config") and i + 1 < len(argv):
            found = argv[i + 1]
    return found


_CONFIG_KEY = re.compile(r"--?(?:no)?config\.([^=]*)(?:=(.*))?$", re.S)
_WANT_CONFIG = "want --config=FILE, as in --config=configs/vit_b16.py"


def _checked_flags(argv: list[str], known: Mapping[str, Any]) -> list[str]:
    """The --config.KEY flags as the configuration takes them; others as they are.

    Args:
        argv: of the command.
        known: the nested dict of the recipe.

    Raises:
        UserError: a key that is none, with the nearest; a size that is none.
    """
    flat, result = validation.flatten(known), []
    words = iter(argv)
    for argument in words:
        match = _CONFIG_KEY.match(argument)
        if match and match[2] is None and _wants_value(match[1], flat):
            argument = "=".join([argument, *itertools.islice(words, 1)])
            match = _CONFIG_KEY.match(argument)
        if match and match[1] not in flat:
            _check_section(match[1], match[2], known, flat)
        if match and match[1] == "model.image_size" and match[2] is not None:
            size = validation.parse_size(match[2], "--config.model.image_size")
            argument = f"--config.model.image_size={size}"
        if match and match[2] == "" and isinstance(flat.get(match[1]), tuple):
            argument += "()"
        result.append(argument)
    return result


def _wants_value(key: str, flat: Mapping[str, Any]) -> bool:
    return key in flat and not isinstance(flat[key], bool)


def _check_section(
    key: str, value: str | None, known: Mapping[str, Any], flat: Mapping[str, Any]
) -> None:
    """Raises `UserError` unless a key names a section, and its value is a dict."""
    section: Any = known
    for word in key.split("."):
        section = section.get(word) if isinstance(section, Mapping) else None
    if isinstance(section, Mapping) and (value or "").lstrip().startswith("{"):
        return
    if isinstance(section, Mapping):
        inside = [f"{key}.{name}" for name in section][:6]
        raise errors.UserError(
            f"--config.{key} is a group of keys: {', '.join(inside)}, ...; set one of "
            "them"
        )
    raise errors.UserError(
        f'unknown configuration key {key!r}. Did you mean "'
        f'{validation.nearest_key(key, flat)}"? --print_config shows all keys'
    )


def _whole(argv: list[str]) -> list[str]:
    """The command line with what its flag files hold."""
    try:
        return flags.FLAGS.read_flags_from_files(_checked(argv), force_gnu=False)
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
    from vit_jax.settings import evals_flags, recipe

    argv, evaluations = evals_flags.split(_checked(_whole(argv)))
    path = config_path(argv)
    config = None
    if "--config=" in argv:
        raise errors.UserError(_WANT_CONFIG)
    if path:
        config = recipe.load(path)
        recipe.hand_over(path, config)
        argv = _checked_flags(argv, config.to_dict())
    try:
        rest = _parsed(argv)
    except (KeyError, AttributeError, TypeError) as error:
        raise errors.UserError(f"--config={path}: {error.args[0]}") from error
    except flags.Error as error:
        raise errors.UserError(f"{error}; --help lists the flags") from error
    if rest[1:]:
        raise errors.UserError(
            f"what is {rest[1]!r}? Want flags only: --config=FILE --config.KEY=VALUE"
        )
    if config is None:
        raise errors.UserError(_WANT_CONFIG)
    recipe.check(config, path)
    evals_flags.apply(flags.FLAGS["config"].value, evaluations)
    return rest


def run(
    main: Callable[[list[str]], int | None],
    *,
    parse: Callable[[list[str]], list[str]] = parse_flags,
    at_once: bool = False,
) -> None:
    """Parses flags, runs `main(argv)`, and exits with the code of what users cause.

    `--help` prints the command's page and ends with 0; it is made of the docstring and
    the flags of the module that runs, see `help_page`.

    Args:
        main: What the command does.
        parse: Its way to parse its arguments.
        at_once: End with an error as soon as it is said, whatever threads of libraries
            still wait for: a folder, a peer.
    """
    if any(word.startswith(("--h", "-h")) for word in sys.argv[1:]):
        from vit_jax.cli import help_page

        if help_page.asked(sys.argv):
            print(help_page.page(sys.modules["__main__"], sys.argv[0]), flush=True)
            sys.exit(errors.EXIT_DONE)

    def guarded_parse(argv: list[str]) -> list[str]:
        parsed: list[str] = []
        if code := guard(lambda: parsed.extend(parse(argv))):
            sys.exit(code)
        return parsed

    def guarded_main(argv: list[str]) -> None:
        configure_logging()  # after the flags, which set absl's levels
        sys.exit(guard(main, argv))

    try:
        app.run(guarded_main, flags_parser=guarded_parse)
    except SystemExit as end:  # absl ends --help with 1
        helped = any(re.fullmatch(r"--?help\w*", word) for word in sys.argv[1:])
        code = errors.EXIT_DONE if helped else end.code
        if at_once and (code or _left):
            end_now(code)
        sys.exit(code)
    except BaseException:
        if not at_once:
            raise
        traceback.print_exc()
        end_now(1)


def leave_threads() -> None:
    """Has a command that ends at once after an error do so in any case."""
    global _left
    _left = True


def end_now(code: Any) -> NoReturn:
    """Ends the process without waiting for any of its threads."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed
            stream.flush()
    os._exit(code if isinstance(code, int) else 1)


def no_command(module: str, instead: str) -> NoReturn:
    """Ends a module that was run as a command and is none, with what to run."""
    print(f"error: {module} is no command; run {instead}", file=sys.stderr)
    sys.exit(errors.EXIT_BAD_INPUT)


def end_with_parent() -> None:
    """Has the kernel kill this process when its parent goes; on Linux only.

    A thread could not: the TPU compiler keeps Python's lock while it works.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
