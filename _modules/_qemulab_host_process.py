"""
Processes of the host: whether one is there, what this one may do, and a signal to the one that is
meant or to nobody.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import _qemulab_host_log as log
import _qemulab_host_seam as host
from _qemulab_host_seam import HostError


def exists(pid: int) -> bool:
    """Return whether a process runs; a zombie, which only waits to be reaped, does not."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX"


def _stat(pid: int) -> list[str]:
    """Return what the kernel tells of a process from its state on; nothing where it is gone."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return line.rpartition(")")[2].split()


def identity(pid: int) -> str:
    """
    Return what no other process has, although PIDs are used again: its PID, and when it began, in
    ticks since the host's boot. Empty for one that is not there. Source: proc(5), stat
    """
    fields = _stat(pid)
    return f"{pid} {fields[19]}" if fields else ""


def cpu_ticks(pid: int) -> int:
    """
    Return how much CPU time a process has had, its children's with it, in ticks of the clock; 0
    for one that is not there. It grows as long as the process gets anywhere. Source: proc(5), stat
    """
    ticks = 0
    for each in (pid, *_children(pid)):
        fields = _stat(each)
        ticks += int(fields[11]) + int(fields[12]) if fields else 0
    return ticks


def _children(pid: int) -> list[int]:
    """Return a process's children; none where the kernel does not list them."""
    try:
        return [int(word) for word in (host.read(f"/proc/{pid}/task/{pid}/children") or "").split()]
    except HostError:
        return []


def has_capability(bit: int) -> bool:
    """Return whether this process has a capability, by its bit. Source: proc(5), CapEff."""
    status = host.read("/proc/self/status") or ""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return bool(found and int(found[1], 16) >> bit & 1)


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
        if not _has_word(pid, word):
            return False
        signal.pidfd_send_signal(descriptor, number)
        log.say("signal %s to process %d (%s)", number.name, pid, word)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _has_word(pid: int, word: str) -> bool:
    """Return whether a word stands in a process's command line, not as the program's own name."""
    try:
        return f"\0{word}\0" in (host.read(f"/proc/{pid}/cmdline") or "")
    except HostError:
        return False


def find(word: str, user: str) -> list[int]:
    """
    Return the processes that have a word in their command line, run as a user, and see this
    host's network: a container's, which may have the same names, do not.
    """
    if not host.has_user(user):
        return []
    uid = host.user_ids(user)[0]
    found = []
    for pid in map(int, filter(str.isdigit, host.list_directory(Path("/proc")))):
        if _has_word(pid, word) and exists(pid) and _is_local(pid, uid):
            found.append(pid)
    return found


def command_lines(user: str) -> dict[int, list[str]]:
    """Return the command lines of a user's processes that see this host's network, by PID."""
    found = {}
    if host.has_user(user):
        uid = host.user_ids(user)[0]
        for pid in map(int, filter(str.isdigit, host.list_directory(Path("/proc")))):
            if _is_local(pid, uid) and exists(pid):
                with contextlib.suppress(HostError):
                    found[pid] = (host.read(f"/proc/{pid}/cmdline") or "").split("\0")[:-1]
    return found


def _is_local(pid: int, uid: int) -> bool:
    """Return whether a process runs as a user and in this network namespace."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        space = os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return False
    return f"\nUid:\t{uid}\t" in status and space == os.readlink("/proc/self/ns/net")


def open_files(pid: int) -> dict[tuple[int, int], tuple[str, str]]:
    """
    Return the files that a process has open.

    By device and inode: the path that it was opened by, and where it can be read as long as the
    process runs, its name gone or not. Empty where this process may not ask. Source: proc(5), fd/
    """
    directory = f"/proc/{pid}/fd"
    found = {}
    with contextlib.suppress(OSError):
        for number in os.listdir(directory):
            with contextlib.suppress(OSError):
                where = f"{directory}/{number}"
                path = os.readlink(where)
                if path.startswith("/"):
                    file = os.stat(where)
                    path = path.removesuffix(" (deleted)")
                    found[file.st_dev, file.st_ino] = path, where
    return found


def end(pid: int, word: str, grace: float) -> None:
    """
    End a process that has a word in its command line: SIGTERM, after its grace SIGKILL.

    Raises HostError where it does not end; one that has ended by then is fine.
    """
    with watched(pid) as ended:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not send(pid, number, word) or host.wait_for(ended, grace):
                return
        raise HostError(f"process {pid} does not end", hint=f"see /proc/{pid}/status")


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Callable[[], bool]]:
    """
    Give a question: has the process that has this number now ended?

    Another process that gets the number later changes nothing of the answer. Source: pidfd_open(2)
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        yield lambda: True
        return
    try:
        yield lambda: bool(select.select([descriptor], [], [], 0)[0])
    finally:
        os.close(descriptor)
