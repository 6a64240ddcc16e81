"""
The host's network: interfaces, routes, ports. Part of the seam; it changes nothing.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct
from typing import Any
from typing import NamedTuple

import _qemulab_host_log as log
import _qemulab_host_seam as host

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


def rules() -> list[dict[str, Any]]:
    """Return the host's rules of routing as ``ip -N -j`` has them, the one that counts first."""
    shown = host.run(["ip", "-N", "-j", "rule", "show"], check=False)
    return list(json.loads(shown.stdout)) if shown.status == 0 and shown.stdout.strip() else []


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
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with log.step("wait", lambda: f"for a datagram to {group}"), datagram as probe:
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


RTM_GETROUTE = 26
NLM_F_REQUEST = 1
NLMSG_ERROR = 2
RTM_F_LOOKUP_TABLE = 0x1000
RTA_DST, RTA_SRC, RTA_OIF, RTA_TABLE = 1, 2, 4, 15
"""Source: rtnetlink(7), linux/rtnetlink.h"""


class Way(NamedTuple):
    """
    By which way a packet leaves the host.

    interface
        The interface; empty where the kernel sends it nowhere.

    table
        Number of the routing table that says so, 0 where none does.

    refusal
        Why it is sent nowhere, in the kernel's words.
    """

    interface: str = ""
    table: int = 0
    refusal: str = ""


def way_to(address: str, source: str = "") -> Way:
    """
    Return by which way a packet of the host to an address would leave, as the kernel decides it.

    All that has a say is asked by that: rules, every table, routes that lead nowhere.

    source
        The packet's own address. Default: it has none yet, as where a program connects.
    """
    attributes = struct.pack("HH4s", 8, RTA_DST, socket.inet_aton(address))
    if source:
        attributes += struct.pack("HH4s", 8, RTA_SRC, socket.inet_aton(source))
    lengths = (32, 32 if source else 0)
    message = struct.pack("8BI", socket.AF_INET, *lengths, 0, 0, 0, 0, 0, RTM_F_LOOKUP_TABLE)
    size = 16 + len(message) + len(attributes)
    header = struct.pack("IHHII", size, RTM_GETROUTE, NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(1)
        kernel.sendto(header + message + attributes, (0, 0))
        answer = kernel.recv(4096)
    (kind,) = struct.unpack_from("H", answer, 4)
    if kind == NLMSG_ERROR:
        (number,) = struct.unpack_from("i", answer, 16)
        return Way(refusal=os.strerror(-number))
    found = {}
    place = 16 + len(message)
    while place + 4 <= len(answer):
        length, name = struct.unpack_from("HH", answer, place)
        if name in (RTA_OIF, RTA_TABLE):
            found[name] = struct.unpack_from("I", answer, place + 4)[0]
        place += max(4, (length + 3) & ~3)
    return Way(socket.if_indextoname(found[RTA_OIF]), found.get(RTA_TABLE, 0))
