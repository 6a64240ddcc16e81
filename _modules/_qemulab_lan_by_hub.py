"""
The hub, which drives a network: socat, between its TAP and the multicast socket of QEMU's machines.

Pure builders: they return command lines and do nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from _qemulab_pillar_keys import Network

RECEIVE_BUFFER = 4 * 2**20
"""Bytes. Measured with iperf over the hub: 639 Mbit/s and no retransmit, against 262 Mbit/s and
18 856 retransmits with the kernel's default of 212 992."""
SO_RCVBUFFORCE = 33
"""Sets a receive buffer beyond net.core.rmem_max for CAP_NET_ADMIN. Source: socket(7)."""


def group_address(network: Network) -> str:
    """Return the multicast group without its port."""
    return network.multicast.rpartition(":")[0]


def group_port(network: Network) -> int:
    """Return the multicast port."""
    return int(network.multicast.rpartition(":")[2])


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
