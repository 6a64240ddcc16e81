"""
Networks on the host: what is of them, and how a plan for one is carried out.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import shlex
import signal
from collections.abc import Callable
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import _qemulab_dnsmasq as dnsmasq
import _qemulab_host as host
import _qemulab_hostnet as hostnet
import _qemulab_hub as hub
import _qemulab_lan_link as link
import _qemulab_plan as planner
import _qemulab_probe as probe
import _qemulab_process as process
import _qemulab_vm as machines
from _qemulab_dnsmasq import Files
from _qemulab_host import File
from _qemulab_host import HostError
from _qemulab_keys import Network
from _qemulab_keys import Reservation
from _qemulab_keys import Vm
from _qemulab_look import runs
from _qemulab_plan import NetworkFacts
from _qemulab_plan import Plan
from _qemulab_site import Begun
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


READY_TIMEOUT = 10.0
RELEASE_TIMEOUT = 3.0
END_TIMEOUT = 2.0
LINK_TIMEOUT = 1.0
PROCESSES = ("hub", "dnsmasq")
"""A network's processes, in the order in which they start."""
DNS_PORT = 53


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
    defined = site.network(name)
    network = defined or declared
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
        "dnsmasq": configuration_option(site, name),
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
    for vm in site.vms():
        _, started = site.vm(vm)
        if started is None or all(nic.network != name for nic in started.nics):
            continue
        if runs(site, vm):
            found.append(vm)
    return tuple(found)


def effective(old: Network | None, declared: Network, plan: Plan) -> Network:
    """Return the network as it is after a plan: what is pending stays as it was."""
    pending = {change.key.partition(":")[0] for change in plan.pending}
    kept = {key: getattr(old, key) for key in pending} if old else {}
    reservations = old.reservations if old else declared.reservations
    return dataclasses.replace(declared, reservations=reservations, **kept)


def tun_device(lab: str, name: str) -> str:
    """
    Return the device that the hub opens: the host's where anyone may, else a copy for our user.

    Opening it gives no right but to attach to a TAP that one owns. Source: the kernel's
    Documentation/networking/tuntap.rst. Containers have it for root alone.
    """
    if host.mode("/dev/net/tun") & 0o006 == 0o006:
        return "/dev/net/tun"
    return f"/dev/qemulab-{lab}-{name}"


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
        Unit(
            kind="dnsmasq",
            lab=site.lab,
            name=name,
            user=host.USER,
            always=True,
            launch=directory / "dnsmasq",
            capabilities=("net_admin", "net_raw", "net_bind_service"),
            writable=(site.layout.leases(name).parent,),
            autostart=network.autostart,
        ),
    )


def configuration_option(site: Site, name: str) -> str:
    """Return the one option of a network's dnsmasq, which no other process has."""
    return f"--conf-file={Files(site.layout.network(name)).configuration}"


def check_start(site: Site, name: str, declared: Network, before: NetworkFacts) -> None:
    """Raise HostError where the host stands in the way of a start: no TAP, a port that is taken."""
    if not before.hub or before.link == "absent":
        missing = probe.no_tap()
        if missing is not None:
            what, says, do = missing
            raise HostError(f"{what}: {says}", hint=do)
    if not before.dnsmasq:
        taken = probe.taken_server_port(name, declared)
        # Ours may be on its way back, or run without its supervisor.
        if taken is not None and not process.find(configuration_option(site, name), host.USER):
            problem, do = taken
            raise HostError(problem, hint=do)


def write_files(site: Site, name: str, network: Network) -> None:
    """Write what was applied of a network and all that its processes read."""
    files = Files(site.layout.network(name))
    device = tun_device(site.lab, name)
    mac = hub.tap_mac(site.lab, name)
    host.make_directory(files.leases.parent, mode=0o700, owner=host.USER)
    scripts = {"link": hub.link_script(network, mac, host.USER, device)}
    for file, argv in (
        ("hub", hub.hub_argv(network, device)),
        ("dnsmasq", ["dnsmasq", configuration_option(site, name)]),
    ):
        command = shlex.join([probe.binary(argv[0]), *argv[1:]])
        scripts[file] = hub.script(f"The {file} of network {name}.", [f"exec {command}"])
    host.write_all(
        [
            *(File(files.directory / file, text, 0o755) for file, text in scripts.items()),
            File(files.configuration, dnsmasq.configuration(network, files, mac)),
            File(site.layout.resolv_conf(name), dnsmasq.resolv_conf(network)),
            *names_files(site, name, network),
            site.network_as_file(name, network),
        ]
    )


