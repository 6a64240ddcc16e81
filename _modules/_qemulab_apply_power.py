"""
A machine on, off, or off and on, as it was last applied: each under its lock from end to end.
"""

from __future__ import annotations

import _qemulab_vm_hardware as hardware
import _qemulab_vm_lost_images as held
import _qemulab_vm_power as power
import _qemulab_vm_status as vm_status
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Vm
from _qemulab_plan_changes import Plan
from _qemulab_plan_status import Status
from _qemulab_plan_vm import VmFacts
from _qemulab_plan_vm import plan_vm
from _qemulab_run_site import Site


def need_defined(site: Site, name: str) -> Vm:
    """Return a machine as applied. Raises HostError where the lab has none of that name."""
    found, _ = site.store.vm(name)
    if found is None:
        known = ", ".join(site.store.vms()) or "none"
        raise HostError(f"the lab {site.lab} has no machine {name}; it has {known}")
    return found


def need_facts(site: Site, name: str) -> VmFacts:
    """Return what is of a machine. Raises HostError where it cannot be dealt with as it is."""
    facts = vm_status.find_facts(site, name)
    if facts.status in (Status.UNKNOWN, Status.UNRESPONSIVE):
        vm_status.refuse(site, name, facts.status)
    held.need_none(name, vm_status.find_lost(site, name) if facts.lost else ())
    return facts


def grace_of(site: Site, name: str) -> int:
    """Return a machine's ``stop_grace``; the default where its files are gone and it runs on."""
    vm, _ = site.store.vm(name)
    if vm is None and vm_status.runs(site, name):
        return Vm.stop_grace
    return need_defined(site, name).stop_grace


def need_startable(site: Site, name: str, vm: Vm) -> None:
    """Raise HostError where a machine that is powered off would not come back as ``vm``."""
    hardware.find_known(site, name)
    if vm_status.runs(site, name):
        power.check_start(site, name, vm, site.store.vm(name)[1] or vm)


def start(site: Site, name: str) -> list[str]:
    """
    Start a machine, or let it run on, and wait until it runs.

    Returns in words what is not as it was. Raises HostError where it cannot be started.
    """
    with site.lock("vm", name):
        return _start(site, name, need_defined(site, name))


def stop(site: Site, name: str, grace: int | None = None) -> tuple[str, list[str]]:
    """
    Power a machine off.

    grace
        Seconds that its guest gets to answer the power button. Default: its ``stop_grace``.

    Returns how, in ``_qemulab_vm_power.stop``'s words, and the lost images that it alone still
    held.
    """
    with site.lock("vm", name):
        seconds = grace_of(site, name) if grace is None else grace
        gone = [image.says for image in vm_status.find_lost(site, name)]
        return power.stop(site, name, seconds), gone


def restart(site: Site, name: str, lose_data: bool = False) -> tuple[str, list[str]]:
    """
    Power a machine off and on. Between the two, no other apply gets at it.

    lose_data
        Do so although it alone holds images whose files are gone. Default ``False``: HostError.

    Returns how it went off, as ``stop``, and what is not as it was, as ``start``.
    """
    with site.lock("vm", name):
        vm = need_defined(site, name)
        if not lose_data:
            held.need_none(name, vm_status.find_lost(site, name))
        need_startable(site, name, vm)
        how = power.stop(site, name, vm.stop_grace)
        said = _start(site, name, vm)
    return how, said


def restart_as(site: Site, name: str, declared: Vm | None) -> Plan:
    """
    Power a machine off, and on as its own state is about to make it, so that this finds it so. One
    that is off by now stays off.

    declared
        ``None``: as it was last applied. So is one whose declaration is refused.

    Returns what was planned of ``declared`` and is done now: its own state reports that.
    """
    with site.lock("vm", name):
        facts = need_facts(site, name)
        if facts.started is None:
            return Plan()
        plan = plan_vm(facts, declared, "running", restarted=True) if declared else Plan()
        if declared is None or plan.refused:
            declared, plan = need_defined(site, name), Plan()
        power.check_start(site, name, declared, facts.started)
        power.stop(site, name, 0 if facts.status.is_dead else declared.stop_grace)
        power.start(site, name, declared)
    return plan


def reset(site: Site, name: str) -> None:
    """Press a running machine's reset button. Raises HostError where it does not run."""
    with site.lock("vm", name):
        need_defined(site, name)
        power.reset(site, name)


def _start(site: Site, name: str, vm: Vm) -> list[str]:
    """Do what ``start`` does; its lock is held."""
    status, _ = vm_status.find_status(site, name)
    if status.is_dead:
        held.need_none(name, vm_status.find_lost(site, name))
        need_startable(site, name, vm)
        power.stop(site, name, 0)
        status = Status.STOPPED
    if status.is_off:
        said = power.unlike_before(site, name, vm)
        power.start(site, name, vm)
        return said
    if status.is_held:
        power.resume(site, name, status)
    elif status is not Status.RUNNING:
        vm_status.refuse(site, name, status)
    return []
