"""
A network's DHCP and DNS server: what it is told of reservations and machines, and how it hears.

What it reads is worked out from what is stored of the network and of every machine. So whoever
stores one of them has it ``tell``, or ``refresh``, and nothing else has to be kept in step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import signal
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping

import _qemulab_host_generated as written
import _qemulab_host_net as host_net
import _qemulab_host_process as process
import _qemulab_host_seam as host
import _qemulab_lan_dnsmasq_files as dnsmasq
import _qemulab_lan_hosts as lan_hosts
import _qemulab_lan_link as link
from _qemulab_host_seam import File
from _qemulab_host_seam import HostError
from _qemulab_lan_dnsmasq_files import Files
from _qemulab_lan_dnsmasq_files import Lease
from _qemulab_lan_hosts import Known
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Reservation
from _qemulab_pillar_keys import Vm
from _qemulab_run_site import Site
from _qemulab_run_units import Unit

RELEASE_TIMEOUT = 3.0
READY_TIMEOUT = 10.0
DNS_PORT = 53


def unit(site: Site, name: str, network: Network) -> Unit:
    """Return the unit of a network's DHCP and DNS server."""
    return Unit(
        kind="dnsmasq",
        lab=site.lab,
        name=name,
        user=host.USER,
        always=True,
        launch=site.layout.network(name) / "dnsmasq",
        capabilities=("net_admin", "net_raw", "net_bind_service"),
        writable=(site.layout.leases(name).parent,),
        autostart=network.autostart,
    )


def configuration_option(site: Site, name: str) -> str:
    """Return the one option of a network's dnsmasq, which no other process has."""
    return f"--conf-file={Files(site.layout.network(name)).configuration}"


# What it is told


def machines(site: Site) -> dict[str, Vm]:
    """
    Return the lab's machines as they run, or else as they were applied.

    The one that was started last comes first, and what is off comes behind: of two that have the
    same address, as a machine that is no longer declared and its successor, that decides.
    """
    found = []
    for name in site.store.vms():
        defined, started = site.store.vm(name)
        vm = started or defined
        if vm is not None:
            found.append((started is not None, site.store.vm_stored(name), name, vm))
    found.sort(key=lambda each: each[:2], reverse=True)
    return {name: vm for *_, name, vm in found}


def configuration_file(site: Site, name: str, network: Network, known: Iterable[Known]) -> File:
    """Return what a network's server reads at its start only."""
    files = Files(site.layout.network(name))
    text = dnsmasq.configuration(network, files, link.tap_mac(site.lab, name), known)
    return File(files.configuration, text)


def names_files(site: Site, name: str, network: Network, vms: Mapping[str, Vm]) -> list[File]:
    """Return what a network's server reads again on SIGHUP."""
    files = Files(site.layout.network(name))
    known = lan_hosts.known(name, network, vms)
    return [
        File(files.reservations, dnsmasq.reservations_text(known)),
        File(files.hosts, dnsmasq.hosts_text(lan_hosts.names(name, network, vms))),
    ]


def all_files(site: Site, name: str, network: Network, vms: Mapping[str, Vm]) -> list[File]:
    """Return all that a network's server reads of reservations and machines."""
    known = lan_hosts.known(name, network, vms)
    return [
        configuration_file(site, name, network, known),
        *names_files(site, name, network, vms),
    ]


# How it hears


def refresh(
    site: Site, but: Collection[str] = (), leaving: bool = False, timeout: float | None = None
) -> None:
    """
    Have the servers of the lab's networks know of machines that have come, changed or gone.

    but
        Networks whose servers know already. Default: none.

    leaving
        Whether a machine has gone: its way out is then forgotten with the next change, since that
        alone is worth no restart, and nothing that goes wrong is a reason to keep the machine.
        Default ``False``.

    timeout
        Seconds to wait for each network's lock. Default: the lab's.

    Raises HostError where a server that runs does not take it up, or a lock is not to be had.
    """
    for name in site.store.networks():
        with contextlib.suppress(*([HostError] if leaving else [])):
            if name in but or heard(site, name, leaving):
                continue
            with site.lock("network", name, timeout):
                network = site.store.network(name)
                if network is not None:
                    tell(site, name, network, leaving=leaving)


def heard(site: Site, name: str, leaving: bool) -> bool:
    """Return whether a network's server has been told all that there is to tell."""
    network = site.store.network(name)
    if network is None:
        return True
    files = names_files if leaving else all_files
    return all(file.is_there() for file in files(site, name, network, machines(site)))