def names_files(site: Site, name: str, network: Network) -> list[File]:
    """Return what dnsmasq reads again on SIGHUP."""
    files = Files(site.layout.network(name))
    return [
        File(files.reservations, dnsmasq.reservations_text(network.reservations)),
        File(files.hosts, dnsmasq.hosts_text(network, network.reservations)),
    ]


def settled(site: Site, name: str, declared: Network) -> NetworkFacts:
    """
    Return what is of a network, asked anew: another apply may have been at it until just now.

    A hub that its supervisor starts at this moment may be making the link: that is there for some
    milliseconds before it has our MAC address, so one that is not ours is looked at again.
    """
    found = NetworkFacts()

    def ours() -> bool:
        nonlocal found
        site.forget()
        found = facts(site, name, declared)
        return found.link != "other"

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
        if before.link == "other":
            problem = link.foreign(site, name, declared)
            raise HostError(problem, hint=f"name another: lab:networks:{name}:interface")
        plan = planner.plan_network(before, declared)
        check_start(site, name, declared, before)
        for program in ("socat", "dnsmasq"):
            probe.binary(program)
        keys = plan.keys()
        network = effective(before.defined, declared, plan)
        row = beginnable(site, name, before, network, row)
        for host_name, item in row.reservations.items():
            network = with_reservation(network, host_name, item)
        if before.defined is not None and before.orphans:
            end_orphans(site, name, before.defined)
        if before.defined is not None and keys & {"interface", "multicast", "address"}:
            take_down(site, name, before.defined)
        write_files(site, name, network)
        quiet = {"on_change", "autostart", "link", "route", "units", *PROCESSES}
        reread = {key for key in keys if key.startswith("dns:names")}
        others = keys - quiet - reread
        changed = others if before.defined is not None else set()
        with ThreadPoolExecutor(1) as aside:
            anew = bool(changed) or not before.dnsmasq
            own = aside.submit(start, site, name, network, "address" in changed, anew)
            machines.begin_together(site, row.vms)
        own.result()
        wait_until_ready(site, name, network)
        link.hold(site, name, network)
        for host_name, item in row.reservations.items():
            made = planner.plan_reservation(before.reservations.get(host_name), item)
            site.begun[reservation_key(name, host_name)] = Begun(made)
        if reread and not others:
            reread_names(site, name)
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
    new = any(network.reservations.get(each) != item for each, item in row.reservations.items())
    if before.hub or before.dnsmasq or (new and leases(site, name)):
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
    site.forget()


def reread_names(site: Site, name: str) -> None:
    """Have a network's dnsmasq read names and reservations; one that has just started has."""
    pid = site.status("dnsmasq", name, fresh=True).pid
    process.send(pid, signal.SIGHUP, configuration_option(site, name))


def drop_foreign_leases(site: Site, name: str, network: Network) -> None:
    """Forget leases outside a network that has just moved; its DHCP server does not run."""
    subnet = ipaddress.IPv4Interface(network.address).network
    foreign = [
        lease for lease in leases(site, name) if ipaddress.IPv4Address(lease.address) not in subnet
    ]
    drop_leases(site, name, foreign)


def drop_leases(site: Site, name: str, gone: list[dnsmasq.Lease]) -> None:
    """Forget leases of a DHCP server that does not run."""
    if gone:
        path = site.layout.leases(name)
        text = dnsmasq.without_leases(host.read(path) or "", gone)
        host.write(path, text, owner=host.USER)


