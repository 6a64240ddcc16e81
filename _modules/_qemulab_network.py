"""
Networks on the host: what is of them, and how a plan for one is carried out.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import shlex
from collections.abc import Callable
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import _qemulab_host as host
import _qemulab_host_own as own
import _qemulab_host_places as places
import _qemulab_hostnet as hostnet
import _qemulab_hub as hub
import _qemulab_lan_dhcp as lan
import _qemulab_lan_etc as etc
import _qemulab_lan_hosts as lan_hosts
import _qemulab_lan_link as link
import _qemulab_probe as probe
import _qemulab_process as process
import _qemulab_run_left as left
import _qemulab_vm as machines
from _qemulab_dnsmasq import Files
from _qemulab_host import File
from _qemulab_host import HostError
from _qemulab_keys import LINK
from _qemulab_keys import Network
from _qemulab_keys import Reservation
from _qemulab_keys import Vm
from _qemulab_look import runs
from _qemulab_plan_changes import Plan
from _qemulab_plan_diff import merged
from _qemulab_plan_network import NetworkFacts
from _qemulab_plan_network import plan_network
from _qemulab_plan_network import plan_reservation
from _qemulab_run_underway import Early
from _qemulab_site import Site
from _qemulab_units import Unit


class Row(NamedTuple):
    """
    What may be begun together with a network that comes up: reservations and machines, by name.

    Each has a state of its own, which reports it.
    """

    reservations: Mapping[str, Reservation] = {}
    vms: Mapping[str, Vm] = {}


ALONE = Row()


END_TIMEOUT = 2.0
LINK_TIMEOUT = 1.0
PROCESSES = ("hub", "dnsmasq")
"""A network's processes, in the order in which they start."""


def facts(site: Site, name: str, declared: Network | None = None) -> NetworkFacts:
    """
    Return what is of a network.

    site
        The lab on this host.

    name
        Name of the network.

    declared
        What it is compared with where nothing was applied yet.
    """
    defined = site.store.network(name)
    network = defined or declared or left.network(site, name)
    if network is None:
        return NetworkFacts()
    alive = {kind: site.status(kind, name).alive for kind in PROCESSES}
    return NetworkFacts(
        defined=defined,
        link=link.state(site, name, network),
        route=hub.has_group_route(network, site.routes()),
        hub=alive["hub"],
        dnsmasq=alive["dnsmasq"],
        machines=machines_on(site, name),
        reservations=dict(defined.reservations) if defined else {},
        # Looked for through all processes of the host, so only where it is needed.
        orphans=tuple(orphans(site, name, network)) if defined and not all(alive.values()) else (),
        units=all(site.supervisor.has(kind, name) for kind in PROCESSES),
    )


def orphans(site: Site, name: str, network: Network) -> dict[str, tuple[int, str]]:
    """
    Return which of a network's processes run without their supervisor, as one leaves them that was
    killed: each with its PID and the word of its command line that no other process has.
    """
    words = {
        "hub": hub.hub_argv(network, tun_device(site.lab, name))[-1],
        "dnsmasq": lan.configuration_option(site, name),
    }
    found = {}
    for kind, word in words.items():
        own = site.status(kind, name).pid
        for pid in process.find(word, host.USER):
            if pid != own:
                found[kind] = pid, word
    return found


def end_orphans(site: Site, name: str, network: Network) -> None:
    """
    End what runs of a network without its supervisor, so that it can be started anew.

    Nothing is lost with them: the TAP stays, and the leases are in a file.
    """
    for pid, word in orphans(site, name, network).values():
        process.end(pid, word, END_TIMEOUT)


def machines_on(site: Site, name: str) -> tuple[str, ...]:
    """Return the running machines that sit on a network."""
    found = []
    for vm in site.store.vms():
        _, started = site.store.vm(vm)
        if started is None or all(nic.network != name for nic in started.nics):
            continue
        if runs(site, vm):
            found.append(vm)
    return tuple(found)


def effective(old: Network | None, declared: Network, plan: Plan) -> Network:
    """Return the network as it is after a plan: what is pending stays as it was."""
    if old is None:
        return declared
    # They have states of their own.
    declared = dataclasses.replace(declared, reservations=old.reservations)
    return merged(old, declared, plan.waiting())


