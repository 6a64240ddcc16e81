"""
See what of the host stands in a lab's way: a route to the same network, a port that is taken.

Pure: takes what ``ip`` and ``ss`` printed.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from typing import Any


def _devices(route: dict[str, Any]) -> list[str]:
    """Return the interfaces that a route leaves by: one, several (multipath) or none."""
    hops = [route, *route.get("nexthops", [])]
    return [str(hop["dev"]) for hop in hops if "dev" in hop]


def _words(route: dict[str, Any], network: ipaddress.IPv4Network) -> str:
    """Return a route as ``ip route show`` says it, without its details."""
    kind = str(route.get("type", "unicast"))
    words = [] if kind == "unicast" else [kind]
    words.append(str(network))
    if "gateway" in route:
        words.append(f"via {route['gateway']}")
    words.extend(f"dev {device}" for device in _devices(route))
    return " ".join(words)


def overlap(
    network: ipaddress.IPv4Network,
    routes: list[dict[str, Any]],
    ignore_interface: str,
) -> str | None:
    """
    Return the host's route that shares addresses with a lab's network.

    network
        The lab's network.

    routes
        What ``ip -j -4 route show`` printed, parsed.

    ignore_interface
        The lab's own interface: a route on it is the lab's.

    Returns the most specific such route in words (``192.168.0.0/16 dev eth0``), or ``None``.
    Routes that lead nowhere (blackhole, unreachable, prohibit) count. The default route does
    not, nor do the two halves of it (0.0.0.0/1, 128.0.0.0/1) that VPN clients set in its place:
    the lab's own route is more specific than they are, as it is than the default.
    """
    worst: tuple[int, str] | None = None
    for route in routes:
        try:
            found = ipaddress.IPv4Network(str(route.get("dst", "default")), strict=False)
        except ValueError:
            continue  # "default"
        if found.prefixlen <= 1 or not found.overlaps(network):
            continue
        devices = _devices(route)
        if devices and set(devices) == {ignore_interface}:
            continue
        if worst is None or found.prefixlen > worst[0]:
            worst = (found.prefixlen, _words(route, found))
    return None if worst is None else worst[1]


def members(text: str, group: str) -> list[str]:
    """
    Return the interfaces on which somebody of the host has joined a multicast group.

    text
        What ``/proc/net/igmp`` has: a line an interface, below it a line a group, in hexadecimal of
        the host's byte order.

    group
        The group's address.
    """
    wanted = f"{int.from_bytes(ipaddress.IPv4Address(group).packed, sys.byteorder):08X}"
    found = []
    device = ""
    for line in text.splitlines()[1:]:
        fields = line.split()
        if not line[:1].isspace():
            device = fields[1]
        elif fields and fields[0] == wanted:
            found.append(device)
    return found


def port_owner(text: str, port: int) -> str | None:
    """
    Return who listens on a port of the host.

    text
        What ``ss -H -ltnpu`` printed (or with ``-t`` or ``-u`` alone).

    port
        The port.

    Returns ``sshd (pid 812)``; ``another process`` where ``ss`` named none, as it does without
    root; ``None`` where the port is free.
    """
    for line in text.splitlines():
        # The first field with a port is the local address: 0.0.0.0:22, [::]:22, *:22, x%lo:53.
        local = next((field for field in line.split() if re.search(r":(\d+|\*)$", field)), "")
        if local.rpartition(":")[2] != str(port):
            continue
        user = re.search(r'\("([^"]*)",pid=(\d+)', line)
        return f"{user[1]} (pid {user[2]})" if user else "another process"
    return None
