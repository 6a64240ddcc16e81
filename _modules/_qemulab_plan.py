"""
The planner: (what is, what is declared) -> what changes, and what each change costs.

The only place that decides. The dry run prints its answer and the apply carries the same answer
out, so that the two cannot disagree. Pure: what is comes in as facts, the answer is a value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from typing import NamedTuple

import _qemulab_plan_growth as growth
from _qemulab_keys import Network
from _qemulab_keys import Reservation
from _qemulab_keys import Vm
from _qemulab_kinds import size_bytes
from _qemulab_kinds import size_text
from _qemulab_lan_hosts import contradicted
from _qemulab_schema import plain

CREATE = "create"
LIVE = "live"
BOOT = "boot"
RESTART = "restart"
RECREATE = "recreate"
STOP = "stop"
DESTROY = "destroy"

EFFECTS = {
    CREATE: "nothing existed",
    LIVE: "done on the running machine or network, nobody notices",
    BOOT: "done at once, and it shows when the host boots next; nothing that runs is touched",
    RESTART: "the machine must be powered off and on",
    RECREATE: "data on a disk would be lost: always refused",
    STOP: "a machine is powered off, or a network taken down",
    DESTROY: "data is removed",
}
"""Every effect, with what it means to a user."""


RESUMABLE = ("paused", "io-error")
"""QEMU's run states that ``cont`` ends. Source: QEMU's qapi/run-state.json, RunState"""
DEAD = ("internal-error", "guest-panicked")
"""Those that only a reset ends: what was in the guest's memory is lost already."""


MOVES = "a running guest moves when it next renews its lease"


class Change(NamedTuple):
    """One thing that is not as declared."""

    key: str
    old: Any
    new: Any
    effect: str

    def words(self) -> dict[str, Any]:
        """Return it as a state's ``changes`` have it."""
        return {"old": self.old, "new": self.new, "effect": self.effect}


class Plan(NamedTuple):
    """
    What one state has to do.

    changes
        What the apply does.

    pending
        What waits for a restart that nobody asked for.

    refused
        What is never done, because data would be lost.

    notes
        Sentences for the user.

    machines
        Machines that have to be restarted for it, beside the thing itself.
    """

    changes: tuple[Change, ...] = ()
    pending: tuple[Change, ...] = ()
    refused: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()

    def keys(self) -> set[str]:
        """Return the keys that the apply changes."""
        return {change.key for change in self.changes}

    def has(self, effect: str) -> bool:
        """Return whether any change has this effect."""
        return any(change.effect == effect for change in self.changes)


def words(changes: Iterable[Change]) -> dict[str, dict[str, Any]]:
    """Return changes as Salt shows them: by key, each with old value, new value and effect."""
    return {change.key: change.words() for change in changes}


Leaves = dict[str, tuple[Any, str]]


def leaves(spec: Any, skip: Iterable[str] = ()) -> Leaves:
    """
    Return every value of a declaration by the key that the user wrote, with its effect.

    Disks are keyed by their names, NICs by their positions; ``disks`` itself is the list of
    names, so that an order that changed shows as well. What says nothing is ``None``.
    """
    found: Leaves = {}
    for item in dataclasses.fields(spec):
        if item.name in skip:
            continue
        value = getattr(spec, item.name)
        effect = item.metadata["effect"]
        if item.name == "disks":
            found["disks"] = ([disk.name for disk in value], RESTART)
            for disk in value:
                _nest(found, f"disks:{disk.name}", leaves(disk, skip=("name",)))
        elif item.name == "nics":
            for index, nic in enumerate(value):
                _nest(found, f"nics:{index}", leaves(nic))
        elif item.name == "names":
            _nest(found, "names", {name: (address, effect) for name, address in value.items()})
        elif dataclasses.is_dataclass(value):
            _nest(found, item.name, leaves(value))
        elif item.name == "forwards":
            found["forwards"] = ([str(forward) for forward in value] or None, effect)
        else:
            empty = value in ("", (), {}) or (value == 0 and item.name == "vnc_port")
            found[item.name] = (None if empty else plain(value), effect)
    return found


def _nest(found: Leaves, prefix: str, inner: Leaves) -> None:
    found.update({f"{prefix}:{name}": leaf for name, leaf in inner.items()})


def differences(old: Leaves | None, new: Leaves) -> list[Change]:
    """
    Return what differs between two declarations, by key.

    old
        What was applied; ``None`` where nothing was, and then every value is created.

    new
        What is declared.
    """
    found = []
    for name, (value, effect) in new.items():
        if old is None:
            if value is not None:
                found.append(Change(name, None, value, CREATE))
        elif name not in old:
            if value is not None:
                found.append(Change(name, None, value, _of_list(name, effect)))
        elif old[name][0] != value:
            found.append(Change(name, old[name][0], value, effect))
    for name, (value, effect) in (old or {}).items():
        if name not in new and value is not None:
            found.append(Change(name, value, None, _of_list(name, effect)))
    return found


def _of_list(name: str, effect: str) -> str:
    """Return the effect of a key that comes or goes with its whole disk or NIC."""
    return RESTART if name.startswith(("disks:", "nics:")) else effect


# Machines


