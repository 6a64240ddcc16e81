"""
Networks: how each is made as declared, and taken away; and the reservations on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import _qemulab_apply_together as together
import _qemulab_host_owned as own
import _qemulab_host_probe as probe
import _qemulab_host_process as process
import _qemulab_host_seam as host
import _qemulab_lan_dhcp as lan
import _qemulab_lan_link as link
import _qemulab_lan_network as networks
import _qemulab_lan_orphans as left
import _qemulab_lan_routing as way
import _qemulab_lan_waiting as addresses
import _qemulab_pillar_spec as spec
import _qemulab_vm_disks as disks
import _qemulab_vm_lost_images as held
import _qemulab_vm_status as vm_status
from _qemulab_apply_converge import Outcome
from _qemulab_apply_converge import converge
from _qemulab_apply_converge import outcome
from _qemulab_apply_together import Row
from _qemulab_host_seam import HostError
from _qemulab_lan_dnsmasq_files import Files
from _qemulab_pillar_keys import LINK
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Reservation
from _qemulab_pillar_keys import Vm
from _qemulab_plan_changes import RESTART
from _qemulab_plan_changes import Plan
from _qemulab_plan_network import NetworkFacts
from _qemulab_plan_network import network_after
from _qemulab_plan_network import plan_network
from _qemulab_plan_network import plan_network_absent
from _qemulab_plan_network import plan_reservation
from _qemulab_plan_shown import naming
from _qemulab_run_site import Site
from _qemulab_run_underway import Early
from _qemulab_run_underway import Move

LINK_TIMEOUT = 1.0
"""Seconds within which a link that its hub makes at this moment is ours."""


def find_facts(site: Site, name: str, declared: Network | None = None) -> NetworkFacts:
    """
    Return what is of a network.

    declared
        What it is compared with where nothing was applied yet. Default: what runs of it.
    """
    defined = site.store.network(name)
    network = defined or declared or left.network(site, name)
    if network is None:
        return NetworkFacts()
    alive = {kind: site.status(kind, name).alive for kind in networks.PROCESSES}
    machines = machines_on(site, name)
    # Looked for through all processes of the host, so only where it is needed.
    some_dead = defined and not all(alive.values())
    return NetworkFacts(
        defined=defined,
        link=link.state(site, name, network),
        route=link.has_group_route(network, site.routes()),
        hub=alive["hub"],
        dnsmasq=alive["dnsmasq"],
        machines=machines,
        waiting=find_waiting(site, name, machines),
        reservations=dict(defined.reservations) if defined else {},
        orphans=tuple(networks.orphans(site, name, network)) if some_dead else (),
        units=all(site.supervisor.has(kind, name) for kind in networks.PROCESSES),
        files=networks.edited_files(site, name) if defined else {},
    )


def machines_on(site: Site, name: str) -> tuple[str, ...]:
    """Return the running machines that sit on a network; a dry run leaves out whom it stops."""
    found = []
    for vm in site.store.vms():
        _, started = site.store.vm(vm)
        here = started is not None and any(nic.network == name for nic in started.nics)
        if here and vm not in site.run.leaving and vm_status.runs(site, vm):
            found.append(vm)
    return tuple(found)


def find_waiting(site: Site, name: str, machines: Collection[str]) -> tuple[str, ...]:
    """Return the machines that have yet to reopen a network, but those that this run restarts."""
    stored = site.store.network_waiting(name)
    return tuple(
        vm
        for vm in machines
        if vm in stored and vm not in site.run.reopening and stored[vm] == process_of(site, vm)
    )


def process_of(site: Site, vm: str) -> str:
    """Return what no other process than a running machine's has."""
    # QEMU is asked only where the supervisor does not know it.
    pid = site.status("vm", vm).pid or vm_status.find_status(site, vm)[1]
    return process.identity(pid)


# As declared