def wait_until_ready(site: Site, name: str, network: Network) -> None:
    """Wait until the hub holds the TAP and the DNS server answers; raises HostError if not."""
    address = str(ipaddress.IPv4Interface(network.address).ip)

    def serving() -> bool:
        alive = site.status("dnsmasq", name, fresh=True).alive
        return alive and hostnet.tcp_answers(address, DNS_PORT)

    questions: list[tuple[str, Callable[[], bool]]] = [
        ("hub", lambda: hostnet.has_carrier(network.interface)),
        ("dnsmasq", serving),
    ]
    for kind, question in questions:
        # A process that fails, as on a port that is taken, may have been there for a moment.
        if not host.wait_for(question, READY_TIMEOUT) or not site.status(kind, name, True).alive:
            log = site.supervisor.log(kind, name)
            raise HostError(f"the {kind} of network {name} does not come up", log)


def take_down(site: Site, name: str, network: Network) -> None:
    """Stop a network's processes and remove its TAP and route."""
    for kind in reversed(PROCESSES):
        site.supervisor.stop(kind, name)
    site.forget()
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
    if before.defined is None:
        return
    with site.lock("network", name):
        take_down(site, name, before.defined)
        for kind in PROCESSES:
            site.supervisor.forget(kind, name)
        device = tun_device(site.lab, name)
        if device != "/dev/net/tun":
            host.remove(device)
        host.remove(site.layout.network(name))
        host.remove_empty(site.layout.networks)
    site.forget()


# Reservations and leases


def leases(site: Site, name: str) -> list[dnsmasq.Lease]:
    """Return what a network's DHCP server has leased."""
    return dnsmasq.parse_leases(host.read(site.layout.leases(name)) or "")


def with_reservation(network: Network, name: str, item: Reservation | None) -> Network:
    """Return a network with one reservation set, or removed where it is ``None``."""
    kept = {other: kept for other, kept in network.reservations.items() if other != name}
    if item is not None:
        kept[name] = item
    return dataclasses.replace(network, reservations=kept)


def contradicting(
    site: Site, network_name: str, name: str, item: Reservation | None
) -> list[dnsmasq.Lease]:
    """Return the leases that would contradict the reservations if this one were applied."""
    network = site.network(network_name)
    if network is None:
        return []
    subnet = ipaddress.IPv4Interface(network.address).network
    if item is not None and ipaddress.IPv4Address(item.address) not in subnet:
        return []  # the network is about to move, and forgets its leases when it does
    old = network.reservations.get(name)
    gone = old if old != item else None
    reservations = with_reservation(network, name, item).reservations
    return dnsmasq.contradicting(leases(site, network_name), reservations, gone)


def apply_reservation(site: Site, network_name: str, name: str, item: Reservation | None) -> None:
    """
    Set or remove one reservation: two files, one SIGHUP, and leases that contradict it released.

    The other machines' leases and dnsmasq's process stay. Raises HostError where the network is
    not there or the host refuses.
    """
    with site.lock("network", network_name):
        network = site.network(network_name)
        if network is None:
            problem = f"there is no network {network_name} in the lab {site.lab}"
            raise HostError(problem, hint="qemulab.network_present makes it")
        stale = contradicting(site, network_name, name, item)
        network = with_reservation(network, name, item)
        names = names_files(site, network_name, network)
        written = host.write_all([*names, site.network_as_file(network_name, network)])
        changed = any(file.path in written for file in names)
        alive = site.status("dnsmasq", network_name).alive
        if changed and alive:
            reread_names(site, network_name)
        if stale and alive:
            release(site, network_name, network, stale)
        elif stale:
            drop_leases(site, network_name, stale)


def release(site: Site, name: str, network: Network, stale: list[dnsmasq.Lease]) -> None:
    """Make a running DHCP server forget leases; raises HostError where it does not."""
    for lease in stale:
        host.run(dnsmasq.release_argv(network.interface, lease))
    wanted = {(lease.mac, lease.address) for lease in stale}

    def gone() -> bool:
        return not wanted & {(lease.mac, lease.address) for lease in leases(site, name)}

    if not host.wait_for(gone, RELEASE_TIMEOUT):
        left = ", ".join(sorted(address for _, address in wanted))
        raise HostError(f"dnsmasq did not release {left} on network {name}")
