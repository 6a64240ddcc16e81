"""
The planner, for machines: (what is, what is declared) -> what changes, and what that costs. Pure.

The only place that decides. What is comes in as facts, the answer is a value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from _qemulab_keys import Nic
from _qemulab_keys import Vm
from _qemulab_kinds import size_bytes
from _qemulab_kinds import size_text
from _qemulab_plan_changes import CREATE
from _qemulab_plan_changes import DESTROY
from _qemulab_plan_changes import LIVE
from _qemulab_plan_changes import MOVES
from _qemulab_plan_changes import RECREATE
from _qemulab_plan_changes import RESTART
from _qemulab_plan_changes import STOP
from _qemulab_plan_changes import Change
from _qemulab_plan_changes import Plan
from _qemulab_plan_changes import at_rest
from _qemulab_plan_diff import differences
from _qemulab_plan_diff import leaves
from _qemulab_plan_status import Status


class VmFacts(NamedTuple):
    """
    What is of one machine.

    defined
        What was last applied; ``None`` where it was never defined.

    started
        What its running process was started with, or became since; ``None`` where none runs.

    unsure
        What it may have become instead: a change of what runs was broken off.

    disks
        Size in bytes of each disk image that exists.

    has_variables
        Whether it has its own copy of the UEFI variables.

    status
        How it is; ``STOPPED`` where it is off, whatever put it off.

    supervised
        Whether its process, if there is one, is its supervisor's.

    unit
        Whether the supervisor's definition of that process is there.

    leases
        What is leased on each network: MAC address and address.

    lost
        In words, each image that is no longer where its process has opened it.
    """

    defined: Vm | None = None
    started: Vm | None = None
    disks: Mapping[str, int] = MappingProxyType({})
    has_variables: bool = False
    status: Status = Status.STOPPED
    supervised: bool = True
    unit: bool = True
    leases: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType({})
    lost: tuple[str, ...] = ()
    unsure: tuple[Vm, ...] = ()


def plan_vm(facts: VmFacts, declared: Vm, power: str) -> Plan:
    """
    Return what makes a machine as declared.

    facts
        What is.

    declared
        What is declared.

    power
        ``present`` (leave it as it is), ``running``.
    """
    running = facts.started is not None
    base = facts.started if running else facts.defined
    skip_sizes = {f"disks:{disk.name}:size" for disk in declared.disks}
    found = [
        change
        for change in differences(leaves(base) if base else None, leaves(declared))
        if change.key not in skip_sizes
    ]
    found += doubtful_changes(facts, declared, skip_sizes | {change.key for change in found})
    moved = {c.key.removesuffix("network") for c in found if c.key.endswith(":network")}
    found = [
        # What is plugged in elsewhere is plugged in anew: nothing of that NIC changes live.
        c._replace(effect=RESTART) if c.effect == LIVE and c.key.startswith(tuple(moved)) else c
        for c in found
    ]
    if not running:
        found = [at_rest(change) for change in found]
        # What is not there cannot be lost: a disk that the user has removed is made anew.
        kept = tuple(f"disks:{name}:" for name in facts.disks)
        found = [
            c._replace(effect=CREATE) if c.effect == RECREATE and not c.key.startswith(kept) else c
            for c in found
        ]
    found += disk_changes(facts, declared)
    released = lease_changes(facts, base, declared, found)
    found += released
    if declared.firmware == "uefi" and not facts.has_variables and not running:
        found.append(Change("uefi_variables", None, "generated", CREATE))
    if running and not facts.supervised:
        found.append(Change("supervised", False, True, RESTART))
    elif running and not facts.unit:
        found.append(Change("unit", "absent", "present", LIVE))
    refused = [change for change in found if change.effect == RECREATE]
    restarts = [change for change in found if change.effect == RESTART]
    others = [change for change in found if change.effect not in (RESTART, RECREATE)]
    pending: list[Change] = []
    dead = power == "running" and facts.status.is_dead
    if dead:
        restarts.append(Change("running", facts.status.value, True, RESTART))
    elif restarts and declared.on_change != "restart":
        pending, restarts = restarts, []
    if power == "running" and not running:
        others.append(Change("running", False, True, CREATE if base is None else LIVE))
    if power == "running" and facts.status.is_held:
        others.append(Change("running", facts.status.value, True, LIVE))
    notes = (MOVES,) if released and running else ()
    return Plan(tuple(others + restarts), tuple(pending), tuple(refused), notes)


def doubtful_changes(facts: VmFacts, declared: Vm, known: Collection[str]) -> list[Change]:
    """
    Return what is done again of a change that was broken off, since it may have come through.

    known
        The keys that differ anyway.
    """
    found: dict[str, Change] = {}
    for other in facts.unsure if facts.started else ():
        for change in differences(leaves(other), leaves(declared)):
            if change.key not in known:
                found.setdefault(change.key, change)
    return list(found.values())


def merge_live(started: Vm, declared: Vm) -> Vm:
    """
    Return what a running machine is after all live changes of a declaration were done on it.

    Everything that needs a restart stays as it was started.
    """
    sizes = {disk.name: disk.size for disk in declared.disks if disk.name not in late(started)}
    disks = tuple(
        dataclasses.replace(disk, size=sizes.get(disk.name, disk.size)) for disk in started.disks
    )
    nics = list(started.nics)
    for index, (old, new) in enumerate(zip(started.nics, declared.nics, strict=False)):
        if old.network == new.network:
            nics[index] = dataclasses.replace(
                old, address=new.address, connected=new.connected, forwards=new.forwards
            )
    return dataclasses.replace(
        started,
        disks=disks,
        nics=tuple(nics),
        cdrom=declared.cdrom,
        on_change=declared.on_change,
        autostart=declared.autostart,
        stop_grace=declared.stop_grace,
    )


def disk_changes(facts: VmFacts, declared: Vm) -> list[Change]:
    """Return what the disks' images need: to be made, to grow; to shrink is to be recreated."""
    found = []
    in_use = {disk.name for disk in facts.started.disks} if facts.started else set()
    for disk in declared.disks:
        here = f"disks:{disk.name}:size"
        size = facts.disks.get(disk.name)
        if size is None:
            # A new disk of a running machine comes into being with the restart that shows it.
            effect = RESTART if facts.started and disk.name not in in_use else CREATE
            found.append(Change(here, None, disk.size, effect))
        elif size < size_bytes(disk.size):
            effect = RESTART if disk.name in late(facts.started) else LIVE
            found.append(Change(here, size_text(size), disk.size, effect))
        elif size > size_bytes(disk.size):
            found.append(Change(here, size_text(size), disk.size, RECREATE))
    return found


