"""
qcow2 images by their headers: read here, where ``qemu-img info`` would take 10 ms and be refused
while a machine runs.
"""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import NamedTuple

from _qemulab_host_seam import HostError

MAGIC = b"QFI\xfb"
FIELDS = ">4s I Q I I Q I I Q Q I I Q Q"
"""The header up to its incompatible features, big-endian. Source: QEMU's docs/interop/qcow2.txt"""
DATA_FILE = 1 << 2
"""Incompatible feature: the data lies in another file. Source: the same."""


class Header(NamedTuple):
    """
    What an image says of itself.

    size
        Size in bytes of the disk that it holds.

    backing
        Whether it has a backing image.

    data_file
        Whether its data lies in another file.

    encrypted
        Whether QEMU would ask for a key.
    """

    size: int
    backing: bool = False
    data_file: bool = False
    encrypted: bool = False


def parse(data: bytes) -> Header | None:
    """Return what the beginning of a file says; ``None`` where it is no qcow2 image."""
    if len(data) < 32 or data[:4] != MAGIC:
        return None
    # Version 2 ends before the features, and a damaged one may end anywhere.
    fields = struct.unpack(FIELDS, data.ljust(struct.calcsize(FIELDS), b"\0"))
    version, backing, size, method = fields[1], fields[2], fields[5], fields[6]
    features = fields[-1] if version >= 3 else 0
    return Header(size, bool(backing), bool(features & DATA_FILE), bool(method))


def header(path: Path, follow: bool = False) -> Header | None:
    """
    Return what an image says of itself; ``None`` where there is no file.

    follow
        Whether the file may be a symbolic link. Default ``False``: a machine's own disk may not.

    Raises HostError where it is no qcow2 image.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        with open(os.open(path, flags), "rb") as stream:
            found = parse(stream.read(struct.calcsize(FIELDS)))
    except FileNotFoundError:
        return None
    except OSError as err:
        if err.errno == errno.ELOOP:
            problem = f"{path} is a symbolic link: a disk is a file of its own"
            raise HostError(problem, hint="move what it leads to in its place") from err
        raise HostError(f"{path}: {err.strerror}") from err
    if found is None:
        hint = "move it away, or convert it (qemu-img convert -O qcow2), and apply again"
        raise HostError(f"{path} is not a qcow2 image", hint=hint)
    return found


def no_backing(path: str) -> str:
    """
    Return in words why an image cannot be a disk's backing image; empty where it can.

    A machine sees this one file, read-only, and its format is given and never probed. So it has to
    be a qcow2 image that needs no other file.
    """
    try:
        found = header(Path(path), follow=True)
    except HostError:
        return "is no qcow2 image: qemu-img convert -O qcow2 makes one of it"
    if found is None or not (found.backing or found.data_file or found.encrypted):
        return ""
    if found.encrypted:
        return "is encrypted, and nobody would give QEMU its key"
    what = "has a backing image of its own" if found.backing else "has its data in another file"
    return f"{what}: qemu-img convert -O qcow2 makes one image of both"
