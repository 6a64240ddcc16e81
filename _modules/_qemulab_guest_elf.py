"""
What a program is linked with, read from its file: no program is run for it. Pure.

``ldd`` would run the program's loader, which a program that was only unpacked may not even have.
Source: elf(5)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

DIRECTORIES = (
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "lib64",
    "usr/lib64",
    "lib",
    "usr/lib",
)
"""Where loaders look by themselves: Debian's and its relatives', then Fedora's and openSUSE's."""

LOAD, DYNAMIC, INTERPRETER = 1, 2, 3
"""Types of program headers."""

NEEDED, STRING_TABLE = 1, 5
"""Tags of the dynamic section."""


class Linked(NamedTuple):
    """
    What a program or library needs in order to run.

    loader
        Absolute path of its loader; empty for a library and for a static program.

    needed
        The names of its libraries.
    """

    loader: str
    needed: tuple[str, ...]


def linked(data: bytes) -> Linked:
    """
    Return what a program or library is linked with.

    data
        Its whole file.

    Raises ValueError where that is no program or library for x86_64.
    """
    # 64 bits, little-endian; machine 62 is x86_64.
    if data[:6] != b"\x7fELF\x02\x01" or data[18:20] != b"\x3e\x00":
        raise ValueError("it is no program for x86_64")
    try:
        return _linked(data)
    except (struct.error, IndexError, OverflowError) as err:
        raise ValueError(f"it is damaged: {err}") from err


def _linked(data: bytes) -> Linked:
    """Return what ``linked`` does; a damaged file raises whatever comes of it."""
    headers = list(_headers(data))
    loader = ""
    entries: list[tuple[int, int]] = []
    for kind, offset, _, size in headers:
        if kind == INTERPRETER:
            loader = data[offset : offset + size].rstrip(b"\0").decode()
        elif kind == DYNAMIC:
            for tag, value in struct.iter_unpack("<qQ", data[offset : offset + size // 16 * 16]):
                if tag == 0:
                    break
                entries.append((tag, value))
    strings = [_in_file(headers, value) for tag, value in entries if tag == STRING_TABLE]
    names = [value for tag, value in entries if tag == NEEDED]
    return Linked(loader, tuple(_text(data, strings[0] + name) for name in names))


def _headers(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield the program headers: type, place in the file, address, size in the file."""
    (start,) = struct.unpack_from("<Q", data, 32)
    width, count = struct.unpack_from("<HH", data, 54)
    for number in range(count):
        place = start + width * number
        kind, _, offset, address, _, size = struct.unpack_from("<IIQQQQ", data, place)
        yield kind, offset, address, size


def _in_file(headers: list[tuple[int, int, int, int]], address: int) -> int:
    """Return where in the file something is, by its address in memory."""
    for kind, offset, start, size in headers:
        if kind == LOAD and start <= address < start + size:
            return offset + address - start
    raise IndexError(f"nothing is at {address:#x}")


def _text(data: bytes, start: int) -> str:
    """Return the text that begins somewhere and ends with a NUL."""
    return data[start : data.index(b"\0", start)].decode()
