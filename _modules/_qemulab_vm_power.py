"""
Machines on and off: started, several at once; stopped, softly and then hard; reset.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping

import _qemulab_host_generated as written
import _qemulab_host_probe as probe
import _qemulab_host_process as process
import _qemulab_host_seam as host
import _qemulab_lan_dhcp as lan
import _qemulab_lan_resolver as etc
import _qemulab_run_reach as places
import _qemulab_vm_access as access
import _qemulab_vm_disks as disks
import _qemulab_vm_hardware as hardware
import _qemulab_vm_launch as launch
import _qemulab_vm_live as live
import _qemulab_vm_media as media
import _qemulab_vm_orphans as left
import _qemulab_vm_ports as vm_ports
from _qemulab_host_accel import blames_kvm
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Vm
from _qemulab_plan_changes import Plan
from _qemulab_plan_status import Status
from _qemulab_run_site import Site
from _qemulab_run_underway import Pressed
from _qemulab_vm_qmp import QmpError
from _qemulab_vm_status import UNIT
from _qemulab_vm_status import ask
from _qemulab_vm_status import find_status
from _qemulab_vm_status import proven
from _qemulab_vm_status import refuse

START_TIMEOUT = 20.0
"""Seconds that a machine may take to start without a sign of life."""
SIGNS_INTERVAL = 5.0
"""Seconds between two looks for signs of life."""
QUIT_TIMEOUT = 10.0
RESUME_WATCH = 0.5
"""Seconds within which a QEMU that was resumed stops again if what stopped it has not changed."""
KVM_WATCH = 0.3
"""Seconds within which QEMU finds out, with its guest's first steps, that KVM is no use."""
NO_USE = "KVM is no use to it here: declare accel: tcg"
PRESS_INTERVAL = 5
"""Seconds between two presses of a power button that nobody has heard."""


def check_host(
    site: Site, name: str, vm: Vm, running: Vm | None = None, anew: bool = False
) -> None:
    """
    Raise HostError where the host stands in the way of what is declared of a machine.

    running
        What it runs as. Default: it does not run.

    anew
        Whether it is powered off then and started anew. Default ``False``.
    """
    if running is None or anew:
        places.check(site, [name])
    if running is None:
        left.need_reach(site, name)
    hardware.find_known(site, name)
    vm_ports.check(site, name, vm, running, anew)
    media.check(site, name, vm, None if anew else running)  # what is open now would not be then
    site.accel(vm.accel)


def check_start(site: Site, name: str, vm: Vm, running: Vm | None = None) -> None:
    """
    Raise HostError where a start would fail, before anything is made for it.

    running
        What it runs as, where it is about to be powered off for that: it would stay off then.
        Default: it does not run.
    """
    long = site.layout.socket_too_long(name)
    if long is not None:
        raise HostError(f"the path of the socket {long} is longer than the kernel allows")
    check_host(site, name, vm, running, anew=running is not None)
    launch.surroundings(site, name, vm)
    probe.binary("qemu-img")


def unlike_before(site: Site, name: str, vm: Vm) -> list[str]:
    """Return in words what a machine that is off will not find as it was when it is started."""
    gone = [disk.name for disk in vm.disks if not site.layout.disk(name, disk.name).exists()]
    found = [f"the disk {each} is made anew: it had no file" for each in gone]
    problem = disks.variables_problem(site, name, vm)
    if problem:
        found.append(problem)
    how = {written.EDITED: "was edited by somebody", written.ABSENT: "is gone"}
    edited = written.names(site.layout.vm_written(name), UNIT)
    return found + [
        f"files: {file} {how[what]}, and is written anew" for file, what in edited.items()
    ]


def clear_status(site: Site, name: str) -> Status | None:
    """Return how a machine that has just been started is, ``None`` while that is not clear."""
    if site.layout.qmp(name).exists():
        state = ask(site, name).status
        if not state.is_open:
            return state
    # The supervisor's answer may be some tenths of a second old: time enough for a process to fail.
    state = site.status("vm", name).status
    return state if state.is_off else None


def signs_of_life(site: Site, name: str) -> tuple[int, int]:
    """Return what grows as long as a start gets on: its CPU time, and what its guest has said."""
    try:
        said = os.stat(site.layout.console(name)).st_size
    except OSError:
        said = 0
    return process.cpu_ticks(site.status("vm", name).pid), said


def wait_until_clear(site: Site, name: str) -> Status | None:
    """
    Return how a machine that was started is once that is clear, ``None`` if it does not answer.

    On a busy host a start takes its time: it is waited for, without an end, as long as it shows
    signs of life.
    """
    since = seen = time.monotonic()
    signs = signs_of_life(site, name)
    while True:
        state: Status | None = host.wait_for(
            lambda: clear_status(site, name), SIGNS_INTERVAL, slowest=0.02
        )
        if state:
            return state
        now = time.monotonic()
        before, signs = signs, signs_of_life(site, name)
        if signs != before:
            seen = now
        if now - seen >= START_TIMEOUT:
            return None
        host.progress(f"waiting for {name} to start, since {now - since:.0f} s")


