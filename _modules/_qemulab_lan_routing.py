"""
The host's own way to a network: whether its packets really leave by the TAP.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import _qemulab_host_net as host_net
from _qemulab_host_net import Way
from _qemulab_pillar_keys import Network

MOST_ADDRESSES = 8
"""Addresses of a network that are asked for: each takes 0.1 ms of every apply."""
MAIN = 254
USUAL_TABLES = (253, MAIN, 255)
"""The tables default, main and local, which no rule has to name. Source: ip-rule(8)"""
PLAIN = {"priority", "src", "table", "suppress_prefixlen"}
"""What a rule has, as ``ip -j rule`` prints it, that is for every packet."""


def shadowed(network: Network, is_up: bool) -> tuple[str, str] | None:
    """
    Return in words that a rule of the host takes the packets to a network elsewhere, and what to do
    about it; ``None`` where they leave by the TAP, or will once it is there.

    network
        The network.

    is_up
        Whether its TAP is up. Before it is, only a table of somebody's own can be told from the
        host's usual way out.
    """
    host = ipaddress.IPv4Interface(network.address)
    first, _, last = network.dhcp.range.partition("-")
    reserved = [item.address for item in network.reservations.values()]
    for address in list(dict.fromkeys([first, last, *reserved]))[:MOST_ADDRESSES]:
        # A connection has no address of its own yet, an answer of the DNS server has.
        for source in ("", str(host.ip)) if is_up else ("",):
            way = host_net.way_to(address, source)
            if not _is_wrong(way, network.interface, is_up):
                continue
            if not is_up and main_is_first(host_net.rules(), way.table, host.network.prefixlen):
                continue
            leads = f"leave by {way.interface} (table {way.table})"
            if way.refusal:
                leads = f"are refused ({way.refusal})"
            problem = f"the host's own packets to {address} {leads}, not by {network.interface}"
            return problem, f"ip rule add to {host.network} lookup main"
    return None


def _is_wrong(way: Way, interface: str, is_up: bool) -> bool:
    """Return whether a way leads past a network's TAP."""
    if is_up:
        return way.interface != interface
    return bool(way.interface) and way.table not in USUAL_TABLES


def main_is_first(rules: Iterable[Mapping[str, Any]], table: int, length: int) -> bool:
    """
    Return whether a network's route, once it is there, counts before what another table says.

    rules
        What ``ip -N -j rule`` prints, parsed.

    table
        Number of the other table.

    length
        Length of the network's prefix.

    VPNs that take all traffic ask the table main first and leave out its default route alone
    (``suppress_prefixlength 0``), as WireGuard's wg-quick does. Source: ip-rule(8)
    """
    for rule in rules:
        if rule.get("table") == str(table):
            return False
        plain = rule.keys() <= PLAIN and rule.get("src") == "all"
        if plain and rule.get("table") == str(MAIN) and rule.get("suppress_prefixlen", -1) < length:
            return True
    return False
