"""
Locks: one process at a time changes a network or a machine. Part of the seam.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import _qemulab_host_seam as host
from _qemulab_host_seam import HostError

TIMEOUT = 60.0
"""Seconds to wait for whoever changes the same thing at this moment."""


@contextlib.contextmanager
def hold(path: Path, timeout: float = TIMEOUT, directory: bool = False) -> Iterator[None]:
    """
    Hold an exclusive lock for the length of a ``with`` block.

    path
        The lock's file; it stays behind, empty, unless the holder removes it with all that lies
        beside it.

    timeout
        Seconds to wait for another holder. Default ``TIMEOUT``.

    directory
        Whether it is a directory that is locked itself: no file is left in it. Default ``False``.

    Raises HostError, with the holder's PID, where the lock is not to be had in time. The
    descriptor closes on exec: a child never keeps the lock for its own life.
    """
    make = _open_directory if directory else _open
    descriptor = make(path)
    try:

        def taken() -> bool:
            nonlocal descriptor
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if _is_there(path, descriptor):
                return True
            # The last holder has removed it: what was waited for is nobody's lock any more.
            os.close(descriptor)
            descriptor = make(path)
            return False

        if not host.wait_for(taken, timeout):
            problem = f"{path} is held by {holder(descriptor)} for over {timeout:g} s"
            raise HostError(problem, hint="let it finish, or end it, and do this again")
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """Open a lock's file, made where it is missing."""
    host.make_directory(path.parent)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as err:
        raise HostError(f"{path}: {err.strerror}") from err


def _open_directory(path: Path) -> int:
    """Open a directory that is a lock, made where it is missing."""
    host.make_directory(path)
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as err:
        raise HostError(f"{path}: {err.strerror}") from err


def _is_there(path: Path, descriptor: int) -> bool:
    """Return whether what is open still has its name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def holder(descriptor: int) -> str:
    """
    Return who holds the lock of an open file, for a person: as the kernel knows it, since a number
    that was written down may be another process's by now. Source: proc(5), /proc/locks
    """
    found = os.fstat(descriptor)
    file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in (host.read("/proc/locks") or "").splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5] == file:
            name = (host.read(f"/proc/{fields[4]}/comm") or "").strip()
            return f"process {fields[4]}" + (f" ({name})" if name else "")
    return "another process"