def ensure(
    site: Site,
    name: str,
    declaration: Any,
    test: bool = False,
    reservations: Mapping[str, Any] | None = None,
    vms: Mapping[str, Any] | None = None,
    last: bool = True,
) -> Outcome:
    """
    Make a network as declared, and restart the machines on it where its change needs that.

    declaration
        Its keys, as in the pillar, but ``reservations``.

    test
        Only say what would be done. Default ``False``.

    reservations, vms
        What may be started with it where it does not run, by name; ``None`` for a reservation that
        goes. Default: nothing.

    last
        Whether machines are restarted now, for this network and those before it. Default ``True``;
        ``False``: another network's state follows, and does that.

    Returns what ``outcome`` does. Raises HostError where the host refuses.
    """
    declared = spec.network_from(name, declaration, site.lab)

    def look() -> tuple[Plan, NetworkFacts]:
        facts = find_facts(site, name, declared)
        plan = plan_network(facts, declared)
        now = network_after(facts.defined, declared, plan).address
        site.run.moves[name] = Move(now, declared.address)
        # Before anything is changed, or those behind it would be left on the old network.
        for machine in reopening(plan):
            held.need_none(machine, vm_status.find_lost(site, machine))
        if test and plan.changes:
            networks.check_start(site, name, declared, facts)
            site.run.reopening.update(reopening(plan))
        return plan, facts

    def act(plan: Plan, facts: NetworkFacts) -> None:
        row = together.read_row(site, name, declared, reservations or {}, vms or {})
        site.run.reopening.update(reopening(plan))
        with ThreadPoolExecutor(1) as aside:
            # While the network's files are written; one that fails is told where it is needed.
            aside.submit(disks.make_templates, site, row.vms)
            carry_out(site, name, declared, plan, facts, row)

    site.run.early.clear()
    try:
        shown = naming(declared, declaration)
        found = converge(site, lambda: locked(site, name, declared), look, act, test, shown)
        if last:
            # The network's lock is free by now: a machine's start tells its server of it.
            together.restart_behind(site, vms or {}, test)
    except Exception:
        # Who has yet to reopen it is stored; what its address is shows there as well.
        site.run.reopening.clear()
        site.run.moves.pop(name, None)
        together.stop_early(site)
        raise
    if found["changes"] and not test:
        found["notes"] += says_around(site, name, declared)
    return found


def reopening(plan: Plan) -> tuple[str, ...]:
    """Return the machines that have to be restarted when the plan of a network is carried out."""
    return plan.machines if plan.has(RESTART) else ()


@contextlib.contextmanager
def locked(site: Site, name: str, declared: Network) -> Iterator[None]:
    """Hold a network's lock, and have the link there that its hub makes at this moment."""
    with site.lock("network", name):
        wait_for_link(site, name, declared)
        yield


def wait_for_link(site: Site, name: str, declared: Network) -> None:
    """
    Wait until a network's link is ours, or is not and has had the time to become it.

    A hub that its supervisor starts at this moment may be making it: a link is there for some
    milliseconds before it has its owner and our MAC address.
    """
    network = site.store.network(name) or declared

    def ours() -> bool:
        site.answers.forget()
        return link.state(site, name, network) != "other"

    host.wait_for(ours, LINK_TIMEOUT)


def says_around(site: Site, name: str, network: Network) -> list[str]:
    """Return in words what of the host is in the way of a network that was just changed."""
    found = [
        f"the host's firewall drops {each.what} on {network.interface}: {each.rule}; "
        f"to open it: {each.command}"
        for each in probe.blocked(network)
    ]
    shadowed = way.shadowed(site.store.network(name) or network, is_up=True)
    return found + ["; ".join(shadowed)] if shadowed else found


