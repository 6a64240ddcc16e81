"""
Starting and stopping together: what is done for a whole row of states by its first one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import _qemulab_apply_power as apply_power
import _qemulab_host_seam as host
import _qemulab_lan_dhcp as lan
import _qemulab_lan_hosts as lan_hosts
import _qemulab_lan_waiting as addresses
import _qemulab_pillar_spec as spec
import _qemulab_vm_ports as vm_ports
import _qemulab_vm_power as power
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Reservation
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_kinds import SpecError
from _qemulab_plan_changes import Plan
from _qemulab_plan_network import NetworkFacts
from _qemulab_plan_status import Status
from _qemulab_plan_vm import plan_vm
from _qemulab_run_site import Site
from _qemulab_run_underway import Early
from _qemulab_vm_qmp import QmpError
from _qemulab_vm_status import find_facts
from _qemulab_vm_status import find_status


class Row(NamedTuple):
    """
    What may be started with a network that comes up: reservations and machines, by name.

    Each has a state of its own, which reports it. ``None`` is a reservation that goes.
    """

    reservations: Mapping[str, Reservation | None] = {}
    vms: Mapping[str, Vm] = {}


ALONE = Row()


def start_together(site: Site, wanted: Mapping[str, Vm], told: Collection[str] = ()) -> None:
    """
    Start those of some machines that are off, and keep each one's plan for its own state.

    wanted
        What is declared of each, by name.

    told
        Networks that know of them already, and whose locks the caller holds. Default: none.

    A machine that cannot be started is passed over: its own state tries again and tells why.
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
        plans = {}
        for name in locked:
            with contextlib.suppress(HostError):
                plan = plan_vm(find_facts(site, name), off[name], "running")
                if plan.touches("running") and not plan.refused:
                    plans[name] = plan
        if plans:
            with contextlib.suppress(HostError):
                said = power.start_all(site, {name: off[name] for name in plans}, told)
                site.run.early.update(
                    {("vm", name): Early(plan, said) for name, plan in plans.items()}
                )


def start_row(
    site: Site, name: str, declared: Vm, row: Mapping[str, Any], ports: spec.Ports
) -> None:
    """
    Start the machines of a row with the one whose state comes first.

    name, declared
        That one.

    row
        The others, as name and declaration.

    ports
        What ``spec.vm_from`` was given for it.

    Where this machine has been started already, so have the others of its row.
    """
    if host.is_root() and ("vm", name) not in site.run.early:
        known = ports._replace(stored={**ports.stored, name: declared})
        others = spec.readable_vms(row, site.lab, site.store.all_networks(), known)
        others = addresses.all_as_far_as_possible(site, others)
        start_together(site, {name: declared, **others})


def press_together(site: Site, names: Iterable[str], plan: Callable[[str], Plan]) -> None:
    """
    Press the power buttons of machines that are to be stopped one after another: their guests go
    down at the same time, and those that ignore it are waited for together.

    names, plan
        Which, and what returns the plan that each one's own state is to report.

    A machine is passed over, and its own state stops it, where it is off, is not defined, or is
    locked by another apply.
    """
    for name in names:
        if name in site.run.pressed or not site.status("vm", name).alive:
            continue
        with contextlib.suppress(HostError, QmpError), site.lock("vm", name, timeout=0):
            if site.store.vm(name)[0] and find_status(site, name)[0] is Status.RUNNING:
                power.press(site, name, plan(name))


def press_row(site: Site, name: str, row: Iterable[str], plan: Callable[[str], Plan]) -> None:
    """
    Press the power buttons of a row with that of the machine whose state comes first.

    Where its button has been pressed already, so have those of the others of its row.
    """
    if host.is_root() and name not in site.run.pressed:
        press_together(site, [each for each in row if each != name], plan)


def stop_early(site: Site) -> None:
    """
    Stop the machines that were started with a network that has failed: their states will not run.

    A machine that cannot be stopped stays as it is: what the user has to read is that the network
    has failed.
    """
    names = [name for kind, name in site.run.early if kind == "vm"]
    site.run.early.clear()
    for name in names:
        with contextlib.suppress(HostError), site.lock("vm", name, timeout=0):
            power.stop(site, name, 0)


# With a network


def read_row(
    site: Site,
    name: str,
    network: Network,
    reservations: Mapping[str, Any],
    vms: Mapping[str, Any],
) -> Row:
    """Return what may be started with a network; nothing where a declaration of it is faulty."""
    try:
        items = {
            host_name: None if item is None else spec.reservation_from(host_name, item, name)
            for host_name, item in reservations.items()
        }
        # A machine that has to wait is passed over: its own state waits.
        items = {
            host_name: item
            for host_name, item in items.items()
            if item is None or not addresses.has_to_wait(site, name, host_name, item.address)
        }
    except (SpecError, HostError):
        return ALONE
    others = {**site.store.all_networks(), name: network}
    readable = spec.readable_vms(vms, site.lab, others, vm_ports.ports(site))
    return Row(items, addresses.all_as_far_as_possible(site, readable))


def reservation_key(network: str, name: str) -> tuple[str, str]:
    """Return what a reservation that was made with its network is kept by: kind and name."""
    return f"reservation {network}", name


def restart_behind(site: Site, vms: Mapping[str, Any], test: bool = False) -> None:
    """
    Restart the machines that have to reopen the networks of this run that have changed, and keep
    each one's plan for its own state.

    vms
        The machines whose states follow, as name and declaration: each is restarted as its state is
        about to make it, so that it asks for its new address. The others: as last applied.

    test
        Only keep who would be, for what their states say. Default ``False``.

    Raises HostError when all have been tried, where one of them could not be restarted.
    """
    machines = sorted(site.run.reopening)
    site.run.reopening.clear()
    if test:
        site.run.restarted.update(name for name in machines if name in vms)
    if test or not machines:
        return
    networks = site.store.all_networks()
    readable = spec.readable_vms(vms, site.lab, networks, vm_ports.ports(site))
    declared = addresses.all_as_far_as_possible(site, readable)
    plans, failures = {}, []
    for name in machines:
        try:
            plans[name] = apply_power.restart_as(site, name, declared.get(name))
        except (HostError, QmpError) as err:
            failures.append(f"{name} was not restarted: {err}")
    if failures:
        raise HostError("\n".join(failures))
    # Not before: what is kept is stopped again where the network fails, and these have run before.
    site.run.early.update(
        {("vm", name): Early(plan) for name, plan in plans.items() if plan.changes}
    )


def find_startable(
    site: Site, name: str, before: NetworkFacts, network: Network, row: Row, anew: bool
) -> Row:
    """
    Return what of a row is started with a network: all of it, or nothing.

    anew
        Whether it is taken down and made anew.

    Nothing where one of its processes runs on. Nor where addresses are leased and reservations
    change: a lease may then have to be released, before a machine asks for its address.
    """
    reserved = lan_hosts.reserved(name, row.vms)
    there = lan_hosts.reserved(name, lan.machines(site))
    new = any(network.reservations.get(each) != item for each, item in row.reservations.items())
    new = new or any(there.get(each) != item for each, item in reserved.items())
    runs_on = (before.hub or before.dnsmasq) and not anew
    if runs_on or (new and addresses.leases(site, name)):
        return ALONE
    return row
