"""
A guest that writes to its disk and says on its serial console what it knows to be on it.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from typing import Any

import harness
from labs import Lab

NAME = "w"
DISKS = f"/var/lib/qemulab/lab/vms/{NAME}/disks"
IMAGE = f"{DISKS}/hda.qcow2"
BOOT_TIMEOUT = 60.0
"""Seconds until the built-in guest must have booted; it takes 3 on two idle cores."""

RECORD = 4096
STRIDE = 17 * RECORD
"""Bytes from one record to the next: each lies in a cluster of its own, which has to be made."""
MOST = 450
"""Records that fit into the first half of the disk; the other half is for what is never synced."""

DECLARED: dict[str, Any] = {
    "memory": 128,
    "cpus": 1,
    "firmware": "bios",
    "boot": "guest",
    "nics": [],
    "stop_grace": 1,
    "disks": [{"size": "64M", "bus": "virtio"}],
}
"""A machine that boots in 3 seconds: a kernel without firmware, nothing but a disk."""

RECORDS = (
    'i=0; while [ $i -lt {most} ]; do i=$((i + 1)); yes "record $i" | head -c 4096 | '
    "dd of=/dev/vda bs=4096 seek=$((i * 17)) conv=notrunc,fsync 2>/dev/null && echo ack $i.; done"
)
"""What the guest runs: each record is synced, and then acknowledged."""

FILL = "dd if=/dev/zero of=/dev/vda bs=64k seek=512 count={count} conv=notrunc 2>/dev/null"
"""What it runs beside that: blocks of 64 KiB in the disk's other half; it never syncs."""


def record(number: int) -> bytes:
    """Return what the guest writes as one record."""
    line = f"record {number}\n".encode()
    return (line * RECORD)[:RECORD]


class Console:
    """The serial console of the writing machine, with a root shell at its end."""

    def __init__(self, lab: Lab) -> None:
        self.path = str(lab.host.path(f"/run/qemulab/lab/vms/{NAME}/serial.sock"))
        self.said = ""
        self.socket = socket.socket(socket.AF_UNIX)
        harness.wait_for(self.connect, BOOT_TIMEOUT, "the writing machine's console")
        harness.wait_for(self.shell, BOOT_TIMEOUT, "a shell on the writing machine's console")
        self.run("stty -echo; PS1=")

    def connect(self) -> bool:
        """Try to connect; QEMU may be on its way up, its last one's socket still there."""
        with contextlib.suppress(OSError):
            self.socket.connect(self.path)
            return True
        return False

    def shell(self) -> bool:
        """Ask for a sign of a shell: Enter starts one; returns whether one has answered."""
        self.send("echo at-$((40 + 2))")
        assert self.listen(0.3), "QEMU is gone"
        return "at-42" in self.said

    def send(self, line: str) -> None:
        """Type a line."""
        self.socket.sendall(line.encode() + b"\n")

    def listen(self, timeout: float) -> bool:
        """Take in what is said; returns whether anybody is there to say more."""
        self.socket.settimeout(timeout)
        try:
            heard = self.socket.recv(65536)
        except TimeoutError:
            return True
        except OSError:
            return False
        self.said += heard.decode("utf-8", "replace")
        return bool(heard)

    def wait(self, pattern: str, timeout: float = 30) -> re.Match[str]:
        """Wait until something has been said, and return where."""
        deadline = time.monotonic() + timeout
        while (found := re.search(pattern, self.said)) is None:
            assert time.monotonic() < deadline, f"{pattern} was not said: {self.said[-500:]}"
            assert self.listen(0.1), f"QEMU is gone: {self.said[-500:]}"
        return found

    def run(self, command: str, timeout: float = 30) -> str:
        """Run a command to its end, and return what it said."""
        self.said = ""
        self.send(f"{command}; echo end-$((40 + 2))")
        found = self.wait("end-42", timeout)
        return self.said[: found.start()].replace("\r", "")

    def acknowledged(self) -> int:
        """Return how many records the guest knows to be on its disk."""
        return max((int(number) for number in re.findall(r"ack (\d+)\.", self.said)), default=0)

    def close(self) -> None:
        """Let the next one in."""
        self.socket.close()
