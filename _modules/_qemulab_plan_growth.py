"""
When a guest sees that a disk of its has grown. Pure.
"""

from __future__ import annotations

from _qemulab_keys import Vm


def late(started: Vm | None) -> set[str]:
    """
    Return the disks of a running machine whose guest sees that they have grown when it restarts.

    Measured with Linux 6.1 on QEMU 7.2: of a virtio and a scsi disk it is told at once, an ide disk
    has its old size until the next boot, rescanned or not.
    """
    return {disk.name for disk in started.disks if disk.bus == "ide"} if started else set()