def lease_changes(
    facts: VmFacts, base: Vm | None, declared: Vm, changes: Iterable[Change]
) -> list[Change]:
    """
    Return which NICs' new addresses a lease contradicts: that is released with them.

    base, changes
        What is compared with, as in ``plan_vm``, and what differs.
    """
    changed = {change.key for change in changes if change.effect != RESTART}
    after = merge_live(facts.started, declared) if facts.started else declared
    old = [nic.address for nic in base.nics] if base else []
    return [
        Change(f"nics:{index}:lease", "contradicts", "released", LIVE)
        for index, nic in enumerate(after.nics)
        if f"nics:{index}:address" in changed
        and contradicted(nic, "".join(old[index : index + 1]), facts.leases.get(nic.network, ()))
    ]


def plan_vm_stopped(running: bool, lost: tuple[str, ...] = ()) -> Plan:
    """Return what powers a machine off; ``lost`` as in ``VmFacts``."""
    return Plan((Change("running", True, False, STOP),), notes=lost) if running else Plan()


def plan_vm_absent(facts: VmFacts, purge: bool, left: bool = False) -> Plan:
    """Return what takes a machine away; its disks, and whatever else is ``left``, where purged."""
    found = []
    if not facts.status.is_off:
        found.append(Change("running", True, False, STOP))
    if facts.defined is not None:
        found.append(Change("definition", "present", None, STOP))
    if purge:
        found += [
            Change(f"disks:{name}", size_text(size) if size else "no image", None, DESTROY)
            for name, size in sorted(facts.disks.items())
        ]
        if facts.has_variables:
            found.append(Change("uefi_variables", "generated", None, DESTROY))
        if left and not found:
            found.append(Change("files", "present", None, DESTROY))
    return Plan(tuple(found), notes=() if purge else facts.lost)


def late(started: Vm | None) -> set[str]:
    """
    Return the disks of a running machine whose guest sees that they have grown when it restarts.

    Measured with Linux 6.1 on QEMU 7.2: of a virtio and a scsi disk it is told at once, an ide disk
    has its old size until the next boot, rescanned or not.
    """
    return {disk.name for disk in started.disks if disk.bus == "ide"} if started else set()


def contradicted(nic: Nic, before: str, leases: Iterable[tuple[str, str]]) -> bool:
    """
    Return whether a lease stands that a NIC's new address does not allow.

    before
        The address that the NIC had until now, empty for none.

    leases
        What is leased on its network: MAC address and address.
    """
    for mac, address in leases:
        stolen = mac != nic.mac and address == nic.address
        moved = mac == nic.mac and address != nic.address
        if stolen or (moved and (nic.address or address == before)):
            return True
    return False
