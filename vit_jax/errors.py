"""Errors that a user or a file can cause, and the wording they share."""

import difflib
import errno
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

EXIT_DONE = 0
EXIT_BAD_INPUT = 2
EXIT_NON_FINITE = 4
EXIT_RETRY = 42


MOST_LINES, LONGEST_LINE = 10, 1500  # of a message


class UserError(ValueError):
    """Bad input: the message says what, what it got, what it wanted, what to do.

    The commands print it without a traceback and exit with `exit_code`; at most ten
    lines, whatever a stranger's file or a command line has put into it. Anything else
    that is raised is a bug of ours and keeps its traceback.
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(self, message: str):
        """Takes a message, of which it keeps what `shown` returns."""
        super().__init__(shown(message))


class StorageError(UserError):
    """The files of a run cannot be written; what is still good is said."""


class NonFiniteError(UserError):
    """The loss or a gradient stopped being finite.

    Attributes:
        bad: the bad steps that end the run, one after the other.
    """

    exit_code = EXIT_NON_FINITE

    def __init__(self, message: str, bad: range):
        super().__init__(message)
        self.bad = bad


class Preempted(Exception):
    """The run was asked to stop (SIGTERM); its state is saved: start it again."""

    exit_code = EXIT_RETRY


def visible(text: str) -> str:
    """Returns a text whose control characters and the like are written out.

    A name in a file may hold what moves a terminal's cursor or turns its text around.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def shown(text: str) -> str:
    """Returns a message as it may be shown: bounded, and nothing in it but text."""
    lines = str(text)[: LONGEST_LINE * MOST_LINES * 9].split("\n")
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 2], "...", lines[-1]]
    lines = [visible(line) for line in lines]
    return "\n".join(
        line if len(line) <= LONGEST_LINE else f"{line[:300]} ... {line[-300:]}"
        for line in lines
    )


def reason(error: object) -> str:
    """Returns the gist of what others raised: its first line, or its kind.

    Some say nothing at all, some fill pages.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


# What may pass by itself: of networks, and of disks behind one.
_TRANSIENT = {
    getattr(errno, name)
    for name in (
        *("EIO", "EREMOTEIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EAGAIN", "EINTR"),
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH"),
        *("ECONNRESET", "ECONNABORTED", "ESHUTDOWN", "ENFILE"),
    )
    if name in vars(errno)
}
# As TensorStore says it, and gRPC.
_TRANSIENT_TEXT = re.compile(r"\[OS error (\d+)|\b(UNAVAILABLE|DEADLINE_EXCEEDED):")


def transient(error: BaseException | None) -> bool:
    """Returns whether an error, or what caused it, is of storage that may come back."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _TRANSIENT:
            return True
        match = _TRANSIENT_TEXT.search(str(error))
        if match and (match[2] or int(match[1]) in _TRANSIENT):
            return True
        error = error.__cause__
    return False


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """Returns the nearest known name, or the empty string."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return found[0] if found else ""


def suggest(name: str, known: Iterable[str]) -> str:
    """Returns ` Did you mean "x"?` for the nearest known name, or the empty string."""
    found = nearest(name, known)
    return f' Did you mean "{found}"?' if found else ""


def listing(first: str, lines: Sequence[str], last: str) -> str:
    """Returns a message around the first six of `lines`: ten lines at most."""
    more = [f"  ... and {len(lines) - 6} more"] if len(lines) > 6 else []
    return "\n".join([first, *(f"  {line}" for line in lines[:6]), *more, last])


def some(names: Sequence[str], count: int = 0) -> str:
    """Returns the first five names, in order, and how many more of `count` there are.

    Args:
        names: All of them, or the first five at least.
        count: Of all; 0: as many as are given.
    """
    rest = (count or len(names)) - 5
    more = f" and {rest} more" if rest > 0 else ""
    return ", ".join(sorted(names)[:5]) + more


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """Returns `table[name]`; an unknown one is a `UserError` that lists the choices."""
    if isinstance(name, str) and name in table:
        return table[name]
    known = ", ".join(sorted(table))
    raise UserError(
        f"{what}={name!r} is unknown; known: {known}.{suggest(str(name), table)}"
    )
