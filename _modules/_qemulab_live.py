"""
What can be done on a running machine, through QMP: cables, ports, discs, growing disks.
"""

from __future__ import annotations

import os
from typing import Any

import _qemulab_host_ports as ports
import _qemulab_machine as machine
from _qemulab_host import HostError
from _qemulab_keys import Forward
from _qemulab_keys import Vm
from _qemulab_kinds import size_bytes
from _qemulab_look import proven
from _qemulab_plan_vm import VmFacts
from _qemulab_qmp import Qmp
from _qemulab_site import Site


def change_live(site: Site, name: str, old: Vm, new: Vm, before: VmFacts) -> None:
    """Do on a running machine what can be done on one."""
    # Every port that is to be opened, before any other is closed.
    ports.check(site, name, new, old)
    with proven(site, name) as qmp:
        for disk in new.disks:
            size = before.disks.get(disk.name)
            if size is not None and size < size_bytes(disk.size):
                arguments = {"node-name": machine.node_name(disk)}
                qmp.execute("block_resize", arguments | {"size": size_bytes(disk.size)}, timeout=30)
        for index, (was, now) in enumerate(zip(old.nics, new.nics, strict=True)):
            if was.connected != now.connected:
                qmp.execute("set_link", {"name": f"nic{index}", "up": now.connected})
            change_forwards(qmp, index, set(was.forwards or ()), set(now.forwards or ()))
        if old.cdrom != new.cdrom:
            change_disc(qmp, old.cdrom, new.cdrom)


def set_link(site: Site, name: str, index: int, up: bool) -> None:
    """Plug a NIC's cable in or out."""
    with proven(site, name) as qmp:
        qmp.execute("set_link", {"name": f"nic{index}", "up": up})


def change_forwards(qmp: Qmp, index: int, old: set[Forward], new: set[Forward]) -> None:
    """Close and open forwarded ports of a running machine."""
    for forward in sorted(old - new, key=str):
        rule = machine.forward_rule(forward).rpartition("-")[0]
        human(qmp, f"hostfwd_remove net{index} {rule}", "removed")
    for forward in sorted(new - old, key=str):
        human(qmp, f"hostfwd_add net{index} {machine.forward_rule(forward)}", "")


def human(qmp: Qmp, command: str, wanted: str) -> None:
    """Run a command that QEMU offers to humans only; anything unexpected it says is an error."""
    said = str(qmp.execute("human-monitor-command", {"command-line": command})).strip()
    if (wanted and wanted not in said) or (said and not wanted):
        raise HostError(f"QEMU refused {command}", said)


def change_disc(qmp: Qmp, old: str, new: str) -> None:
    """
    Take a disc out of a running machine's CD drive, or put one in.

    The file is opened here and handed over: QEMU's own user and mount namespace need not see it.
    """
    qmp.execute("blockdev-open-tray", {"id": "cdrom", "force": True})
    if old:
        qmp.execute("blockdev-remove-medium", {"id": "cdrom"})
        qmp.execute("blockdev-del", {"node-name": "node-cdrom"})
    if new:
        descriptor = os.open(new, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = qmp.execute("add-fd", {"opaque": "cdrom"}, descriptor=descriptor)
        finally:
            os.close(descriptor)
        node: dict[str, Any] = {
            "driver": "raw",
            "node-name": "node-cdrom",
            "read-only": True,
            "file": {"driver": "file", "filename": f"/dev/fdset/{found['fdset-id']}"},
        }
        qmp.execute("blockdev-add", node)
        qmp.execute("blockdev-insert-medium", {"id": "cdrom", "node-name": "node-cdrom"})
    qmp.execute("blockdev-close-tray", {"id": "cdrom"})
