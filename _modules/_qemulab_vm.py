"""
Machines: how a plan for one is carried out, and how several are begun at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping

import _qemulab_access as access
import _qemulab_disks as disks
import _qemulab_host as host
import _qemulab_host_own as own
import _qemulab_lan_dhcp as lan
import _qemulab_launch as launch
import _qemulab_live as live
import _qemulab_power as power
import _qemulab_vm_held as held
import _qemulab_vm_media as media
from _qemulab_host import HostError
from _qemulab_keys import Vm
from _qemulab_look import facts
from _qemulab_look import look
from _qemulab_look import lost
from _qemulab_plan_changes import RESTART
from _qemulab_plan_changes import Plan
from _qemulab_plan_diff import merged
from _qemulab_plan_status import Status
from _qemulab_plan_vm import VmFacts
from _qemulab_plan_vm import plan_vm
from _qemulab_qmp import QmpError
from _qemulab_run_underway import Early
from _qemulab_site import Site


def begin_together(site: Site, wanted: Mapping[str, Vm], told: Collection[str] = ()) -> None:
    """
    Begin those of some machines that are off, and keep each one's plan for its own state.

    wanted
        What is declared of each, by name.

    told
        Networks that know of them already. Default: none.

    One that cannot be begun is left to its own state, which then tells why.
    """
    off = {
        name: vm
        for name, vm in wanted.items()
        if ("vm", name) not in site.run.early and not site.status("vm", name).alive
    }
    if not off:
        return
    with contextlib.ExitStack() as locks:
        locked = []
        for name in sorted(off):
            with contextlib.suppress(HostError):
                # Another apply has its lock: its own state waits for that, not this one.
                locks.enter_context(site.lock("vm", name, timeout=0))
                locked.append(name)
        site.answers.forget()
        plans = {}
        for name in locked:
            with contextlib.suppress(HostError):
                plan = plan_vm(facts(site, name), off[name], "running")
                if plan.touches("running") and not plan.refused:
                    plans[name] = plan
        if plans:
            with contextlib.suppress(HostError):
                said = power.begin(site, {name: off[name] for name in plans}, told)
                site.run.early.update(
                    {("vm", name): Early(plan, said) for name, plan in plans.items()}
                )


def press_together(site: Site, names: Iterable[str], plan: Callable[[str], Plan]) -> None:
    """
    Press the power buttons of machines that are to be stopped one after another: their guests go
    down at the same time, and those that ignore it are waited for together.

    names, plan
        Which, and what returns the plan that each one's own state is to report.

    One that does not run, that is not defined or that another apply is at, is left to its own
    state.
    """
    for name in names:
        if name in site.run.pressed or not site.status("vm", name).alive:
            continue
        with contextlib.suppress(HostError, QmpError), site.lock("vm", name, timeout=0):
            if site.store.vm(name)[0] and look(site, name, fresh=True)[0] is Status.RUNNING:
                power.press(site, name, plan(name))


def abandon(site: Site) -> None:
    """
    Stop the machines that were begun with a network that has failed: their states will not run.

    One that cannot be stopped is left as it is; that the network has failed is what is to be told.
    """
    names = [name for kind, name in site.run.early if kind == "vm"]
    site.run.early.clear()
    for name in names:
        with contextlib.suppress(HostError), site.lock("vm", name, timeout=0):
            power.stop(site, name, 0)


def apply(site: Site, name: str, declared: Vm, wanted: str) -> None:
    """
    Make a machine as declared.

    wanted
        ``present``, or ``running``.

    Raises HostError where the host refuses.
    """
    with site.lock("vm", name):
        begun = site.run.early.pop(("vm", name), None)
        if begun is not None:
            power.finish(site, name, declared, begun.said)
            return
        # Another apply may have been at it until the lock was free.
        site.answers.forget()
        before = facts(site, name)
        if before.lost:
            held.need_none(name, lost(site, name))
        plan = plan_vm(before, declared, wanted)
        restart = before.started is not None and plan.has(RESTART)
        if restart:
            power.stop(site, name, 0 if before.status.is_dead else declared.stop_grace)
            before = facts(site, name)
        if before.started is not None:
            change_running(site, name, declared, plan, before)
            if plan.touches("running"):
                power.resume(site, name, before.status)
        elif restart or plan.touches("running"):
            power.start(site, name, declared)
        elif plan.changes:
            media.check(site, name, declared)
            lan.check_addresses(site, name, declared)
            disks.make_images(site, {name: declared})
            if declared.autostart or plan.touches("autostart"):
                tell_boot(site, name, declared)
            # Last: what is stored is not done again.
            site.store.store_vm(name, declared, None)
            lan.refresh(site)


def tell_boot(site: Site, name: str, declared: Vm) -> None:
    """
    Have the host start a machine that is off when it boots, as it is declared now; or not start it.

    One that has never run has no unit yet: its first start makes it.
    """
    if site.supervisor.has("vm", name):
        if declared.autostart:
            host.write_all(launch.scripts(site, name, declared))
        site.supervisor.update(launch.unit(site, name, declared))


def change_running(site: Site, name: str, declared: Vm, plan: Plan, before: VmFacts) -> None:
    """Do on a running machine what can be done on one; the rest waits for its next start."""
    assert before.started is not None
    now = merged(before.started, declared, plan.waiting())
    lan.check_addresses(site, name, now)
    live.change_live(site, name, before.started, now, before)
    host.write_all(launch.scripts(site, name, now))
    site.supervisor.update(launch.unit(site, name, now))
    lan.refresh(site)
    # Last: as long as it is not stored without a doubt, all this is done again.
    site.store.store_vm(name, declared, now)


def remove(site: Site, name: str, purge: bool) -> str:
    """
    Take a machine away; its disks, UEFI variables and console log only where purged.

    Returns how it was stopped, in ``stop``'s words.
    """
    layout = site.layout
    defined, _ = site.store.vm(name)
    with site.lock("vm", name):
        # Where its disks go as well, nothing is lost by not asking its guest.
        grace = None if purge else defined.stop_grace if defined else 0
        how = power.stop(site, name, grace)
        site.supervisor.forget("vm", name)
        site.answers.forget()
        if purge:
            own.remove_machine(layout, name)
            host.remove(layout.console(name))
            access.write_known_hosts(site)
        else:
            for path in (layout.vm_file(name), layout.launch(name)):
                host.remove(path)
            for script_name in ("prepare", "powerdown"):
                host.remove(layout.vm(name) / script_name)
            host.remove_empty(layout.vm(name))
        lan.refresh(site, leaving=True)
    return "stopped" if purge else how  # how a purge did it is nobody's concern