def dead(site: Site, name: str) -> Status | None:
    """Return the status of a machine whose guest is dead, ``None`` where the guest lives."""
    state = ask(site, name).status
    return state if state.is_dead else None


def start_all(site: Site, vms: Mapping[str, Vm], told: Collection[str] = ()) -> str:
    """
    Start machines without waiting for any: QEMU needs a tenth of a second until it answers, and
    those that are started together need it together.

    vms
        What is to be started, by name; none of it runs.

    told
        Networks whose servers know of them already, and whose locks the caller holds: no other
        network's lock is waited for then, since its holder may be waiting for one of these.
        Default: none.

    Returns what the supervisor complained of, empty where it did not; who was not started shows
    when it is waited for. Raises HostError where the host stands in the way of one, before any is
    started; what is stored of them is then as before.
    """
    layout = site.layout
    # Before anything is made: a machine that is left to its own state is to find all there is to
    # do, as the dry run has said.
    for name, vm in vms.items():
        check_start(site, name, vm)
    disks.make_images(site, vms)
    host.make_directory(layout.lab_logs)
    host.make_directory(layout.consoles, mode=0o700, owner=host.USER)
    access.write_authorized_keys(site)
    access.make_host_keys(site, vms)
    for each in {etc.network_of(vm) for vm in vms.values()}:
        network = site.store.network(each) if each else None
        if network is not None:
            etc.make(site, each, network)
    for name in vms:
        host.make_directory(layout.vm_runtime(name).parent)
        host.make_directory(layout.vm_runtime(name), mode=0o700, owner=host.USER)
    for name, vm in vms.items():
        written.write(layout.vm_written(name), launch.scripts(site, name, vm))
    before = {name: site.store.vm(name)[0] for name in vms}
    host.write_all([site.store.vm_as_file(name, vm, vm) for name, vm in vms.items()])
    try:
        # Before they ask for their addresses.
        lan.refresh(site, but=told, timeout=0 if told else None)
    except HostError:
        keep_off(site, before)
        raise
    said = ""
    try:
        site.supervisor.start([launch.unit(site, name, vm) for name, vm in vms.items()])
    except HostError as err:
        said = str(err)
    return said


def keep_off(site: Site, vms: Mapping[str, Vm | None]) -> None:
    """Keep machines as applied before, by name, and as off; ``None`` where one never was."""
    for name, vm in vms.items():
        if vm is None:
            host.remove(site.layout.vm_file(name))
        else:
            site.store.keep_vm(name, vm, None)


def wait_until_running(site: Site, name: str, vm: Vm, said: str) -> None:
    """
    Wait until QMP says that a machine which was started runs.

    said
        What ``start_all`` returned.

    Raises HostError if it does not run in time.
    """
    state = wait_until_clear(site, name)
    kvm = site.accel(vm.accel) == "kvm"
    if kvm and state is Status.RUNNING:
        state = host.wait_for(lambda: dead(site, name), KVM_WATCH) or state
    if state is not Status.RUNNING:
        log = site.supervisor.log("vm", name)
        # Otherwise the supervisor would go on trying behind the back of an apply that has failed.
        have_off(site, name, vm, hard=True)
        problem = f"{name} did not start: it is {state or 'not answering'}"
        said = log or said
        if kvm and state and state.is_dead:  # its log ends in the guest's registers
            raise HostError(problem, hint=NO_USE)
        raise HostError(
            problem, said, hint=NO_USE if kvm and blames_kvm(said) else probe.old_qemu()
        )
    for index, nic in enumerate(vm.nics):
        if not nic.connected:
            live.set_cable(site, name, index, False)


def start(site: Site, name: str, vm: Vm) -> None:
    """Make what a machine lacks, start it, and wait until QMP says that it runs."""
    wait_until_running(site, name, vm, start_all(site, {name: vm}))


def resume(site: Site, name: str, status: Status) -> None:
    """
    Let a machine run on whose QEMU has stopped it.

    status
        How it is: after an I/O error QEMU repeats what it could not do.

    Raises HostError where it stops again at once.
    """

    def stopped() -> Status | None:
        now = Status.of_qemu(qmp.execute("query-status")["status"])
        return None if now is Status.RUNNING else now

    with proven(site, name) as qmp:
        qmp.execute("cont")
        again = host.wait_for(stopped, RESUME_WATCH) if status is Status.IO_ERROR else None
        full = any(drive.get("io-status") == "nospace" for drive in qmp.execute("query-block"))
    if again:
        where = site.layout.disks(name)
        why = f"there is no room left in {where}" if full else "see its log"
        hint = "make room, and apply again" if full else ""
        raise HostError(f"{name} has stopped again ({again}): {why}", hint=hint)


