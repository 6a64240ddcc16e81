"""
How a machine is: asked of its supervisor, of its QEMU and of its files, which have to agree.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import _qemulab_host_generated as written
import _qemulab_host_process as process
import _qemulab_lan_waiting as addresses
import _qemulab_pillar_spec as spec
import _qemulab_vm_disks as disks
import _qemulab_vm_forwards as forwards
import _qemulab_vm_lost_images as held
from _qemulab_host_seam import HostError
from _qemulab_plan_status import Status
from _qemulab_plan_vm import VmFacts
from _qemulab_run_site import Site
from _qemulab_vm_qmp import Qmp
from _qemulab_vm_qmp import QmpError
from _qemulab_vm_qmp import QmpSilent

LOOK_TIMEOUT = 2.0
"""Seconds within which QEMU answers where it gets to run."""
STILL_TIMEOUT = 4.0
"""Seconds without any CPU time after which nothing more is expected of it."""
BUSY_TIMEOUT = 10.0
"""Seconds that are given to one that gets a little CPU time, and so cannot answer sooner."""
UNIT = "unit"
"""The word for what the supervisor has of a machine."""


class Answer(NamedTuple):
    """How a machine is, its PID, and what its QEMU says of the ports that it forwards."""

    status: Status
    pid: int
    forwards: str = ""


def find_status(site: Site, name: str) -> tuple[Status, int]:
    """
    Return how a machine is, and its PID.

    The supervisor's PID, the QMP socket's peer and the machine's UUID must agree, or it is unknown.
    """
    return find_answer(site, name)[:2]


def find_answer(site: Site, name: str) -> Answer:
    """Return how a machine is, and more of what it says; not asked anew within half a second."""
    return site.answers.recent(f"vm {name}", lambda: ask(site, name))


def find_statuses(site: Site, names: Collection[str]) -> None:
    """
    Ask several machines at once how they are, for those who ask for one of them next.

    A QEMU whose guest keeps it busy takes milliseconds to answer: so they are waited for together.
    """
    site.status("vm", "")
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: find_status(site, name), names))


def ask(site: Site, name: str) -> Answer:
    """
    Return what ``find_answer`` does, always asked anew of QEMU.

    A machine that does not answer is asked again as long as its process moves: the host is busy.
    """
    since = moved = time.monotonic()
    ticks = process.cpu_ticks(site.status("vm", name).pid)
    while True:
        found = ask_once(site, name)
        if found.status is not Status.UNRESPONSIVE:
            return found
        now = time.monotonic()
        before, ticks = ticks, process.cpu_ticks(found.pid)
        if ticks != before:
            moved = now
        if now - moved >= STILL_TIMEOUT or now - since >= BUSY_TIMEOUT:
            return found


def ask_once(site: Site, name: str) -> Answer:
    """Return what ``find_answer`` does, asked of QEMU once."""
    unit = site.status("vm", name)
    path = site.layout.qmp(name)
    if not unit.alive and not path.exists():
        return Answer(Status.FAILED if unit.status is Status.FAILED else Status.STOPPED, 0)
    try:
        with Qmp(path, timeout=LOOK_TIMEOUT) as qmp:
            found, state, forwarded = qmp.query(
                "query-uuid", "query-status", forwards.QUESTION, timeout=LOOK_TIMEOUT
            )
            peer = qmp.peer_pid
    except QmpSilent:
        return Answer(Status.UNRESPONSIVE, unit.pid)
    except QmpError:
        return Answer(Status.STARTING, unit.pid) if unit.alive else Answer(Status.STOPPED, 0)
    if not is_its_own(site, name, found["UUID"], peer):
        return Answer(Status.UNKNOWN, peer)
    status = Status.of_qemu(state["status"]) if unit.alive else Status.UNMANAGED
    return Answer(status, peer, str(forwarded))


def is_its_own(site: Site, name: str, uuid: str, peer: int) -> bool:
    """
    Return whether a QEMU is the one of a machine: by its UUID, and its PID the supervisor's.

    One that runs without its supervisor has its UUID alone to show.
    """
    unit = site.status("vm", name)
    return uuid == spec.vm_uuid(site.lab, name) and (not unit.alive or unit.pid == peer)


def runs(site: Site, name: str) -> bool:
    """Return whether a machine runs; one that its supervisor has lost is asked itself."""
    return site.status("vm", name).alive or not find_status(site, name)[0].is_off


@contextlib.contextmanager
def proven(site: Site, name: str) -> Iterator[Qmp]:
    """
    Give a connection to a machine's QEMU that is proved, on itself, to be that machine's.

    Raises HostError where its UUID is another's, or its process not the supervisor's.
    """
    with Qmp(site.layout.qmp(name)) as qmp:
        (found,) = qmp.query("query-uuid")
        if not is_its_own(site, name, found["UUID"], qmp.peer_pid):
            raise mismatch(name, Status.UNKNOWN, qmp.peer_pid)
        try:
            yield qmp
        finally:
            site.answers.forget()  # whatever it was told may have changed it


def all_that_runs(site: Site) -> list[str]:
    """Return a line for each lab of the host of which anything runs."""
    lines = []
    for lab in sorted({site.lab, *site.other_labs()}):
        other = site if lab == site.lab else site.beside(lab)
        found = []
        # What is damaged there is told by whoever means that lab.
        with contextlib.suppress(HostError):
            vms = [name for name in other.store.vms() if runs(other, name)]
            networks = [name for name in other.store.networks() if other.status("hub", name).alive]
            found += [f"machines {', '.join(vms)}"] if vms else []
            found += [f"networks {', '.join(networks)}"] if networks else []
        if found:
            lines.append(f"this runs on in the lab {lab}: {'; '.join(found)}")
    return lines


def guest_users(site: Site) -> list[str]:
    """Return the machines of all the host's labs, as ``LAB:NAME``, that run the built-in guest."""
    found = []
    for lab in sorted({site.lab, *site.other_labs()}):
        other = site if lab == site.lab else site.beside(lab)
        for name in other.store.vms():
            defined, started = other.store.vm(name)
            booted = started or defined
            if booted and booted.boot == "guest" and runs(other, name):
                found.append(f"{lab}:{name}")
    return found


