"""
The planner, for machines: (what is, what is declared) -> what changes, and what that costs. Pure.

What is to be done with a machine is decided here alone. What is comes in as facts, the answer is a
value.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from _qemulab_pillar_keys import QMP
from _qemulab_pillar_keys import Nic
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_kinds import size_bytes
from _qemulab_pillar_kinds import size_text
from _qemulab_plan_changes import CREATE
from _qemulab_plan_changes import DESTROY
from _qemulab_plan_changes import LIVE
from _qemulab_plan_changes import MOVES
from _qemulab_plan_changes import RECREATE
from _qemulab_plan_changes import RESTART
from _qemulab_plan_changes import STOP
from _qemulab_plan_changes import Change
from _qemulab_plan_changes import Path
from _qemulab_plan_changes import Plan
from _qemulab_plan_changes import at_rest
from _qemulab_plan_changes import fact
from _qemulab_plan_diff import differences
from _qemulab_plan_diff import leaves
from _qemulab_plan_diff import merged
from _qemulab_plan_files import file_changes
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

    files
        Generated files that somebody else has been at, as in ``file_changes``.
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
    files: Mapping[str, str] = MappingProxyType({})


def plan_vm(facts: VmFacts, declared: Vm, power: str, restarted: bool = False) -> Plan:
    """
    Return what makes a machine as declared.

    facts
        What is.

    declared
        What is declared.

    power
        ``present`` (leave it as it is), ``running``.

    restarted
        Whether it is restarted anyway, for its network: nothing waits then. Default ``False``.
    """
    running = facts.started is not None
    base = facts.started if running else facts.defined
    found = declared_changes(facts, base, declared)
    found += disk_changes(facts, declared)
    released = lease_changes(facts, base, declared, found)
    found += released
    if declared.firmware == "uefi" and not facts.has_variables and not running:
        found.append(fact("uefi_variables", None, "generated", CREATE))
    if running and not facts.supervised:
        found.append(fact("supervised", False, True, RESTART))
    elif running and not facts.unit:
        found.append(fact("unit", "absent", "present", LIVE))
    found += file_changes(facts.files)
    refused = [change for change in found if change.effect == RECREATE]
    restarts = [change for change in found if change.effect == RESTART]
    others = [change for change in found if change.effect not in (RESTART, RECREATE)]
    pending: list[Change] = []
    dead = power == "running" and facts.status.is_dead
    if dead:
        restarts.append(fact("running", facts.status.value, True, RESTART))
    elif restarts and not (restarted or declared.on_change == "restart"):
        pending, restarts = restarts, []
    if power == "running" and not running:
        others.append(fact("running", False, True, CREATE if base is None else LIVE))
    if power == "running" and facts.status.is_held:
        others.append(fact("running", facts.status.value, True, LIVE))
    notes = (MOVES,) if released and running else ()
    return Plan(tuple(others + restarts), tuple(pending), tuple(refused), notes)


def declared_changes(facts: VmFacts, base: Vm | None, declared: Vm) -> list[Change]:
    """
    Return what differs from the declaration but the sizes of disks, which their images have.

    base
        What is compared with: what runs, or else what was last applied.
    """
    names = {disk.name for disk in declared.disks}
    differing = differences(leaves(base) if base else None, leaves(declared))
    differing += doubtful_changes(facts, declared, {change.path for change in differing})
    found = []
    for change in differing:
        match change.path:
            case ("disks", name, "size") if name in names:
                continue
            case ("nics", index, _) if change.effect == LIVE and base and facts.started:
                # What is plugged in elsewhere is plugged in anew: nothing of that NIC changes live.
                if base.nics[int(index)].network != declared.nics[int(index)].network:
                    change = change._replace(effect=RESTART)
            case ("disks", name, _) if change.effect == RECREATE and not facts.started:
                # What is not there cannot be lost: a disk that was removed is made anew.
                if name not in facts.disks:
                    change = change._replace(effect=CREATE)
        found.append(change if facts.started else at_rest(change))
    return found


def doubtful_changes(facts: VmFacts, declared: Vm, known: Collection[Path]) -> list[Change]:
    """
    Return what is done again of a change that was broken off, since it may have come through.

    known
        What differs anyway.
    """
    found: dict[Path, Change] = {}
    for other in facts.unsure if facts.started else ():
        for change in differences(leaves(other), leaves(declared)):
            if change.path not in known:
                found.setdefault(change.path, change)
    return list(found.values())


def disk_changes(facts: VmFacts, declared: Vm) -> list[Change]:
    """Return what the disks' images need: to be made, to grow; to shrink is to be recreated."""
    found = []
    in_use = {disk.name for disk in facts.started.disks} if facts.started else set()
    for disk in declared.disks:
        size, wanted = facts.disks.get(disk.name), size_bytes(disk.size)
        if size is None:
            # A new disk of a running machine comes into being with the restart that shows it.
            effect = RESTART if facts.started and disk.name not in in_use else CREATE
        elif size < wanted:
            effect = RESTART if disk.name in late(facts.started) else LIVE
        else:
            effect = RECREATE
        if size != wanted:
            old = None if size is None else size_text(size)
            found.append(Change(("disks", disk.name, "size"), old, disk.size, effect, QMP))
    return found


def lease_changes(
    facts: VmFacts, base: Vm | None, declared: Vm, changes: Iterable[Change]
) -> list[Change]:
    """
    Return which NICs' new addresses a lease contradicts: that is released with them.

    base, changes
        What is compared with, as in ``plan_vm``, and what differs.
    """
    waiting = {change.path for change in changes if change.effect == RESTART}
    changed = {change.path for change in changes} - waiting
    after = merged(facts.started, declared, waiting) if facts.started else declared
    old = [nic.address for nic in base.nics] if base else []
    return [
        Change(("nics", str(index), "lease"), "contradicts", "released", LIVE)
        for index, nic in enumerate(after.nics)
        if ("nics", str(index), "address") in changed
        and contradicted(nic, "".join(old[index : index + 1]), facts.leases.get(nic.network, ()))
    ]


def plan_vm_stopped(running: bool, lost: tuple[str, ...] = ()) -> Plan:
    """Return what powers a machine off; ``lost`` as in ``VmFacts``."""
    return Plan((fact("running", True, False, STOP),), notes=lost) if running else Plan()


def plan_vm_absent(facts: VmFacts, purge: bool, left: bool = False) -> Plan:
    """Return what takes a machine away; its disks, and whatever else is ``left``, where purged."""
    found = []
    if not facts.status.is_off:
        found.append(fact("running", True, False, STOP))
    if facts.defined is not None:
        found.append(fact("definition", "present", None, STOP))
    if purge:
        found += [
            Change(("disks", name), size_text(size) if size else "no image", None, DESTROY)
            for name, size in sorted(facts.disks.items())
        ]
        if facts.has_variables:
            found.append(fact("uefi_variables", "generated", None, DESTROY))
        if left and not found:
            found.append(fact("files", "present", None, DESTROY))
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
