"""JSON that others wrote: configurations, records and descriptions, read within limits.

Whatever is read here is data: nothing in it is run, and what comes out are plain dicts,
lists, texts, whole numbers of 64 bits, floats, booleans and None, not too deep to be
walked. What they mean is checked by whoever asks.
"""

import collections
import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from vit_jax import errors
from vit_jax.host import files as host_files

MOST_BYTES = 1 << 25  # a config.json of 21,843 classes has 2 MB
MOST_LEVELS = 100  # lists and objects inside of each other
# Of each value of an object by its name: its type, or those that it may have.
Kinds: TypeAlias = Mapping[str, type | tuple[type, ...]]
_WIDEST = 1 << 63  # of a whole number


def read(path: Path) -> Any:
    """Returns what a file of JSON says.

    Raises:
        errors.UserError: it cannot be read, is too large, or no JSON within limits.
    """
    try:
        text = host_files.read_whole(path, MOST_BYTES)
    except OSError as error:
        told = error.strerror or error
        large = " are no description" if error.errno == errno.EFBIG else ""
        raise errors.UserError(f"{path} cannot be read: {told}{large}") from error
    try:
        return parse(text)
    except errors.UserError as error:
        raise errors.UserError(f"{path}: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """Returns the object that a file of JSON holds.

    Raises:
        errors.UserError: as `read`, or it holds something else.
    """
    found = read(path)
    if not isinstance(found, dict):
        raise errors.UserError(
            f"{path}: its JSON is no object {{...}}, but {kind(found)}"
        )
    return found


def parse(text: bytes | str) -> Any:
    """Returns what JSON says.

    Raises:
        errors.UserError: it is none, not UTF-8, too deep, says a name of one object
            twice, has a whole number of more than 64 bits, or a text with what no text
            has.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        found = json.loads(text, object_pairs_hook=_unique, parse_int=_whole)
    except RecursionError:
        raise errors.UserError("its JSON is nested too deep") from None
    except UnicodeDecodeError as error:
        raise errors.UserError(f"its JSON is not UTF-8: {error.reason}") from error
    except ValueError as error:
        if isinstance(error, errors.UserError):
            raise
        told = errors.reason(error)
        raise errors.UserError(f"cannot be read as JSON: {told}") from error
    _check(found)
    return found


def checked(found: Any, kinds: Kinds) -> dict[str, Any]:
    """Returns an object that has values of these kinds, and maybe others.

    Args:
        found: From `parse` or `read`.
        kinds: The type of each value, by its name; a bool is no int here.

    Raises:
        errors.UserError: it is no object, lacks one, or has one of another kind.
    """
    if not isinstance(found, dict):
        raise errors.UserError(f"it is {kind(found)}; want an object, {{...}}")
    for name, wanted in kinds.items():
        if name not in found:
            raise errors.UserError(f"it says no {name!r}")
        value = found[name]
        allowed = wanted if isinstance(wanted, tuple) else (wanted,)
        if type(value) not in allowed:
            raise errors.UserError(f"its {name[:100]!r} is {kind(value)}")
    return found


def kind(value: Any) -> str:
    """Returns what JSON calls a value, with its article."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        ((twice, _),) = collections.Counter(n for n, _ in pairs).most_common(1)
        raise errors.UserError(f"says {twice[:100]!r} twice")
    return values


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -_WIDEST <= (value := int(digits)) < _WIDEST:
        raise errors.UserError(
            f"has the number {digits[:30]}{'...' * (len(digits) > 30)}; want 64 bits"
        )
    return value


def _check(found: Any) -> None:
    """Raises `UserError` for what is too deep to walk, or for a text that is none."""
    level = [found]
    for _ in range(MOST_LEVELS):
        texts = [one for one in level if isinstance(one, str)]
        within = [one for one in level if isinstance(one, dict)]
        texts += [name for one in within for name in one]
        for text in texts:
            if not text.isascii() or "\0" in text:
                _check_text(text)
        level = [value for one in within for value in one.values()] + [
            value for one in level if isinstance(one, list) for value in one
        ]
        if not level:
            return
    raise errors.UserError(f"its JSON has more than {MOST_LEVELS} levels")


def _check_text(text: str) -> None:
    halves = any("\ud800" <= letter <= "\udfff" for letter in text)
    if halves or "\0" in text:
        raise errors.UserError(f"has the text {text[:60]!r}, which no file can hold")
