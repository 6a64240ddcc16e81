"""
Processes of the host: whether one is there, and a signal to the one that is meant or to nobody.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import _qemulab_host as host


def exists(pid: int) -> bool:
    """Return whether a process runs; a zombie, which only waits to be reaped, does not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return fields.rpartition(")")[2].split()[0] not in "ZX"


def send(pid: int, number: signal.Signals, word: str) -> bool:
    """
    Signal a process that is proved to be the one that is meant; returns whether it was.

    pid
        Its number, which another process may have by now.

    number
        The signal.

    word
        What stands in the command line of the one that is meant, and of no other.

    The descriptor stands for one process: the one whose command line is read is the one that gets
    the signal, or nobody. Source: pidfd_open(2)
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if f"\0{word}\0" not in (host.read(f"/proc/{pid}/cmdline") or ""):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
