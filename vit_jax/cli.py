"""What every command shares: logs on standard error, figures on standard output."""

import json
import logging
import sys
from collections.abc import Callable
from typing import Any

from absl import app
from absl import logging as absl_logging

from vit_jax import errors


def print_figures(figures: dict[str, Any]) -> None:
    """Prints one line of JSON, the last line a command writes to standard output."""
    print(json.dumps(figures), flush=True)


def configure_logging() -> None:
    """Sends plain log lines of ours to standard error and quietens chatty libraries."""
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.INFO)
    absl_logging.get_absl_handler().setFormatter(
        logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    )
    absl_logging.get_absl_handler().python_handler.stream = sys.stderr
    for chatty in ("jax", "orbax", "etils"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


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


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parses absl flags, runs `main(argv)` guarded and exits with its code."""

    def guarded(argv: list[str]) -> None:
        configure_logging()
        sys.exit(guard(main, argv))

    app.run(guarded)
