"""
dnsmasq's files: configuration, reservations, names, leases. Pure: text in, text out.

One dnsmasq serves one network. What changes while it runs (reservations, names) lies in files of
its own that it reads again on SIGHUP; only what lies in its configuration needs a restart.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from _qemulab_keys import Network
from _qemulab_keys import Reservation


class Files(NamedTuple):
    """Where a network's dnsmasq finds what it reads and writes."""

    directory: Path

    @property
    def configuration(self) -> Path:
        """The main configuration; read at start only."""
        return self.directory / "dnsmasq.conf"

    @property
    def reservations(self) -> Path:
        """The reservations; read again on SIGHUP."""
        return self.directory / "reservations"

    @property
    def hosts(self) -> Path:
        """The names; read again on SIGHUP."""
        return self.directory / "hosts"

    @property
    def leases(self) -> Path:
        """The leases, which dnsmasq itself writes."""
        return self.directory / "dhcp" / "leases"


class Lease(NamedTuple):
    """One line of the lease file."""

    expires: int
    mac: str
    address: str
    name: str
    client_id: str


def configuration(network: Network, files: Files, tap_mac: str) -> str:
    """
    Return dnsmasq's whole configuration for a network.

    tap_mac
        MAC address of the host's TAP. It is never served: a host whose network manager asks for an
        address there would take its default route through its own lab.

    It names every file that dnsmasq reads, so that nothing of the host's own dnsmasq (its
    /etc/dnsmasq.conf, its hosts) gets in. ``bind-dynamic`` serves the interface alone and takes
    it up again after it was made anew. ``local=//`` keeps bare names here: the AAAA of a name
    known by A is then an empty answer, not a refusal. Source: dnsmasq(8)
    """
    host = ipaddress.IPv4Interface(network.address)
    first, last = network.dhcp.range.split("-")
    router = network.dhcp.router
    lines = [
        "keep-in-foreground",
        "log-facility=-",
        "pid-file",
        f"interface={network.interface}",
        "except-interface=lo",
        "bind-dynamic",
        "no-hosts",
        f"addn-hosts={quoted(files.hosts)}",
        "domain-needed",
        "bogus-priv",
        "local=//",
        *upstream(network),
        "dhcp-authoritative",
        "dhcp-no-override",
        # An installer and the system it installs send different client identifiers.
        "dhcp-ignore-clid",
        f"dhcp-host={tap_mac},ignore",
        f"dhcp-range={first},{last},{host.netmask},{network.dhcp.lease_time}",
        f"dhcp-option=option:router{'' if router == 'none' else ',' + router}",
        f"dhcp-hostsfile={quoted(files.reservations)}",
        f"dhcp-leasefile={quoted(files.leases)}",
    ]
    return "\n".join(lines) + "\n"


def quoted(path: Path) -> str:
    """Return a path for the configuration: in quotes, and with what they hide escaped."""
    if re.fullmatch("[A-Za-z0-9_./-]+", str(path)):
        return str(path)
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def upstream(network: Network) -> list[str]:
    """Return the lines that say who is asked for names that the network does not know."""
    if network.dns.upstream == "none":
        return ["no-resolv"]
    if network.dns.upstream == "host":
        return ["resolv-file=/etc/resolv.conf"]
    return ["no-resolv", *(f"server={address}" for address in network.dns.upstream)]


def reservations_text(reservations: Mapping[str, Reservation]) -> str:
    """Return the file of reservations: MAC address, address and name, a line each."""
    return "".join(
        f"{item.mac},{item.address},{name}\n" for name, item in sorted(reservations.items())
    )


def hosts_text(network: Network, reservations: Mapping[str, Reservation]) -> str:
    """Return the file of names: reserved ones resolve before their machines run."""
    names = {name: item.address for name, item in reservations.items()}
    names.update(network.dns.names)
    return "".join(f"{address} {name}\n" for name, address in sorted(names.items()))


def resolv_conf(network: Network) -> str:
    """Return a resolver configuration that names the network's own DNS server."""
    return f"nameserver {ipaddress.IPv4Interface(network.address).ip}\n"


def parse_leases(text: str) -> list[Lease]:
    """
    Return the leases of a lease file, in its order.

    A line has expiry (seconds since 1970, 0 for never), MAC address, address, name and client
    identifier, each of the last two ``*`` where there is none. Source: dnsmasq(8), --dhcp-script
    """
    leases = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 5 or not fields[0].isdigit():
            continue
        name = "" if fields[3] == "*" else fields[3]
        client_id = "" if fields[4] == "*" else fields[4]
        leases.append(Lease(int(fields[0]), fields[1].lower(), fields[2], name, client_id))
    return leases


def without_leases(text: str, gone: list[Lease]) -> str:
    """Return a lease file's text without some leases: for a dnsmasq that does not run."""
    dropped = {(lease.mac, lease.address) for lease in gone}
    kept = [
        line
        for line in text.splitlines(keepends=True)
        if not any((lease.mac, lease.address) in dropped for lease in parse_leases(line))
    ]
    return "".join(kept)


def contradicting(
    leases: list[Lease], reservations: Mapping[str, Reservation], gone: Reservation | None = None
) -> list[Lease]:
    """
    Return the leases that the reservations no longer allow.

    leases
        What is leased.

    reservations
        What is reserved now.

    gone
        A reservation that has just been removed or replaced: its own lease has to go as well.
    """
    by_mac = {item.mac: item.address for item in reservations.values()}
    by_address = {item.address: item.mac for item in reservations.values()}
    found = []
    for lease in leases:
        moved = by_mac.get(lease.mac, lease.address) != lease.address
        stolen = by_address.get(lease.address, lease.mac) != lease.mac
        left = (
            gone is not None
            and (lease.mac, lease.address) == (gone.mac, gone.address)
            and by_mac.get(lease.mac) != lease.address
        )
        if moved or stolen or left:
            found.append(lease)
    return found


def release_argv(interface: str, lease: Lease) -> list[str]:
    """Return the command that makes the DHCP server forget a lease. Source: dhcp_release(1)"""
    argv = ["dhcp_release", interface, lease.address, lease.mac]
    return [*argv, lease.client_id] if lease.client_id else argv