def tun_device(lab: str, name: str) -> str:
    """
    Return the device that the hub opens: the host's where anyone may, else a copy for our user.

    Opening it gives no right but to attach to a TAP that one owns. Source: the kernel's
    Documentation/networking/tuntap.rst. Containers have it for root alone.
    """
    if host.mode("/dev/net/tun") & 0o006 == 0o006:
        return "/dev/net/tun"
    return f"/dev/qemulab-{lab}.{name}"  # no name has a dot in it


def units(site: Site, name: str, network: Network) -> tuple[Unit, Unit]:
    """Return the units of a network's hub and of its DHCP and DNS server."""
    directory = site.layout.network(name)
    return (
        Unit(
            kind="hub",
            lab=site.lab,
            name=name,
            user=host.USER,
            always=True,
            launch=directory / "hub",
            prepare=directory / "link",
            capabilities=("net_admin",),
            devices=("/dev/net/tun",),
            autostart=network.autostart,
        ),
        lan.unit(site, name, network),
    )


def check_start(site: Site, name: str, declared: Network, before: NetworkFacts) -> None:
    """
    Raise HostError where the host stands in the way of a start: an interface that is not ours, a
    directory that is closed to our user, no TAP, a port that is taken.
    """
    if link.state(site, name, declared) == "other":
        problem = link.foreign(site, name, declared)
        raise HostError(problem, hint=f"name another: lab:networks:{name}:interface")
    if not (before.hub and before.dnsmasq):
        places.check(site, networks=[name])
    if not before.hub or before.link == "absent":
        missing = probe.no_tap()
        if missing is not None:
            what, says, do = missing
            raise HostError(f"{what}: {says}", hint=do)
    if not before.dnsmasq:
        taken = probe.taken_server_port(name, declared)
        # Ours may be on its way back, or run without its supervisor.
        if taken is not None and not process.find(lan.configuration_option(site, name), host.USER):
            problem, do = taken
            raise HostError(problem, hint=do)


def write_files(site: Site, name: str, network: Network, vms: Mapping[str, Vm]) -> set[Path]:
    """
    Write what was applied of a network and all that its processes read.

    vms
        The lab's machines, those that are about to be begun first.

    Returns which had to be written.
    """
    files = Files(site.layout.network(name))
    device = tun_device(site.lab, name)
    mac = hub.tap_mac(site.lab, name)
    host.make_directory(files.leases.parent, mode=0o700, owner=host.USER)
    scripts = {"link": hub.link_script(network, mac, host.USER, device)}
    for file, argv in (
        ("hub", hub.hub_argv(network, device)),
        ("dnsmasq", ["dnsmasq", lan.configuration_option(site, name)]),
    ):
        command = shlex.join([probe.binary(argv[0]), *argv[1:]])
        scripts[file] = hub.script(f"The {file} of network {name}.", [f"exec {command}"])
    etc.make(site, name, network)
    return host.write_all(
        [
            *(File(files.directory / file, text, 0o755) for file, text in scripts.items()),
            *lan.all_files(site, name, network, vms),
            site.store.network_as_file(name, network),
        ]
    )


def settled(site: Site, name: str, declared: Network) -> NetworkFacts:
    """
    Return what is of a network, asked anew: another apply may have been at it until just now.

    A hub that its supervisor starts at this moment may be making the link: that is there for some
    milliseconds before it has our MAC address, so one that is not ours is looked at again.
    """
    found = NetworkFacts()

    def ours() -> bool:
        nonlocal found
        site.answers.forget()
        found = facts(site, name, declared)
        return link.state(site, name, declared) != "other"

    host.wait_for(ours, LINK_TIMEOUT)
    return found


def apply(site: Site, name: str, declared: Network, row: Row = ALONE) -> Plan:
    """
    Make a network as declared, and return what that took. Raises HostError where the host refuses.

    row
        What is begun with it where none of its processes runs. Default: nothing.
    """
    with site.lock("network", name):
        before = settled(site, name, declared)
        plan = plan_network(before, declared)
        check_start(site, name, declared, before)
        for program in ("socat", "dnsmasq"):
            probe.binary(program)
        network = effective(before.defined, declared, plan)
        row = beginnable(site, name, before, network, row)
        for host_name, item in row.reservations.items():
            network = lan.with_reservation(network, host_name, item)
        if before.defined is not None and before.orphans:
            end_orphans(site, name, before.defined)
        if before.defined is not None and plan.takes(LINK):
            take_down(site, name, before.defined)
        written = write_files(site, name, network, {**row.vms, **lan.machines(site), **row.vms})
        files = Files(site.layout.network(name))
        moved = before.defined is not None and plan.touches("address")
        anew = files.configuration in written or not before.dnsmasq
        with ThreadPoolExecutor(1) as aside:
            own = aside.submit(start, site, name, network, moved, anew)
            machines.begin_together(site, row.vms, told=(name,))
        own.result()
        wait_until_ready(site, name, network)
        link.hold(site, name, network)
        for host_name, item in row.reservations.items():
            made = plan_reservation(before.reservations.get(host_name), item)
            site.run.early[reservation_key(name, host_name)] = Early(made)
        if not anew and written & {files.reservations, files.hosts}:
            lan.reread_names(site, name)
    return plan


