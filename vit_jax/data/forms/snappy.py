"""A part of a Snappy stream, without the rest.

Snappy packs blocks of 64 KiB one after another, and none refers to one before it. So
the stream between two borders of blocks, with its size before it, is one of its own.
"""

import numpy as np

BLOCK = 1 << 16


def borders(data: bytes) -> np.ndarray | None:
    """Returns where each block begins in a stream, and its end; None: not in blocks.

    Pictures are packed into few pieces, so this looks at a byte in a thousand.
    """
    at = _header(data)
    found, out, block = [at], 0, 0
    while at < len(data):
        tag = data[at]
        kind = tag & 3
        if kind == 0:
            length = tag >> 2
            at += 1
            if length >= 60:
                size = length - 59
                length = int.from_bytes(data[at : at + size], "little")
                at += size
            length += 1
            at += length
        else:
            size = (1, 2, 4)[kind - 1]
            back = int.from_bytes(data[at + 1 : at + 1 + size], "little")
            length = (tag >> 2) + 1
            if kind == 1:
                length = ((tag >> 2) & 7) + 4
                back += (tag >> 5) << 8
            at += 1 + size
            if back > out - block:
                return None
        out += length
        if out - block >= BLOCK:
            if out - block > BLOCK:
                return None
            block = out
            found.append(at)
    if found[-1] != at:
        found.append(at)
    return np.array(found, np.int64)


def _header(data: bytes) -> int:
    at = 0
    while data[at : at + 1] and data[at] & 0x80:
        at += 1
    return at + 1


def header(size: int) -> bytes:
    """Returns what comes before the blocks of a stream of `size` bytes."""
    out = bytearray()
    while size >= 0x80:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)
