"""
The vmlan: a TAP interface of the host, joined by socat to the multicast socket of QEMU's machines.

Pure builders: they return scripts and command lines and do nothing else.
"""

from __future__ import annotations

import hashlib
import ipaddress
import shlex
from collections.abc import Container
from collections.abc import Sequence
from typing import Any

from _qemulab_pillar_keys import Network
from _qemulab_run_units import script

RECEIVE_BUFFER = 4 * 2**20
"""Bytes. Measured with iperf over the hub: 639 Mbit/s and no retransmit, against 262 Mbit/s and
18 856 retransmits with the kernel's default of 212 992."""
IPV6 = "/proc/sys/net/ipv6"
"""What only a kernel has that speaks IPv6. Source: net/ipv6/af_inet6.c, inet6_init"""
SO_RCVBUFFORCE = 33
"""Sets a receive buffer beyond net.core.rmem_max for CAP_NET_ADMIN. Source: socket(7)."""


def group_address(network: Network) -> str:
    """Return the multicast group without its port."""
    return network.multicast.rpartition(":")[0]


def group_port(network: Network) -> int:
    """Return the multicast port."""
    return int(network.multicast.rpartition(":")[2])


def tap_mac(lab: str, name: str) -> str:
    """
    Return the fixed MAC address of a network's TAP: locally administered, from the names.

    A fixed one keeps the guests' ARP caches and the host's link-local address right when the
    interface has to be made again.
    """
    digest = hashlib.sha256(f"{lab}/{name}/tap".encode()).hexdigest()
    return f"02:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}:{digest[6:8]}:{digest[8:10]}"


def link_script(network: Network, mac: str, user: str, tun_device: str) -> str:
    """
    Return the script that makes the TAP, its address and the group's route; runs as root.

    What is already there stays as it is, so that running it again changes nothing: the hub runs
    it each time it starts, and so heals an interface that was removed.

    network
        The network.

    mac
        MAC address of the TAP.

    user
        The user that may attach to the TAP.

    tun_device
        The device that the hub opens; made for that user alone where it is not /dev/net/tun.
    """
    tap = network.interface
    lines = []
    if tun_device != "/dev/net/tun":
        device = shlex.quote(tun_device)
        lines += [
            f"[ -e {device} ] || mknod -m 0600 {device} c 10 200",
            f"chown {user} {device}",
        ]
    lines += [
        f"ip link show dev {tap} >/dev/null 2>&1 || ip tuntap add dev {tap} mode tap user {user}",
        # A kernel without IPv6 (ipv6.disable=1) knows no such setting, and refuses all of it.
        'mode="addrgenmode none"',
        f"[ -e {IPV6} ] || mode=",
        "ip -batch - <<END",
        f"link set dev {tap} address {mac} $mode up",
        f"address replace {network.address} dev {tap}",
        "link set dev lo up",
        # The group's own route: a QEMU typed by hand, without localaddr=, stays on lo as well.
        f"route replace {group_address(network)}/32 dev lo",
        "END",
    ]
    return script("Makes the host's side of the network; what is there already stays.", lines)


def hub_argv(network: Network, tun_device: str) -> list[str]:
    """
    Return the command line of the hub.

    network
        The network.

    tun_device
        The device through which the TAP is attached, ``/dev/net/tun`` or a copy of ours.

    Four things keep the frames on the host: the interface to send from, the device that the
    socket is bound to, a TTL of 0, and membership on 127.0.0.1 only. ``bind=`` is what the
    recipe's ``sourceport=`` was meant to be: socat 1.7.4.4 ignores that one on this address type
    and binds a random port, so that no machine is ever heard.
    """
    group = group_address(network)
    port = group_port(network)
    socket_options = [
        f"bind=:{port}",
        "reuseaddr",
        f"ip-add-membership={group}:127.0.0.1",
        "ip-multicast-if=127.0.0.1",
        "ip-multicast-ttl=0",
        "so-bindtodevice=lo",
        f"setsockopt-int=1:{SO_RCVBUFFORCE}:{RECEIVE_BUFFER}",
    ]
    tap_options = [f"tun-name={network.interface}", "tun-type=tap", "iff-no-pi", "iff-up"]
    if tun_device != "/dev/net/tun":
        tap_options.insert(0, f"tun-device={tun_device}")
    return [
        "socat",
        f"UDP4-DATAGRAM:{group}:{port}," + ",".join(socket_options),
        "TUN," + ",".join(tap_options),
    ]


def read_argv(argv: Sequence[str]) -> tuple[str, str]:
    """Return the group with its port, and the interface, of a hub, by its command line."""
    group = interface = ""
    for word in argv:
        first, *options = word.split(",")
        if first.startswith("UDP4-DATAGRAM:"):
            group = first.partition(":")[2]
        if first == "TUN":
            names = [each.partition("=")[2] for each in options if each.startswith("tun-name=")]
            interface = "".join(names[:1])
    return group, interface


def is_our_tap(link: dict[str, Any], mac: str, owners: Container[object]) -> bool:
    """
    Return whether an interface of the host is a TAP of ours.

    link
        What ``ip -j -d address show`` has of it.

    mac, owners
        The MAC address that it was made with, and who may attach to it: the user by name or number,
        as ``ip`` shows it.

    One of both is enough: udev and people change the address, and a user that was removed and made
    anew has another number.
    """
    info = link.get("linkinfo") or {}
    data = info.get("info_data") or {}
    if info.get("info_kind") != "tun" or data.get("type") != "tap":
        return False
    return link.get("address") == mac or data.get("user") in owners


def link_state(
    network: Network, mac: str, owners: Container[object], links: list[dict[str, Any]]
) -> str:
    """
    Return in a few words how the TAP is: ``up`` is right.

    mac, owners
        As for ``is_our_tap``.

    links
        What ``ip -j -d address show`` prints.

    The others are ``absent``, ``down``, ``no address``, ``other MAC`` (somebody has changed it) and
    ``other``, which is an interface of this name that is not our TAP.
    """
    for link in links:
        if link.get("ifname") != network.interface:
            continue
        if not is_our_tap(link, mac, owners):
            return "other"
        if "UP" not in link.get("flags", ()):
            return "down"
        if link.get("address") != mac:
            return "other MAC"
        wanted = ipaddress.IPv4Interface(network.address)
        for address in link.get("addr_info", ()):
            if address.get("family") == "inet" and address.get("local") == str(wanted.ip):
                if address.get("prefixlen") == wanted.network.prefixlen:
                    return "up"
        return "no address"
    return "absent"


def has_group_route(network: Network, routes: list[dict[str, Any]]) -> bool:
    """Return whether ``ip -j route show`` has the group's route on the loopback interface."""
    group = group_address(network)
    return any(r.get("dst") == group and r.get("dev") == "lo" for r in routes)
