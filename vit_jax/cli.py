"""What every command shares: logs on standard error, figures on standard output."""

import json
import logging
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags
from absl import logging as absl_logging

from vit_jax import errors


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
