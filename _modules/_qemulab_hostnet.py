"""
The host's network: interfaces, routes, ports. The seam's other half; it changes nothing.
"""

from __future__ import annotations

import errno
import fcntl
import json
import socket
import struct
from typing import Any

import _qemulab_host as host

SIOCGIFFLAGS = 0x8913
IFF_RUNNING = 0x40
"""Source: netdevice(7)"""
IP_FREEBIND = 15
"""Binds an address that the host does not have. Source: ip(7)"""


def survey() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """
    Return the host's interfaces with addresses, and its IPv4 routes, as ``ip -j -d`` has them.

    By netlink, never from /sys: that shows another network namespace's where it was mounted in one.
    """
    if host.find_binary("ip") is None:
        return [], []  # a dry run on a host that lacks it: apply installs it first
    questions = "address show\nroute show\n"
    shown = host.run(["ip", "-j", "-d", "-batch", "-"], stdin=questions, check=False)
    if shown.status != 0:
        return [], []
    links, routes = (json.loads(line) for line in shown.stdout.splitlines())
    return [link for link in links if link.get("ifname")], routes


def has_carrier(interface: str) -> bool:
    """Return whether an interface is up, and a TAP has a process attached to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sH14x", interface.encode(), 0)
        try:
            answer = fcntl.ioctl(probe, SIOCGIFFLAGS, request)
        except OSError:
            return False
    return bool(struct.unpack("16sH14x", answer)[1] & IFF_RUNNING)


def tcp_answers(address: str, port: int, timeout: float = 1.0) -> bool:
    """Return whether somebody accepts TCP connections at an address of this host."""
    try:
        with socket.create_connection((address, port), timeout=timeout):
            return True
    except OSError:
        return False


def port_is_free(address: str, port: int, protocol: str = "tcp", shared: bool = False) -> bool:
    """
    Return whether a port of this host could be listened on; ``False`` where it is taken.

    address
        Where; empty for everywhere.

    shared
        Ask as a server does that shares the port with others that do so too, on an address that
        the host need not have yet. Default ``False``.
    """
    return refusal(address, port, protocol, shared) != errno.EADDRINUSE


def refusal(address: str, port: int, protocol: str = "tcp", shared: bool = False) -> int:
    """
    Return the kernel's error number where a port could not be listened on, 0 where it could.

    The arguments are those of ``port_is_free``.
    """
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        if protocol == "tcp" or shared:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            probe.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        try:
            probe.bind((address, port))
        except OSError as err:
            return err.errno or errno.EIO
    return 0


def multicast_returns(group: str, timeout: float = 0.5) -> bool:
    """
    Return whether a datagram to a multicast group comes back on the loopback interface.

    group
        The group's address. A port of the test's own is used: nobody else hears it.

    timeout
        Seconds to wait for it. Default 0.5.
    """
    loopback = socket.inet_aton("127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.settimeout(timeout)
            probe.bind(("", 0))
            membership = socket.inet_aton(group) + loopback
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
            probe.sendto(b"qemulab", (group, probe.getsockname()[1]))
            return probe.recv(16) == b"qemulab"
        except OSError:
            return False