def stop(site: Site, name: str, grace: int | None) -> str:
    """
    Power a machine off: the power button, then QMP's ``quit``, then SIGKILL.

    grace
        Seconds that the guest gets to answer the power button, from its first press on: that may
        have been with other machines' (``press``). ``None``: it is not asked.

    Returns which it was: ``acpi`` (also where it has gone off since that press), ``quit``,
    ``kill``, or ``stopped`` where none ran. Raises HostError where it runs, but is not provably
    ours.
    """
    ahead = site.run.pressed.pop(name, None)
    site.run.early.pop(("vm", name), None)  # its own state has to look again
    status, pid = find_status(site, name)
    if ahead is not None and pid not in (0, ahead.pid):
        ahead = None  # somebody has started it again
    if status.is_off:
        if ahead is not None:
            have_off(site, name, site.store.vm(name)[0])
            return "acpi"
        if status is Status.FAILED:
            site.supervisor.stop("vm", name)  # it may be about to be tried again
        return "stopped"
    if status is Status.UNKNOWN:
        refuse(site, name, status)
    if status is Status.UNMANAGED:
        return stop_unmanaged(site, name, grace or 0, pid)

    defined, _ = site.store.vm(name)
    if status is not Status.UNRESPONSIVE:
        if grace is None:
            return end(site, name, defined)
        pressed = False
        if ahead is not None:
            waited = time.monotonic() - ahead.since
            grace = max(0, grace - int(waited))
            pressed = waited < PRESS_INTERVAL
        if not goes_off(site, name, grace, lambda: ended(site, name), pressed):
            return end(site, name, defined)
        have_off(site, name, defined)
        return "acpi"
    have_off(site, name, defined, hard=True)
    return "kill"


def press(site: Site, name: str, plan: Plan) -> None:
    """
    Press a running machine's power button ahead of its stop, which then waits the less.

    plan
        What there is to do of it now: it may be off when its own state looks.

    Raises HostError or QmpError where it could not be pressed.
    """
    since = time.monotonic()
    with proven(site, name) as qmp:
        qmp.execute("system_powerdown")
        site.run.pressed[name] = Pressed(plan, qmp.peer_pid, since)


def ended(site: Site, name: str) -> bool:
    """Return whether a machine has no process any more."""
    return not site.status("vm", name, fresh=True).alive


def end(site: Site, name: str, defined: Vm | None) -> str:
    """End a machine without asking its guest; returns how: ``quit``, or ``kill``."""
    order(site, name, "quit")
    quitted = host.wait_for(lambda: ended(site, name), QUIT_TIMEOUT)
    have_off(site, name, defined, hard=not quitted)
    return "quit" if quitted else "kill"


def stop_unmanaged(site: Site, name: str, grace: int, pid: int) -> str:
    """
    Power off a machine that has lost its supervisor: over QMP, where its UUID is proof of whom it
    is said to. There is nobody to send a signal, so none is sent.
    """
    with process.watched(pid) as gone:
        how = "acpi" if goes_off(site, name, grace, gone) else "quit"
        if how == "quit":
            order(site, name, "quit")
            if not host.wait_for(gone, QUIT_TIMEOUT):
                raise HostError(f"{name} (process {pid}) does not end", hint="end it yourself")
    defined, _ = site.store.vm(name)
    have_off(site, name, defined, hard=False)
    return how


def order(site: Site, name: str, command: str) -> None:
    """Give QEMU a command; one that ends it may cut the line before it answers."""
    with contextlib.suppress(QmpError), proven(site, name) as qmp:
        qmp.execute(command)


def goes_off(
    site: Site, name: str, grace: int, gone: Callable[[], bool], pressed: bool = False
) -> bool:
    """
    Press a machine's power button until it is off or its grace is over; returns whether it is.

    More than once: a guest that is still booting hears only the press that comes after. So do
    those whose button was pressed with this one's.

    pressed
        Whether it has just been pressed, and is to be again only in its turn. Default ``False``.
    """
    for waited in range(0, max(grace, 1), PRESS_INTERVAL):
        if waited == PRESS_INTERVAL:
            host.progress(f"waiting for {name} to power off, {grace} s at the most")
        if waited or not pressed:
            order(site, name, "system_powerdown")
        for other, ahead in site.run.pressed.items() if waited else ():
            if site.status("vm", other).pid == ahead.pid:
                order(site, other, "system_powerdown")
        if host.wait_for(gone, min(grace - waited, PRESS_INTERVAL)):
            return True
    return False


def have_off(site: Site, name: str, defined: Vm | None, hard: bool = False) -> None:
    """Have the supervisor know that a machine is off, and remove what it ran with."""
    site.supervisor.stop("vm", name, hard=hard)
    host.remove(site.layout.vm_runtime(name))
    if not hard:
        host.remove(site.layout.in_use(name))
    if defined is not None:
        site.store.keep_vm(name, defined, None)


def reset(site: Site, name: str) -> None:
    """Press a running machine's reset button. Raises HostError where it does not run."""
    status, _ = find_status(site, name)
    if status.is_off:
        raise HostError(f"{name} does not run", hint=f"salt-call qemulab.vm_start {name}")
    if status is Status.UNKNOWN:
        refuse(site, name, status)
    with proven(site, name) as qmp:
        qmp.execute("system_reset")
