"""Tables of commands: drawn on a terminal, plain text elsewhere."""

import sys
from collections.abc import Sequence

from vit_jax import cli


def print_lines(lines: Sequence[Sequence[str]], plain: str) -> None:
    """Prints a table on a terminal, its first line the headings; `plain` elsewhere."""
    if not cli.is_watched(sys.stdout):
        print(plain, flush=True)
        return
    from vit_jax.cli import screen

    screen.show(lines, sys.stdout)


def log(title: str, lines: Sequence[Sequence[str]]) -> None:
    """Shows a table where `cli.progress` shows bars."""
    if cli.is_live():
        from vit_jax.cli import screen

        screen.show(lines, sys.stderr, title=title)
