"""
Machines: how each is made as declared, started, stopped and taken away.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Mapping
from typing import Any

import _qemulab_apply_together as together
import _qemulab_host_generated as written
import _qemulab_host_owned as own
import _qemulab_host_seam as host
import _qemulab_lan_dhcp as lan
import _qemulab_lan_waiting as addresses
import _qemulab_pillar_spec as spec
import _qemulab_vm_access as access
import _qemulab_vm_disks as disks
import _qemulab_vm_hardware as hardware
import _qemulab_vm_launch as launch
import _qemulab_vm_live as live
import _qemulab_vm_media as media
import _qemulab_vm_ports as vm_ports
import _qemulab_vm_power as power
import _qemulab_vm_status as vm_status
from _qemulab_apply_converge import Outcome
from _qemulab_apply_converge import converge
from _qemulab_apply_power import need_defined
from _qemulab_apply_power import need_facts
from _qemulab_pillar_keys import Vm
from _qemulab_plan_changes import RESTART
from _qemulab_plan_changes import Plan
from _qemulab_plan_diff import differences
from _qemulab_plan_diff import leaves
from _qemulab_plan_diff import merged
from _qemulab_plan_shown import naming
from _qemulab_plan_vm import VmFacts
from _qemulab_plan_vm import plan_vm
from _qemulab_plan_vm import plan_vm_absent
from _qemulab_plan_vm import plan_vm_stopped
from _qemulab_run_site import Site


def find_argv(site: Site, name: str, pillar: Any) -> list[str]:
    """
    Return the command line that a machine would be started with.

    pillar
        What stands under ``lab`` in the pillar: a machine that is not applied yet is read from it.
    """
    vm, _ = site.store.vm(name)
    networks = site.store.all_networks()
    if vm is None:
        declared = spec.from_pillar(pillar, lambda _name: vm_ports.ports(site)).lab
        vm = declared.vms.get(name) or need_defined(site, name)
        networks = {**declared.networks, **networks}
    return launch.argv(site, name, vm, networks)


# As declared


def ensure(
    site: Site,
    name: str,
    declaration: Any,
    wanted: str = "present",
    test: bool = False,
    row: Mapping[str, Any] | None = None,
) -> Outcome:
    """
    Make a machine as declared.

    declaration
        Its keys, as in the pillar.

    wanted
        ``present`` (default): left off or on as it is; ``running``.

    test
        Only say what would be done. Default ``False``.

    row
        Other machines that may be started as well, as name and declaration. Default: none.

    Returns what ``outcome`` does; ``ssh``, the command that logs in; and ``images``, the files of
    disks that a refused change would cost. Raises HostError where the host refuses.
    """
    ports = vm_ports.ports(site)
    declared = spec.vm_from(name, declaration, site.lab, site.store.all_networks(), ports)
    possible = addresses.as_far_as_possible(site, name, declared)
    late = tuple(differences(leaves(possible), leaves(declared)))
    if test:
        site.run.promised[name] = declared
    if row and not test:
        together.start_row(site, name, possible, row, ports)
    if row and ("vm", name) not in site.run.early:
        vm_status.find_statuses(site, [name, *row])

    at_stake: list[str] = []

    def look() -> tuple[Plan, VmFacts | None]:
        early = site.run.early.get(("vm", name))
        if early is not None and not test:
            return early.plan, None  # what it was made from is no more
        facts = need_facts(site, name)
        plan = plan_vm(facts, possible, wanted, name in site.run.restarted)
        at_stake[:] = [change.path[1] for change in plan.refused]
        if test and plan.changes and not plan.refused:
            anew = facts.started is not None and plan.has(RESTART)
            if wanted == "running" or anew:
                power.check_host(site, name, possible, facts.started, anew)
            else:
                media.check(site, name, possible, facts.started)
        return plan, facts

    def act(plan: Plan, facts: VmFacts | None) -> None:
        if facts is None:
            power.wait_until_running(site, name, possible, site.run.early.pop(("vm", name)).said)
        else:
            carry_out(site, name, possible, plan, facts)

    shown = naming(declared, declaration, late)
    found = converge(site, lambda: site.lock("vm", name), look, act, test, shown)
    if not test and not found["refused"]:
        store_pending(site, name, possible)
    paths = [str(site.layout.disk(name, disk)) for disk in at_stake]
    return {**found, "ssh": access.ssh_command(site, name, declared), "images": paths}


def carry_out(site: Site, name: str, declared: Vm, plan: Plan, facts: VmFacts) -> None:
    """
    Carry the plan of a machine out; whoever calls this holds its lock.

    facts
        What the plan was made from.

    Raises HostError where the host refuses.
    """
    hardware.find_known(site, name)
    if facts.started is not None and plan.has(RESTART):
        power.check_start(site, name, declared, facts.started)
        power.stop(site, name, 0 if facts.status.is_dead else declared.stop_grace)
        power.start(site, name, declared)
    elif facts.started is not None:
        change_running(site, name, declared, plan, facts)
        if plan.touches("running"):
            power.resume(site, name, facts.status)
    elif plan.touches("running"):
        power.start(site, name, declared)
    else:
        change_stopped(site, name, declared, plan)


def change_running(site: Site, name: str, declared: Vm, plan: Plan, facts: VmFacts) -> None:
    """Do on a running machine what can be done on one; the rest waits for its next start."""
    assert facts.started is not None
    now = merged(facts.started, declared, plan.waiting())
    live.change_live(site, name, facts.started, now, facts)
    written.write(site.layout.vm_written(name), launch.scripts(site, name, now))
    site.supervisor.update(launch.unit(site, name, now))
    lan.refresh(site)
    # Last: as long as it is not stored without a doubt, all this is done again.
    site.store.keep_vm(name, declared, now)


def change_stopped(site: Site, name: str, declared: Vm, plan: Plan) -> None:
    """Make a machine that is off, and stays off, as declared."""
    media.check(site, name, declared)
    disks.make_images(site, {name: declared})
    edited = plan.touches("files")
    # One that has never run has no unit yet: its first start makes it.
    known = edited or site.supervisor.has("vm", name)
    if edited or (known and declared.autostart):
        written.write(site.layout.vm_written(name), launch.scripts(site, name, declared))
    if known and (edited or declared.autostart or plan.touches("autostart")):
        site.supervisor.update(launch.unit(site, name, declared))
    # Last: what is stored is not done again.
    site.store.keep_vm(name, declared, None)
    lan.refresh(site)


def store_pending(site: Site, name: str, declared: Vm) -> None:
    """Keep what is declared of a machine although some of it waits: its next start brings it."""
    defined, _ = site.store.vm(name)
    if defined in (None, declared):
        return
    with site.lock("vm", name):
        now, started = site.store.vm(name)
        # What another apply has stored since is younger than this.
        if now == defined:
            site.store.keep_vm(name, declared, started, site.store.vm_unsure(name))


# Off, and away


def ensure_off(site: Site, name: str, test: bool = False, row: Collection[str] = ()) -> Outcome:
    """
    Have a machine off.

    test
        Only say what would be done. Default ``False``.

    row
        Machines that are about to be stopped as well: their power buttons are pressed at once.
        Default: none.

    Returns what ``outcome`` does, and ``how`` in ``power.stop``'s words.
    """
    site.answers.forget()  # whoever has it off, and goes on, has asked for how it is by now
    how = "stopped"

    def plan(each: str, runs: bool = True) -> Plan:
        return plan_vm_stopped(runs, tuple(says_lost(site, each)))

    def look() -> tuple[Plan, None]:
        if name in site.run.pressed and not test:
            return site.run.pressed[name].plan, None
        status, _ = vm_status.find_status(site, name)
        return plan(name, not status.is_off), None

    def act(_plan: Plan, _seen: None) -> None:
        nonlocal how
        how = power.stop(site, name, need_defined(site, name).stop_grace)

    if not test:
        together.press_row(site, name, row, plan)
    found = converge(site, lambda: site.lock("vm", name), look, act, test)
    return {**found, "how": how}


def ensure_absent(
    site: Site, name: str, purge: bool, test: bool = False, row: Mapping[str, bool] | None = None
) -> Outcome:
    """
    Have a machine away: stopped first; its disks, variables and console log go only where purged.

    test
        Only say what would be done. Default ``False``.

    row
        Machines that are about to be taken away as well, each with its ``purge``: the power buttons
        of those that keep their disks are pressed at once. Default: none.

    Returns what ``ensure_off`` does.
    """
    how = "stopped"

    def plan(each: str, purge: bool = False) -> Plan:
        left = bool(own.machine(site.layout, each))
        return plan_vm_absent(vm_status.find_facts(site, each, strict=False), purge, left)

    def look() -> tuple[Plan, None]:
        if name in site.run.pressed and not test:
            return site.run.pressed[name].plan, None
        return plan(name, purge), None

    def act(_plan: Plan, _seen: None) -> None:
        nonlocal how
        how = remove(site, name, purge)

    if not test:
        asked = [each for each, purged in (row or {}).items() if not purged]
        together.press_row(site, name, asked, plan)
    found = converge(site, lambda: site.lock("vm", name), look, act, test)
    return {**found, "how": how}


def remove(site: Site, name: str, purge: bool) -> str:
    """
    Stop a machine and remove its files; whoever calls this holds its lock.

    Returns how it was stopped, in ``power.stop``'s words.
    """
    layout = site.layout
    defined, _ = site.store.vm(name)
    # Where its disks go as well, nothing is lost by not asking its guest.
    grace = None if purge else defined.stop_grace if defined else 0
    how = power.stop(site, name, grace)
    site.supervisor.forget("vm", name)
    if purge:
        own.remove_machine(layout, name)
        host.remove(layout.console(name))
        access.write_known_hosts(site)
    else:
        for path in (layout.vm_file(name), layout.vm_written(name), layout.launch(name)):
            host.remove(path)
        for script_name in ("prepare", "powerdown"):
            host.remove(layout.vm(name) / script_name)
        hardware.forget(site, name)
        host.remove_empty(layout.vm(name))
    lan.refresh(site, leaving=True)
    return "stopped" if purge else how  # how a purge did it is nobody's concern


def says_lost(site: Site, name: str) -> list[str]:
    """Return in words which images a machine alone still holds, since their files are gone."""
    return [image.says for image in vm_status.find_lost(site, name)]
