"""Where each value of a column of bytes lies in a Parquet file.

pyarrow reads whole row groups; a picture in random order would cost a hundred others.
Values of a page without compression are read by one `pread` of theirs. Those of a
compressed page come with the page, of which the last used are kept; but pages of
Snappy, whose 64 KiB blocks stand alone, are unpacked only around the value.

Format: https://parquet.apache.org/docs/file-format (pages of versions 1 and 2, values
PLAIN or by dictionary, no lists). Other pages are left to pyarrow.
"""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Read = Callable[[int, int], bytes]  # (offset, length) -> bytes
Dictionary = tuple[int, np.ndarray, np.ndarray]  # its page, offsets and lengths

DATA, DICTIONARY, DATA_V2 = 0, 2, 3
PLAIN, PLAIN_DICTIONARY, RLE_DICTIONARY = 0, 2, 8
_HEADER = 1 << 13  # a header may hold the page's smallest and largest value


class Unsupported(ValueError):
    """A page of a kind that this reader leaves to pyarrow."""


class Page(NamedTuple):
    """The values of a page in a file."""

    offset: int  # in the file, of the part that is compressed
    stored: int  # bytes of it
    size: int  # unpacked
    codec: str  # "": as they are


class Thrift:
    """The compact protocol of Thrift, as much of it as page headers need."""

    def __init__(self, data: bytes):
        """Starts at the first byte."""
        self._data, self.at = data, 0

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def struct(self, levels: int = 8) -> dict[int, Any]:
        """Returns the fields of a struct by their numbers.

        Args:
            levels: That structs may lie in each other.
        """
        if not levels:
            raise Unsupported("structs too deep in each other")
        found: dict[int, Any] = {}
        number = 0
        while kind := self._data[self.at]:
            self.at += 1
            step = kind >> 4
            number = number + step if step else self._integer()
            found[number] = self._value(kind & 15, levels)
        self.at += 1
        return found

    def _value(self, kind: int, levels: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            self.at += 1
            return self._data[self.at - 1]
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 7:
            self.at += 8
            return None
        if kind == 8:
            length = self._varint()
            self.at += length
            return None  # statistics: not wanted
        if kind == 12:
            return self.struct(levels - 1)
        raise Unsupported(f"a Thrift field of type {kind}")


class Values:
    """The places of the values of one column chunk.

    Attributes:
        pages: Those that hold values, of data and of the dictionary.
        page: int32 [rows], the page of each value; -1: null.
        offset: int64 [rows], where the value begins in the unpacked page.
        length: int64 [rows], its bytes.
    """

    def __init__(self, rows: int):
        self.pages: list[Page] = []
        self.page = np.full(rows, -1, np.int32)
        self.offset = np.zeros(rows, np.int64)
        self.length = np.zeros(rows, np.int64)


def locate(
    read: Read,
    unpack: Callable[[bytes, int, str], bytes],
    *,
    start: int,
    stop: int,
    rows: int,
    codec: str,
    nullable: int,
) -> Values:
    """Returns where the values of a column chunk are.

    Args:
        read: Of the file.
        unpack: `(bytes, size, codec) -> bytes`.
        start: Where the chunk begins.
        stop: Where it ends.
        rows: Of the row group.
        codec: Of the chunk, "" for none.
        nullable: The column's highest definition level.

    Raises:
        Unsupported: pages of another kind.
    """
    values, row = Values(rows), 0
    dictionary: Dictionary | None = None
    while row < rows:
        if start >= stop:
            raise Unsupported(f"{row} values, wanted {rows}")
        thrift = Thrift(read(start, min(_HEADER, stop - start)))
        try:
            header = thrift.struct()
        except IndexError as error:
            raise Unsupported("a long page header") from error
        kind, size, stored = _whole(header, 1, 2, 3)
        body = start + thrift.at
        start = body + stored
        if kind == DICTIONARY:
            page = Page(body, stored, size, codec)
            data = _load(read, unpack, page)
            (count,) = _whole(header.get(7), 1)
            offsets, lengths = _plain(data, count)
            dictionary = len(values.pages), offsets, lengths
            values.pages.append(page)
        elif kind in (DATA, DATA_V2):
            row += _data_page(
                *(read, unpack, values, header, body, row, codec, nullable, dictionary)
            )
    return values


def _whole(told: Any, *keys: int) -> tuple[int, ...]:
    """The whole numbers in fields of a struct, which are sizes and kinds.

    Raises:
        Unsupported: there is no struct, no field, or something else in it.
    """
    found = []
    for key in keys:
        number = told.get(key) if isinstance(told, dict) else None
        if type(number) is not int or not 0 <= number < 2**31:
            raise Unsupported(f"a page header with {number} for a size")
        found.append(number)
    return tuple(found)


def _load(read: Read, unpack: Callable[[bytes, int, str], bytes], page: Page) -> bytes:
    data = read(page.offset, page.stored)
    return unpack(data, page.size, page.codec) if page.codec else data


def _data_page(
    read: Read,
    unpack: Callable[[bytes, int, str], bytes],
    values: Values,
    header: dict[int, Any],
    body: int,
    row: int,
    codec: str,
    nullable: int,
    dictionary: Dictionary | None,
) -> int:
    """Notes the values of a page from `row` on; returns how many rows it has."""
    second = header[1] == DATA_V2
    told: Any = header.get(8 if second else 5)
    count, encoding = _whole(told, 1, 4 if second else 2)
    if count > len(values.page) - row:
        raise Unsupported("more values than rows")
    page, skip, levels = Page(body, header[3], header[2], codec), 0, b""
    if second:
        page, levels = _after_levels(read, page, told)
    data = None
    if not second and nullable:
        data = _load(read, unpack, page) if codec else None
        head = data[:4] if data is not None else read(body, 4)
        length = struct.unpack("<I", head)[0]
        skip = 4 + length
        levels = data[4:skip] if data is not None else read(body + 4, length)
    there = np.ones(count, bool)
    if nullable:
        width = nullable.bit_length()
        there = hybrid(levels, width, count) == nullable
    rows = row + np.flatnonzero(there)
    if encoding in (PLAIN_DICTIONARY, RLE_DICTIONARY):
        data = _load(read, unpack, page) if data is None else data
        if dictionary is None:
            raise Unsupported("no dictionary")
        number, offsets, lengths = dictionary
        codes = hybrid(data[skip + 1 :], data[skip], len(rows))
        values.page[rows] = number
        values.offset[rows], values.length[rows] = offsets[codes], lengths[codes]
    elif encoding == PLAIN:
        if page.codec:
            data = _load(read, unpack, page) if data is None else data
            offsets, lengths = _plain(data, len(rows), skip)
        else:
            offsets, lengths = _hop(read, page, len(rows), skip)
        values.page[rows] = len(values.pages)
        values.offset[rows], values.length[rows] = offsets, lengths
        values.pages.append(page)
    else:
        raise Unsupported(f"values of encoding {encoding}")
    return count


def _after_levels(read: Read, page: Page, told: Any) -> tuple[Page, bytes]:
    """What of a page of the second version is packed, and the levels before it."""
    nulls, repeated = _whole(told, 5, 6)
    before = nulls + repeated
    stored, size = _whole({0: page.stored - before, 1: page.size - before}, 0, 1)
    packed = told[7] if 7 in told else True
    levels = read(page.offset, before)[repeated:]
    codec = page.codec if packed else ""
    return Page(page.offset + before, stored, size, codec), levels


def _plain(data: bytes, count: int, at: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and lengths of values that each follow their length."""
    lengths, offsets = [], []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", data, at)
        offsets.append(at + 4)
        lengths.append(length)
        at += 4 + length
    if at > len(data):
        raise Unsupported("values that go beyond their page")
    return np.array(offsets, np.int64), np.array(lengths, np.int64)


def _hop(read: Read, page: Page, count: int, at: int) -> tuple[np.ndarray, np.ndarray]:
    """As `_plain`, reading nothing but the lengths."""
    lengths, offsets = [], []
    for _ in range(count):
        (length,) = struct.unpack("<I", read(page.offset + at, 4))
        offsets.append(at + 4)
        lengths.append(length)
        at += 4 + length
    if at > page.size:
        raise Unsupported("values that go beyond their page")
    return np.array(offsets, np.int64), np.array(lengths, np.int64)


def hybrid(data: bytes, width: int, count: int) -> np.ndarray:
    """Returns `count` numbers of Parquet's mix of runs and packed bits.

    Args:
        data: From the first run on.
        width: Bits of a number.
        count: How many there are.
    """
    if width == 0:
        return np.zeros(count, np.int64)
    out = np.empty(count, np.int64)
    done, at, size = 0, 0, (width + 7) // 8
    while done < count:
        header = shift = 0
        while True:
            byte = data[at]
            at += 1
            header |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if header & 1:
            packed = (header >> 1) * width
            bits = np.frombuffer(data, np.uint8, packed, at)
            bits = np.unpackbits(bits, bitorder="little").reshape(-1, width)
            found = bits @ (1 << np.arange(width, dtype=np.int64))
            take = min(len(found), count - done)
            out[done : done + take] = found[:take]
            at += packed
        else:
            take = min(header >> 1, count - done)
            out[done : done + take] = int.from_bytes(data[at : at + size], "little")
            at += size
        done += take
    return out
