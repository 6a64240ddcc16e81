"""
dnsmasq's files: configuration, reservations, names, leases. Pure: text in, text out.

One dnsmasq serves one network. What changes while it runs (reservations, names) lies in files of
its own that it reads again on SIGHUP; only what lies in its configuration needs a restart.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import _qemulab_lan_hosts as lan_hosts
from _qemulab_lan_hosts import Known
from _qemulab_pillar_keys import Network


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


def configuration(network: Network, files: Files, tap_mac: str, known: Iterable[Known] = ()) -> str:
    """
    Return dnsmasq's whole configuration for a network.

    network, files
        The network, and where its files are.

    tap_mac
        MAC address of the host's TAP. It is never served: a host whose network manager asks for an
        address there would take its default route through its own lab.

    known
        Who is on it: some are handed no router. Default: nobody is known.

    It names every file that dnsmasq reads, so that nothing of the host's own dnsmasq (its
    /etc/dnsmasq.conf, its hosts) gets in. ``bind-dynamic`` serves the interface alone and takes
    it up again after it was made anew. ``local=//`` keeps bare names here: the AAAA of a name
    known by A is then an empty answer, not a refusal. A name that a client gives itself is not
    believed (``dhcp-ignore-names``): it could be a machine's that is off. Source: dnsmasq(8)
    """
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
        *domain(network),
        *upstream(network),
        "dhcp-authoritative",
        "dhcp-no-override",
        # An installer and the system it installs send different client identifiers.
        "dhcp-ignore-clid",
        "dhcp-ignore-names",
        f"dhcp-host={tap_mac},ignore",
        *ranges(network),
        *router(network, known),
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


def domain(network: Network) -> list[str]:
    """
    Return the lines of the DNS domain: handed out, behind every short name as well, asked of
    nobody else.
    """
    name = network.dns.domain
    # A network that an older version has made has none until it is applied again.
    return [f"domain={name}", f"local=/{name}/", "expand-hosts"] if name not in ("", "none") else []


def ranges(network: Network) -> list[str]:
    """Return the lines of the range; one that holds the router alone has reservations only."""
    netmask = ipaddress.IPv4Interface(network.address).netmask
    parts = lan_hosts.ranges(network) or [(network.dhcp.router, "static")]
    time = network.dhcp.lease_time
    return [f"dhcp-range={first},{last},{netmask},{time}" for first, last in parts]


def router(network: Network, known: Iterable[Known]) -> list[str]:
    """
    Return the lines of the default route, with those who are handed none.

    Who that is stands here, which costs a restart of dnsmasq when it changes, and not as a tag in
    the file of reservations: dnsmasq 2.90 aborts at the SIGHUP after a host that has one there
    asked for a lease, since it frees the tag with what it had linked behind it. Seen on Debian 12.
    """
    if network.dhcp.router == "none":
        return ["dhcp-option=option:router"]
    macs = sorted(item.mac for item in known if not item.routed)
    return [
        f"dhcp-option=option:router,{network.dhcp.router}",
        "dhcp-option=tag:unrouted,option:router",
        *(f"dhcp-mac=set:unrouted,{mac}" for mac in macs),
    ]


def upstream(network: Network) -> list[str]:
    """Return the lines that say who is asked for names that the network does not know."""
    if network.dns.upstream == "none":
        return ["no-resolv"]
    if network.dns.upstream == "host":
        return ["resolv-file=/etc/resolv.conf"]
    return ["no-resolv", *(f"server={address}" for address in network.dns.upstream)]


def reservations_text(known: Iterable[Known]) -> str:
    """
    Return the file of reservations: MAC address, address and name where it has them, a line.

    A name ends in a dot, as an absolute one does: dnsmasq takes ``ignore``, ``infinite``, ``123``
    and ``12h`` for words of its own, and none with a dot. It hands the name out without it.
    """
    return "".join(
        ",".join(filter(None, (item.mac, item.address, item.name and f"{item.name}."))) + "\n"
        for item in known
        if item.address or item.name
    )


def parse_reservations(text: str) -> dict[str, str]:
    """Return the address of each MAC address in a file of reservations, empty for none."""
    found = {}
    for line in text.splitlines():
        mac, _, rest = line.partition(",")
        first = rest.partition(",")[0]
        found[mac] = first if re.fullmatch(r"[0-9]+(\.[0-9]+){3}", first) else ""
    return found


def hosts_text(names: Mapping[str, str]) -> str:
    """Return the file of names: those with an address resolve before their machines run."""
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


def without_leases(text: str, gone: Iterable[Lease]) -> str:
    """Return a lease file's text without some leases: for a dnsmasq that does not run."""
    dropped = {(lease.mac, lease.address) for lease in gone}
    kept = [
        line
        for line in text.splitlines(keepends=True)
        if not any((lease.mac, lease.address) in dropped for lease in parse_leases(line))
    ]
    return "".join(kept)


def contradicting(
    leases: Iterable[Lease], reserved: Mapping[str, str], gone: Mapping[str, str] | None = None
) -> list[Lease]:
    """
    Return the leases that the reservations no longer allow.

    leases
        What is leased.

    reserved
        The address that is reserved for each MAC address now.

    gone
        What was reserved until now and is no longer, likewise: its own lease has to go as well;
        an empty address stands for any. Default: nothing.
    """
    by_address = {address: mac for mac, address in reserved.items()}
    found = []
    for lease in leases:
        moved = reserved.get(lease.mac, lease.address) != lease.address
        stolen = by_address.get(lease.address, lease.mac) != lease.mac
        left = (gone or {}).get(lease.mac) in ("", lease.address)
        if moved or stolen or (left and reserved.get(lease.mac) != lease.address):
            found.append(lease)
    return found


def release_argv(interface: str, lease: Lease) -> list[str]:
    """Return the command that makes the DHCP server forget a lease. Source: dhcp_release(1)"""
    argv = ["dhcp_release", interface, lease.address, lease.mac]
    return [*argv, lease.client_id] if lease.client_id else argv