def tell(
    site: Site, name: str, network: Network, kept: Collection[File] = (), leaving: bool = False
) -> None:
    """
    Write what a network's server reads, have it read that, and release leases that contradict it.

    kept
        Files that are written with these. Default: none.

    leaving
        As for ``refresh``.

    The other machines' leases stay; whoever calls this holds the network's lock.
    """
    vms = machines(site)
    text = host.read(Files(site.layout.network(name)).reservations) or ""
    stale = contradicting(site, name, network, vms, dnsmasq.parse_reservations(text))
    configuration, *names = all_files(site, name, network, vms)
    told = [*([] if leaving else [configuration]), *names]
    changed = written.write(site.layout.network_written(name), told, kept)
    if not site.status("dnsmasq", name).alive:
        drop_leases(site, name, stale)
        return
    if configuration.path in changed:
        restart(site, name, network)
    elif any(file.path in changed for file in names):
        reread_names(site, name)
    release(site, name, network, stale, wait=not leaving)


def restart(site: Site, name: str, network: Network) -> None:
    """Start a network's server anew, and wait until it answers; its leases are in a file."""
    site.supervisor.stop("dnsmasq", name)
    site.supervisor.start([unit(site, name, network)])
    if not host.wait_for(lambda: serves(site, name, network), READY_TIMEOUT):
        log = site.supervisor.log("dnsmasq", name)
        raise HostError(f"the dnsmasq of network {name} does not come up", log)


def serves(site: Site, name: str, network: Network) -> bool:
    """Return whether a network's server runs and answers."""
    address = str(ipaddress.IPv4Interface(network.address).ip)
    alive = site.status("dnsmasq", name, fresh=True).alive
    return alive and host_net.tcp_answers(address, DNS_PORT)


def reread_names(site: Site, name: str) -> None:
    """Have a network's server read names and reservations; one that has just started has."""
    pid = site.status("dnsmasq", name, fresh=True).pid
    process.send(pid, signal.SIGHUP, configuration_option(site, name))


# Reservations


def with_reservation(network: Network, name: str, item: Reservation | None) -> Network:
    """Return a network with one reservation set, or removed where it is ``None``."""
    kept = {other: kept for other, kept in network.reservations.items() if other != name}
    if item is not None:
        kept[name] = item
    return dataclasses.replace(network, reservations=kept)


def all_reservations(site: Site, name: str) -> dict[str, Reservation]:
    """Return what is reserved on a network, by machines as well."""
    return {**lan_hosts.reserved(name, machines(site)), **site.store.reservations(name)}


# Leases


def leases(site: Site, name: str) -> list[Lease]:
    """Return what a network's server has leased."""
    return dnsmasq.parse_leases(host.read(site.layout.leases(name)) or "")


def contradicting(
    site: Site, name: str, network: Network, vms: Mapping[str, Vm], told: Mapping[str, str]
) -> list[Lease]:
    """
    Return the leases that would contradict what a network's server is about to be told.

    told
        What it knows until now: the address of each MAC address, empty for a name alone.
    """
    known = lan_hosts.known(name, network, vms)
    reserved = {item.mac: item.address for item in known if item.address}
    named = {item.mac for item in known if item.name}
    gone = {
        mac: address
        for mac, address in told.items()
        if reserved.get(mac) != address and (address or mac not in named)
    }
    return dnsmasq.contradicting(leases(site, name), reserved, gone)


def contradicted(site: Site, network_name: str, name: str, item: Reservation | None) -> list[Lease]:
    """Return the leases that would contradict a network's reservations with this one applied."""
    network = site.store.network(network_name)
    if network is None:
        return []
    subnet = ipaddress.IPv4Interface(network.address).network
    if item is not None and ipaddress.IPv4Address(item.address) not in subnet:
        return []
    vms = machines(site)
    before = lan_hosts.known(network_name, network, vms)
    told = {each.mac: each.address for each in before if each.address or each.name}
    after = with_reservation(network, name, item)
    return contradicting(site, network_name, after, vms, told)


def drop_leases(site: Site, name: str, gone: Collection[Lease]) -> None:
    """Forget leases of a server that does not run."""
    if gone:
        path = site.layout.leases(name)
        text = dnsmasq.without_leases(host.read(path) or "", gone)
        host.write(path, text, owner=host.USER)


def release(
    site: Site, name: str, network: Network, stale: Collection[Lease], wait: bool = True
) -> None:
    """
    Make a running server forget leases; raises HostError where it does not.

    wait
        Until they are gone. Default ``True``.
    """
    for lease in stale:
        host.run(dnsmasq.release_argv(network.interface, lease))
    wanted = {(lease.mac, lease.address) for lease in stale}

    def gone() -> bool:
        return not wanted & {(lease.mac, lease.address) for lease in leases(site, name)}

    if wait and not host.wait_for(gone, RELEASE_TIMEOUT):
        left = ", ".join(sorted(address for _, address in wanted))
        raise HostError(f"dnsmasq did not release {left} on network {name}")
