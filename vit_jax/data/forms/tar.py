"""Where the members of a tar file lie, by our own reader of headers: ustar, GNU, pax.

The standard library's reader wants the file open and in one thread; a list of offsets
is all that random access needs.
"""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from vit_jax import errors

BLOCK = 512
_LONGEST = 1 << 20  # of a long name or a pax header
_PLAIN = (b"0", b"\0", b"7")


class Member(NamedTuple):
    """A plain file of a tar file."""

    name: str
    offset: int  # of its contents
    size: int


def members(
    read: Callable[[int, int], bytes], size: int, path: str
) -> Iterator[Member]:
    """Yields the plain files of a tar file in their order.

    Args:
        read: Returns bytes of the file: (offset, length), fewer at its end.
        size: Of the file.
        path: Its name, for messages.

    Raises:
        errors.UserError: it is compressed, damaged, breaks off, or is no tar file.
    """
    at, name = 0, ""
    stated: dict[str, str] = {}
    while True:
        header = read(at, BLOCK)
        if len(header) == BLOCK and not any(header):
            return  # the end; a second block of zeros follows
        _check(header, at, path)
        kind, length = header[156:157], _number(header[124:136], at, path)
        if kind not in (b"L", b"x", b"g") and "size" in stated:
            length = int(stated["size"])
        start = at + BLOCK
        at = start + -(-length // BLOCK) * BLOCK
        if start + length > size:
            raise _damaged(path, f"it breaks off at byte {size}, inside a member")
        if kind in (b"L", b"x", b"g", b"K"):
            if length > _LONGEST:
                raise _damaged(path, f"a header of {length} bytes at {start}")
            if kind == b"L":
                name = _text(read(start, length))
            elif kind == b"x":
                stated = _pax(read(start, length), path)
                name = stated["path"] if "path" in stated else name
            continue
        if kind in _PLAIN:
            yield Member(name or _name(header), start, length)
        name, stated = "", {}


def _check(header: bytes, at: int, path: str) -> None:
    """Raises a `UserError` unless these are a header, by its checksum."""
    if at == 0:
        for magic, what in ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd")):
            if header.startswith(magic):
                raise errors.UserError(
                    f"{path} is compressed ({what}), so it has no random access; "
                    "unpack it to a .tar (pictures are compressed already)"
                )
    if len(header) < BLOCK:
        what = f"it breaks off at byte {at + len(header)}, before its end"
        raise _damaged(path, what)
    try:
        stated = int(header[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        stated = -1
    counted = sum(header) - sum(header[148:156]) + 8 * 32
    if stated != counted:
        what = "it is no tar file" if at == 0 else f"no header at byte {at}"
        raise _damaged(path, what)


def _number(field: bytes, at: int, path: str) -> int:
    """A size: octal digits, or GNU's base 256 for 8 GiB and more."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise _damaged(path, f"a header without a size at byte {at}") from error


def _text(data: bytes) -> str:
    return data.split(b"\0")[0].decode("utf-8", "surrogateescape")


def _name(header: bytes) -> str:
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    name = _text(header[:100])
    return f"{prefix}/{name}" if prefix else name


def _pax(data: bytes, path: str) -> dict[str, str]:
    """The records `LENGTH KEY=VALUE` of a pax header."""
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(data) and data[at]:
            length = int(data[at : data.index(b" ", at)])
            record = data[data.index(b" ", at) + 1 : at + length - 1]
            key, _, value = record.decode("utf-8", "surrogateescape").partition("=")
            found[key] = value
            if length < 1:
                raise ValueError(length)
            at += length
        if "size" in found and int(found["size"]) < 0:
            raise ValueError(found["size"])
    except (ValueError, struct.error) as error:
        raise _damaged(path, f"a pax header that cannot be read ({error})") from error
    return found


def _damaged(path: str, what: str) -> errors.UserError:
    return errors.UserError(
        f"{path} is truncated or damaged: {what}. Copy or write this shard again."
    )