def refuse(site: Site, name: str, status: Status) -> None:
    """Raise HostError for a machine that runs, but cannot be dealt with as it is."""
    _, pid = find_status(site, name)
    raise mismatch(name, status, pid)


def mismatch(name: str, status: Status, pid: int) -> HostError:
    """Return the error for a machine that cannot be dealt with as it is."""
    reason = status.means if status.is_doubtful else "it cannot be started as it is"
    hint = status.hint.format(name=name)
    return HostError(f"{name} is {status} (process {pid}): {reason}", hint=hint)


def find_facts(site: Site, name: str, strict: bool = True) -> VmFacts:
    """
    Return what is of a machine.

    strict
        Raise HostError where an image of its is none, or another machine's. Default ``True``.
    """
    defined, started = site.store.vm(name)
    status, _, forwarded = find_answer(site, name)
    off = status.is_off
    runs_as = None if off else started or defined
    return VmFacts(
        defined=defined,
        started=runs_as and forwards.as_they_are(runs_as, forwarded),
        unsure=() if off else site.store.vm_unsure(name),
        files=written.names(site.layout.vm_written(name), UNIT) if defined else {},
        disks=disks.disk_sizes(site, name, strict),
        has_variables=has_variables(site, name, strict),
        status=Status.STOPPED if off else status,
        supervised=status is not Status.UNMANAGED,
        unit=off or site.supervisor.has("vm", name),
        leases={
            network: tuple((each.mac, each.address) for each in addresses.leases(site, network))
            for network in site.store.networks()
        },
        lost=tuple(each.says for each in find_lost(site, name)),
    )


def find_lost(site: Site, name: str) -> tuple[held.Lost, ...]:
    """Return the images that a machine runs on and that are gone from their places."""
    status, pid = find_status(site, name)
    defined, started = site.store.vm(name)
    if status.is_off:
        return ()
    return held.lost(site, name, started or defined, pid, status is Status.STARTING)


def has_variables(site: Site, name: str, strict: bool) -> bool:
    """Return whether a machine has UEFI variables; ``strict`` as in ``find_facts``."""
    path = site.layout.uefi_variables(name)
    return disks.image_size(path) is not None if strict else os.path.lexists(path)
