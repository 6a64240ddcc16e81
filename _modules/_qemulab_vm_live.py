"""
What can be done on a running machine, through QMP: cables, ports, discs, growing disks.

Whatever moment it is broken off at, the next apply must know. So before the first step it is stored
what the machine is to be and, beside it, that it may still be as it was (``unsure``): each key in
which the two differ is then in doubt, and is done again whatever is declared by then. Once all is
done, whoever has it done stores the machine without a doubt.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from collections.abc import Iterator
from functools import partial
from typing import Any
from typing import NamedTuple

import _qemulab_vm_command as command
import _qemulab_vm_forwards as forwards
import _qemulab_vm_media as media
import _qemulab_vm_ports as vm_ports
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Disk
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_kinds import size_bytes
from _qemulab_plan_vm import VmFacts
from _qemulab_run_site import Site
from _qemulab_vm_qmp import Qmp
from _qemulab_vm_qmp import QmpError
from _qemulab_vm_status import proven

DISC_NODES = ("node-cdrom", "node-cdrom-2")
"""Block nodes of discs: the next one is there before the last one is taken out."""


class Step(NamedTuple):
    """
    One thing that is done on a running machine.

    do
        Does it, or raises.

    after
        The machine once it is done.

    doubtful
        Whether nobody can be asked how far it came where it fails. Default ``False``.
    """

    do: Callable[[Qmp], None]
    after: Vm
    doubtful: bool = False


def change_live(site: Site, name: str, old: Vm, new: Vm, before: VmFacts) -> None:
    """
    Do on a running machine what can be done on one.

    old, new
        What it is, and what it is to be.

    before
        What else is of it.

    Raises HostError, QmpError or OSError at the first step that fails; what is done by then is
    stored.
    """
    vm_ports.check(site, name, new, old)
    media.check(site, name, new, old)
    defined = before.defined or old
    site.store.keep_vm(name, defined, new, (old, *before.unsure))
    done, doubts = old, before.unsure
    try:
        with proven(site, name) as qmp:
            for step in steps(old, new, before):
                doubts = (step.after, *before.unsure) if step.doubtful else before.unsure
                step.do(qmp)
                done = step.after
    except (HostError, QmpError, OSError):
        site.store.keep_vm(name, defined, done, doubts)
        raise


def steps(old: Vm, new: Vm, before: VmFacts) -> Iterator[Step]:
    """Yield what is done on a running machine; arguments as in ``change_live``."""
    now = old
    for disk in new.disks:
        size = before.disks.get(disk.name)
        if size is not None and size < size_bytes(disk.size):
            yield Step(partial(grow, disk=disk), now)
    now = dataclasses.replace(now, disks=new.disks)
    for index, nic in enumerate(new.nics):
        now = with_nic(now, index, forwards=nic.forwards)
    yield Step(partial(forwards.change, old=old, new=new), now)
    for index, nic in enumerate(new.nics):
        if any(each.nics[index].connected != nic.connected for each in (old, *before.unsure)):
            now = with_nic(now, index, connected=nic.connected)
            yield Step(partial(plug, index=index, up=nic.connected), now, doubtful=True)
    if any(each.cdrom != new.cdrom for each in (old, *before.unsure)):
        now = dataclasses.replace(now, cdrom=new.cdrom)
        yield Step(partial(change_disc, new=new.cdrom), now, doubtful=True)


def with_nic(vm: Vm, index: int, **keys: Any) -> Vm:
    """Return a machine with keys of one of its NICs changed."""
    nics = list(vm.nics)
    nics[index] = dataclasses.replace(nics[index], **keys)
    return dataclasses.replace(vm, nics=tuple(nics))


def grow(qmp: Qmp, disk: Disk) -> None:
    """Grow a disk under its guest."""
    arguments = {"node-name": command.node_name(disk), "size": size_bytes(disk.size)}
    qmp.execute("block_resize", arguments, timeout=30)


def set_cable(site: Site, name: str, index: int, up: bool) -> None:
    """Plug a NIC's cable in or out."""
    with proven(site, name) as qmp:
        plug(qmp, index, up)


def plug(qmp: Qmp, index: int, up: bool) -> None:
    """Plug a NIC's cable in or out, on a connection."""
    qmp.execute("set_link", {"name": f"nic{index}", "up": up})


def change_disc(qmp: Qmp, new: str) -> None:
    """
    Put a disc into a running machine's CD drive in place of what is in it; empty for none.

    The file is opened here and handed over: QEMU's own user and mount namespace need not see it.
    Nothing is taken out before QEMU has the new one.
    """
    inserted = disc_node(qmp)
    there = {each["node-name"] for each in qmp.execute("query-named-block-nodes", {"flat": True})}
    for left in (there & set(DISC_NODES)) - {inserted}:
        # By one that was broken off.
        qmp.execute("blockdev-del", {"node-name": left})
    node = next(each for each in DISC_NODES if each != inserted)
    if new:
        add_disc(qmp, new, node)
    qmp.execute("blockdev-open-tray", {"id": "cdrom", "force": True})
    if inserted:
        qmp.execute("blockdev-remove-medium", {"id": "cdrom"})
        qmp.execute("blockdev-del", {"node-name": inserted})
    if new:
        qmp.execute("blockdev-insert-medium", {"id": "cdrom", "node-name": node})
    qmp.execute("blockdev-close-tray", {"id": "cdrom"})


def disc_node(qmp: Qmp) -> str:
    """Return the block node of the disc that is in the CD drive, empty where none is."""
    for drive in qmp.execute("query-block"):
        if str(drive.get("qdev", "")).rpartition("/")[2] == "cdrom":
            return str(drive.get("inserted", {}).get("node-name", ""))
    return ""


def add_disc(qmp: Qmp, path: str, node: str) -> None:
    """Have QEMU open a disc, without putting it in."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = qmp.execute("add-fd", {"opaque": "cdrom"}, descriptor=descriptor)
    finally:
        os.close(descriptor)
    arguments: dict[str, Any] = {
        "driver": "raw",
        "node-name": node,
        "read-only": True,
        "file": {"driver": "file", "filename": f"/dev/fdset/{found['fdset-id']}"},
    }
    qmp.execute("blockdev-add", arguments)
