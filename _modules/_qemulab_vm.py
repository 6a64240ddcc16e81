"""
Machines on the host: what is of them, and how a plan for one is carried out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import _qemulab_access as access
import _qemulab_disks as disks
import _qemulab_host as host
import _qemulab_launch as launch
import _qemulab_live as live
import _qemulab_probe as probe
import _qemulab_spec as spec
from _qemulab_host import HostError
from _qemulab_keys import Vm
from _qemulab_plan import Plan
from _qemulab_plan import VmFacts
from _qemulab_plan import merge_live
from _qemulab_qmp import Qmp
from _qemulab_qmp import QmpError
from _qemulab_qmp import QmpSilent
from _qemulab_site import Site

START_TIMEOUT = 20.0
QUIT_TIMEOUT = 3.0
PRESS_INTERVAL = 5
"""Seconds between two presses of a power button that nobody has heard."""
LOOK_TIMEOUT = 2.0
OFF = ("stopped", "failed")
"""Words of ``look`` for a machine that does not run."""


def look(site: Site, name: str, fresh: bool = False) -> tuple[str, int]:
    """
    Return how a machine is, and its PID.

    The supervisor's PID, the QMP socket's peer and the machine's UUID must agree, or it is
    ``unknown``. Other words: ``stopped``, ``failed``, ``starting``, ``unresponsive``,
    ``unmanaged`` (it runs without its supervisor), or QEMU's own (``running``, ``paused``,
    ``io-error``, …).
    """
    unit = site.status("vm", name, fresh=fresh)
    path = site.layout.qmp(name)
    if not unit.alive and not path.exists():
        return ("failed" if unit.state == "failed" else "stopped"), 0
    try:
        with Qmp(path, timeout=LOOK_TIMEOUT) as qmp:
            found, state = qmp.query("query-uuid", "query-status", timeout=LOOK_TIMEOUT)
            peer = qmp.peer_pid
    except QmpSilent:
        return "unresponsive", unit.pid
    except QmpError:
        return ("starting", unit.pid) if unit.alive else ("stopped", 0)
    if found["UUID"] != spec.vm_uuid(site.lab, name):
        return "unknown", peer
    if not unit.alive:
        return "unmanaged", peer
    return (str(state["status"]) if peer == unit.pid else "unknown"), peer


def refuse(site: Site, name: str, status: str) -> None:
    """Raise HostError for a machine that runs, but cannot be dealt with as it is."""
    _, pid = look(site, name, fresh=True)
    reasons = {
        "unknown": ("its process, its socket and its UUID do not agree", "end it yourself"),
        "unmanaged": ("it runs without its supervisor", "power it off from inside, then apply"),
        "unresponsive": ("it does not answer; another client may hold it", "qemulab.vm_stop"),
    }
    reason, hint = reasons.get(status, ("it cannot be started as it is", "qemulab.vm_stop"))
    raise HostError(f"{name} is {status} (process {pid}): {reason}", hint=hint)


def facts(site: Site, name: str) -> VmFacts:
    """Return what is of a machine."""
    defined, started = site.vm(name)
    status, _ = look(site, name)
    off = status in OFF
    return VmFacts(
        defined=defined,
        started=None if off else started or defined,
        disks=disks.disk_sizes(site, name),
        has_variables=site.layout.uefi_variables(name).exists(),
        status="stopped" if off else status,
    )


def apply(site: Site, name: str, declared: Vm, plan: Plan, before: VmFacts) -> None:
    """
    Carry out a plan for a machine. Raises HostError where the host refuses.
    """
    with host.lock(site.layout.lock("vm", name)):
        if before.started is None and site.vm(name)[1] is not None:
            if look(site, name, fresh=True)[0] not in OFF:
                return  # another apply was faster; what it left undone is found by looking again
        keys = plan.keys()
        restart = before.started is not None and any(c.effect == "restart" for c in plan.changes)
        if restart:
            stop(site, name, declared.stop_grace)
            before = facts(site, name)
        if before.started is None:
            if restart or "running" in keys:
                start(site, name, declared)
            else:
                disks.make_images(site, name, declared)
                site.store_vm(name, declared, None)
            return
        now = merge_live(before.started, declared)
        live.change_live(site, name, before.started, now, before)
        launch.write_scripts(site, name, now)
        site.supervisor.update(launch.unit(site, name, now))
        site.store_vm(name, declared, now)
        if "running" in keys:
            with Qmp(site.layout.qmp(name)) as qmp:
                qmp.execute("cont")


def check_start(site: Site, name: str, vm: Vm) -> None:
    """Raise HostError where the host stands in the way of a start: ports, media, long paths."""
    long = site.layout.socket_too_long(name)
    if long is not None:
        raise HostError(f"the path of the socket {long} is longer than the kernel allows")
    for nic in vm.nics:
        for forward in nic.forwards or ():
            probe.check_port(forward.host_address, forward.host_port, forward.protocol)
    if vm.vnc_port:
        probe.check_port("127.0.0.1", vm.vnc_port, "tcp")
    for path in launch.media(vm).values():
        problem = probe.unreadable(path)
        if problem:
            raise HostError(f"{path} {problem}")


def settled(site: Site, name: str) -> str:
    """Return how a machine that has just been started is, empty while that is not clear."""
    if site.layout.qmp(name).exists():
        state, _ = look(site, name)
        if state not in ("starting", "stopped", "prelaunch", "inmigrate"):
            return state
    # The supervisor's answer may be some tenths of a second old: time enough for a process to fail.
    state = site.status("vm", name).state
    return state if state in OFF else ""


def start(site: Site, name: str, vm: Vm) -> None:
    """Make what a machine lacks, start it, and wait until QMP says that it runs."""
    disks.make_images(site, name, vm)
    check_start(site, name, vm)
    host.make_directory(site.layout.lab_logs)
    access.write_authorized_keys(site)
    launch.write_scripts(site, name, vm)
    site.store_vm(name, vm, vm)
    try:
        site.supervisor.start(launch.unit(site, name, vm))
    except HostError:
        settle(site, name, vm, hard=True)
        raise
    site.forget()
    state = host.wait_for(lambda: settled(site, name), START_TIMEOUT, slowest=0.02)
    if state != "running":
        log = site.supervisor.log("vm", name)
        # Otherwise the supervisor would go on trying behind the back of an apply that has failed.
        settle(site, name, vm, hard=True)
        raise HostError(f"{name} did not start: it is {state or 'not answering'}", log)
    for index, nic in enumerate(vm.nics):
        if not nic.connected:
            live.set_link(site, name, index, False)


def stop(site: Site, name: str, grace: int) -> str:
    """
    Power a machine off: the power button, then QMP's ``quit``, then SIGKILL.

    grace
        Seconds that the guest gets to answer the power button.

    Returns which it was: ``acpi``, ``quit``, ``kill``, or ``stopped`` where none ran. Raises
    HostError where it runs, but is not provably ours.
    """
    status, _ = look(site, name, fresh=True)
    if status in OFF:
        if status == "failed":
            site.supervisor.stop("vm", name)  # it may be about to be tried again
        return "stopped"
    if status in ("unknown", "unmanaged"):
        refuse(site, name, status)

    def gone() -> bool:
        return not site.status("vm", name, fresh=True).alive

    how = "kill"
    if status != "unresponsive":
        if pressed(site, name, grace, gone):
            how = "acpi"
        else:
            order(site, name, "quit")
            if host.wait_for(gone, QUIT_TIMEOUT):
                how = "quit"
    defined, _ = site.vm(name)
    settle(site, name, defined, hard=how == "kill")
    return how


def order(site: Site, name: str, command: str) -> None:
    """Give QEMU a command; one that ends it may cut the line before it answers."""
    with contextlib.suppress(QmpError):
        with Qmp(site.layout.qmp(name)) as qmp:
            qmp.execute(command)


def pressed(site: Site, name: str, grace: int, gone: Callable[[], bool]) -> bool:
    """
    Press a machine's power button until it is off or its grace is over; returns whether it is.

    More than once: a guest that is still booting hears only the press that comes after.
    """
    for waited in range(0, max(grace, 1), PRESS_INTERVAL):
        if waited == PRESS_INTERVAL:
            host.progress(f"waiting for {name} to power off, {grace} s at the most")
        order(site, name, "system_powerdown")
        if host.wait_for(gone, min(grace - waited, PRESS_INTERVAL)):
            return True
    return False


def settle(site: Site, name: str, defined: Vm | None, hard: bool) -> None:
    """Have the supervisor know that a machine is off, and remove what it ran with."""
    site.supervisor.stop("vm", name, hard=hard)
    site.forget()
    host.remove(site.layout.vm_runtime(name))
    if defined is not None:
        site.store_vm(name, defined, None)


def reset(site: Site, name: str) -> None:
    """Press a running machine's reset button. Raises HostError where it does not run."""
    status, _ = look(site, name, fresh=True)
    if status in OFF:
        raise HostError(f"{name} does not run", hint=f"salt-call qemulab.vm_start {name}")
    with Qmp(site.layout.qmp(name)) as qmp:
        qmp.execute("system_reset")


def remove(site: Site, name: str, purge: bool) -> str:
    """
    Take a machine away; its disks, UEFI variables and console log only where purged.

    Returns how it was stopped, in ``stop``'s words.
    """
    layout = site.layout
    defined, _ = site.vm(name)
    with host.lock(layout.lock("vm", name)):
        how = stop(site, name, defined.stop_grace if defined else 0)
        site.supervisor.forget("vm", name)
        site.forget()
        if purge:
            host.remove(layout.vm(name))
            host.remove(layout.console(name))
            host.remove_empty(layout.vms)
            return how
        for path in (layout.vm_file(name), layout.launch(name)):
            host.remove(path)
        for script_name in ("prepare", "powerdown"):
            host.remove(layout.vm(name) / script_name)
        host.remove_empty(layout.vm(name))
    return how