def carry_out(
    site: Site, name: str, declared: Network, plan: Plan, facts: NetworkFacts, row: Row
) -> None:
    """
    Carry the plan of a network out; whoever calls this holds its lock.

    facts
        What the plan was made from.

    row
        What is started with it where none of its processes runs.

    Raises HostError where the host refuses.
    """
    networks.check_start(site, name, declared, facts)
    for program in ("socat", "dnsmasq"):
        probe.binary(program)
    network = network_after(facts.defined, declared, plan)
    row = together.find_startable(site, name, facts, network, row, plan.takes(LINK))
    for host_name, item in row.reservations.items():
        network = lan.with_reservation(network, host_name, item)
    if facts.defined is not None and facts.orphans:
        networks.end_orphans(site, name, facts.defined)
    if facts.defined is not None and plan.takes(LINK):
        networks.take_down(site, name, facts.defined)
    waiting = {vm: process_of(site, vm) for vm in reopening(plan) or facts.waiting}
    vms = about_to_start_first(row.vms, lan.machines(site))
    changed = networks.write_files(site, name, network, vms, waiting)
    files = Files(site.layout.network(name))
    moved = facts.defined is not None and plan.touches("address")
    anew = networks.outdated(facts)
    if files.configuration in changed or not facts.dnsmasq:
        anew.add("dnsmasq")
    with ThreadPoolExecutor(1) as aside:
        started = aside.submit(networks.start, site, name, network, moved, anew)
        together.start_together(site, row.vms, told=(name,))
    started.result()
    networks.wait_until_ready(site, name, network)
    link.hold(site, name, network)
    for host_name, item in row.reservations.items():
        made = plan_reservation(facts.reservations.get(host_name), item)
        site.run.early[together.reservation_key(name, host_name)] = Early(made)
    if "dnsmasq" not in anew and changed & {files.reservations, files.hosts}:
        lan.reread_names(site, name)


def about_to_start_first(starting: Mapping[str, Vm], known: Mapping[str, Vm]) -> dict[str, Vm]:
    """
    Return the lab's machines in the order in which an address is theirs: those that are about to be
    started, as declared, and behind them the others, as ``known``.
    """
    return {**starting, **{name: vm for name, vm in known.items() if name not in starting}}


# Away


def ensure_absent(site: Site, name: str, test: bool = False) -> Outcome:
    """
    Take a network away with all its files.

    test
        Only say what would be done. Default ``False``.

    Returns what ``outcome`` does. Raises HostError where machines still run on it: they would lose
    their network.
    """

    def look() -> tuple[Plan, NetworkFacts]:
        facts = find_facts(site, name)
        return plan_network_absent(facts), facts

    return converge(
        site,
        lambda: site.lock("network", name),
        look,
        lambda _plan, facts: remove(site, name, facts),
        test,
    )


def remove(site: Site, name: str, facts: NetworkFacts) -> None:
    """Remove what is of a network; whoever calls this holds its lock."""
    if facts.machines:
        problem = f"machines still run on network {name}: {', '.join(facts.machines)}"
        raise HostError(problem, hint="stop them first")
    network = facts.defined or left.network(site, name)
    if network is None:
        return
    networks.take_down(site, name, network)
    for kind in networks.PROCESSES:
        site.supervisor.forget(kind, name)
    device = networks.tun_device(site.lab, name)
    if device != "/dev/net/tun":
        host.remove(device)
    own.remove_network(site.layout, name)


# Reservations


def ensure_reservation(
    site: Site, network: str, name: str, declared: Reservation | None, test: bool = False
) -> Outcome:
    """
    Make a reservation as declared, or take it away.

    declared
        ``None`` to have none of that name.

    test
        Only say what would be done. Default ``False``.

    Returns what ``outcome`` does. Raises HostError where the network is not there or the host
    refuses.
    """
    if not test:
        early = site.run.early.pop(together.reservation_key(network, name), None)
        if early is not None:  # made with its network
            return outcome(site, early.plan)

    def look() -> tuple[Plan, Network | None]:
        late = declared is not None and addresses.has_to_wait(site, network, name, declared.address)
        stale = [] if late else lan.contradicted(site, network, name, declared)
        kept = addresses.leases(site, network)
        stale = [lease for lease in stale if lease in kept]
        old = site.store.reservations(network).get(name)
        plan = plan_reservation(old, declared, bool(stale), late)
        return plan, site.store.network(network)

    def act(_plan: Plan, facts: Network | None) -> None:
        if facts is None:
            problem = f"there is no network {network} in the lab {site.lab}"
            raise HostError(problem, hint="qemulab.network_present makes it")
        changed = lan.with_reservation(facts, name, declared)
        lan.tell(site, network, changed, [site.store.network_as_file(network, changed)])

    return converge(site, lambda: site.lock("network", network), look, act, test)