class VmFacts(NamedTuple):
    """
    What is of one machine.

    defined
        What was last applied; ``None`` where it was never defined.

    started
        What its running process was started with; ``None`` where none runs.

    disks
        Size in bytes of each disk image that exists.

    has_variables
        Whether it has its own copy of the UEFI variables.

    status
        ``stopped``, ``running`` or another word of QEMU's for a process that is there.

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
    status: str = "stopped"
    supervised: bool = True
    unit: bool = True
    leases: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType({})
    lost: tuple[str, ...] = ()


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
    moved = {c.key.removesuffix("network") for c in found if c.key.endswith(":network")}
    found = [
        # What is plugged in elsewhere is plugged in anew: nothing of that NIC changes live.
        c._replace(effect=RESTART) if c.effect == LIVE and c.key.startswith(tuple(moved)) else c
        for c in found
    ]
    if not running:
        found = [_free(change) for change in found]
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
    dead = power == "running" and facts.status in DEAD
    if dead:
        restarts.append(Change("running", facts.status, True, RESTART))
    elif restarts and declared.on_change != "restart":
        pending, restarts = restarts, []
    if power == "running" and not running:
        others.append(Change("running", False, True, CREATE if base is None else LIVE))
    if power == "running" and facts.status in RESUMABLE:
        others.append(Change("running", facts.status, True, LIVE))
    notes = (MOVES,) if released and running else ()
    return Plan(tuple(others + restarts), tuple(pending), tuple(refused), notes)


def _free(change: Change) -> Change:
    """Return the change as it is on a machine that is off: a restart costs nothing there."""
    if change.effect == RESTART:
        return change._replace(effect=LIVE)
    return change


def merge_live(started: Vm, declared: Vm) -> Vm:
    """
    Return what a running machine is after all live changes of a declaration were done on it.

    Everything that needs a restart stays as it was started.
    """
    sizes = {
        disk.name: disk.size for disk in declared.disks if disk.name not in growth.late(started)
    }
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
            effect = RESTART if disk.name in growth.late(facts.started) else LIVE
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
    if facts.status != "stopped":
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


# Networks


class NetworkFacts(NamedTuple):
    """
    What is of one network.

    defined
        What was last applied; ``None`` where it was never defined.

    link
        The TAP in one word; ``up`` is right.

    route
        Whether the multicast group has its own route on the loopback interface.

    hub, dnsmasq
        Whether each process runs.

    machines
        Running machines that sit on it.

    reservations
        What is reserved on it.

    orphans
        Which of the two processes run without their supervisor.

    units
        Whether the supervisor's definitions of both are there.
    """

    defined: Network | None = None
    link: str = "absent"
    route: bool = False
    hub: bool = False
    dnsmasq: bool = False
    machines: tuple[str, ...] = ()
    reservations: Mapping[str, Reservation] = MappingProxyType({})
    orphans: tuple[str, ...] = ()
    units: bool = True


def plan_network(facts: NetworkFacts, declared: Network) -> Plan:
    """Return what makes a network as declared, and its link and processes as they should be."""
    old = leaves(facts.defined, skip=("reservations",)) if facts.defined else None
    found = differences(old, leaves(declared, skip=("reservations",)))
    if any(change.key == "address" and change.effect == RESTART for change in found):
        # Ranges and routes belong to the address: they wait together.
        found = [c._replace(effect=RESTART) if c.key.startswith("dhcp:") else c for c in found]
    if not facts.machines:
        found = [_free(change) for change in found]
    restarts = [change for change in found if change.effect == RESTART]
    others = [change for change in found if change.effect != RESTART]
    pending: list[Change] = []
    if restarts and declared.on_change != "restart":
        pending, restarts = restarts, []
    effect = CREATE if old is None else LIVE
    if facts.link != "up":
        others.append(Change("link", facts.link, "up", effect))
    if not facts.route:
        others.append(Change("route", "absent", "loopback", effect))
    for what, runs in (("hub", facts.hub), ("dnsmasq", facts.dnsmasq)):
        if not runs:
            now = "unmanaged" if what in facts.orphans else "stopped"
            others.append(Change(what, now, "running", effect))
    if facts.hub and facts.dnsmasq and not facts.units:
        others.append(Change("units", "absent", "present", effect))
    machines = facts.machines if restarts or pending else ()
    return Plan(tuple(others + restarts), tuple(pending), machines=machines)


def plan_network_absent(facts: NetworkFacts) -> Plan:
    """Return what takes a network away."""
    found = []
    for what, runs in (("hub", facts.hub), ("dnsmasq", facts.dnsmasq)):
        if runs or what in facts.orphans:
            found.append(Change(what, "running" if runs else "unmanaged", "stopped", STOP))
    if facts.link not in ("absent", "other"):
        found.append(Change("link", facts.link, "absent", STOP))
    if facts.route:
        found.append(Change("route", "loopback", "absent", STOP))
    if facts.defined is not None:
        found.append(Change("definition", "present", None, STOP))
    return Plan(tuple(found))


# Reservations


def plan_reservation(
    old: Reservation | None, new: Reservation | None, contradicted: bool = False
) -> Plan:
    """
    Return what makes a reservation as declared.

    old
        What is reserved under the name; ``None`` for nothing.

    new
        What is declared; ``None`` for nothing.

    contradicted
        Whether a lease stands that the new reservations do not allow.
    """
    found = []
    for what in ("mac", "address"):
        before = getattr(old, what) if old else None
        after = getattr(new, what) if new else None
        if before != after:
            found.append(Change(what, before, after, CREATE if old is None else LIVE))
    notes = []
    if contradicted:
        found.append(Change("lease", "contradicts", "released", LIVE))
        notes.append(MOVES)
    return Plan(tuple(found), notes=tuple(notes))