def reservation_key(network: str, name: str) -> tuple[str, str]:
    """Return what a reservation that was made with its network is kept by: kind and name."""
    return f"reservation {network}", name


def beginnable(site: Site, name: str, before: NetworkFacts, network: Network, row: Row) -> Row:
    """
    Return what of a row is begun with a network: all of it, or nothing.

    Nothing where one of its processes runs already. Nor where addresses are leased and reservations
    change: a lease may then have to be released, before a machine asks for its address.
    """
    reserved = lan_hosts.reserved(name, row.vms)
    there = lan_hosts.reserved(name, lan.machines(site))
    new = any(network.reservations.get(each) != item for each, item in row.reservations.items())
    new = new or any(there.get(each) != item for each, item in reserved.items())
    if before.hub or before.dnsmasq or (new and lan.leases(site, name)):
        return ALONE
    return row


def start(site: Site, name: str, network: Network, moved: bool, anew: bool) -> None:
    """
    Start those of a network's processes that do not run.

    moved
        Whether it has another address, and leases may not belong to it any more.

    anew
        Whether a dnsmasq that runs has read other files, and is started again.
    """
    # Before dnsmasq starts: it binds its DHCP socket to an interface that is there by then, and to
    # none otherwise.
    link.make(site, name)
    if moved:
        drop_foreign_leases(site, name, network)
    if anew and site.status("dnsmasq", name, fresh=True).alive:
        site.supervisor.stop("dnsmasq", name)
    site.supervisor.start(units(site, name, network))
    site.answers.forget()


def drop_foreign_leases(site: Site, name: str, network: Network) -> None:
    """Forget leases outside a network that has just moved; its DHCP server does not run."""
    subnet = ipaddress.IPv4Interface(network.address).network
    foreign = [
        lease
        for lease in lan.leases(site, name)
        if ipaddress.IPv4Address(lease.address) not in subnet
    ]
    lan.drop_leases(site, name, foreign)


def wait_until_ready(site: Site, name: str, network: Network) -> None:
    """Wait until the hub holds the TAP and the DNS server answers; raises HostError if not."""
    questions: list[tuple[str, Callable[[], bool]]] = [
        ("hub", lambda: hostnet.has_carrier(network.interface)),
        ("dnsmasq", lambda: lan.serves(site, name, network)),
    ]
    for kind, question in questions:
        # A process that fails, as on a port that is taken, may have been there for a moment.
        if (
            not host.wait_for(question, lan.READY_TIMEOUT)
            or not site.status(kind, name, True).alive
        ):
            log = site.supervisor.log(kind, name)
            raise HostError(f"the {kind} of network {name} does not come up", log)


def take_down(site: Site, name: str, network: Network) -> None:
    """Stop a network's processes and remove its TAP and route."""
    for kind in reversed(PROCESSES):
        site.supervisor.stop(kind, name)
    site.answers.forget()
    end_orphans(site, name, network)
    link.remove(site, name, network)


def remove(site: Site, name: str, before: NetworkFacts) -> None:
    """
    Take a network away with all its files.

    Raises HostError where machines still run on it: they would lose their network.
    """
    if before.machines:
        problem = f"machines still run on network {name}: {', '.join(before.machines)}"
        raise HostError(problem, hint="stop them first")
    network = before.defined or left.network(site, name)
    if network is None:
        return
    with site.lock("network", name):
        take_down(site, name, network)
        for kind in PROCESSES:
            site.supervisor.forget(kind, name)
        device = tun_device(site.lab, name)
        if device != "/dev/net/tun":
            host.remove(device)
        own.remove_network(site.layout, name)
    site.answers.forget()
