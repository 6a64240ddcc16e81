"""
The host's own way to a network: whether its packets really leave by the TAP.
"""

from __future__ import annotations

import ipaddress

import _qemulab_hostnet as hostnet
from _qemulab_hostnet import Way
from _qemulab_keys import Network

MOST_ADDRESSES = 8
"""Addresses of a network that are asked for: each takes 0.1 ms of every apply."""
USUAL_TABLES = (253, 254, 255)
"""The tables default, main and local, which no rule has to name. Source: ip-rule(8)"""


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
            way = hostnet.way_to(address, source)
            if not _is_wrong(way, network.interface, is_up):
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
