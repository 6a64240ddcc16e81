"""What of the host stands in a lab's way, from what ip and ss printed."""

from __future__ import annotations

import ipaddress
import json
import sys
from typing import Any

import _qemulab_host_conflicts as routes
import pytest

# `ip -j -4 route show` of iproute2 6.1, in a namespace with two veth interfaces.
PRINTED = (
    '[{"dst":"0.0.0.0/1","gateway":"192.168.1.2","dev":"d0","flags":[]},'
    '{"dst":"default","gateway":"192.168.1.2","dev":"d0","flags":[]},'
    '{"dst":"10.0.0.0/8","gateway":"192.168.1.2","dev":"d0","flags":[]},'
    '{"type":"blackhole","dst":"10.9.0.0/16","flags":[]},'
    '{"dst":"10.9.8.0/24","dev":"d1","protocol":"kernel","scope":"link","prefsrc":"10.9.8.1",'
    '"flags":[]},'
    '{"dst":"10.20.0.0/16","flags":[],"nexthops":['
    '{"gateway":"192.168.1.2","dev":"d0","weight":1,"flags":[]},'
    '{"gateway":"10.9.8.2","dev":"d1","weight":1,"flags":[]}]},'
    '{"dst":"10.77.0.5","dev":"d1","scope":"link","flags":[]},'
    '{"type":"unreachable","dst":"172.16.0.0/12","flags":[]},'
    '{"dst":"192.168.0.0/16","dev":"d0","protocol":"kernel","scope":"link",'
    '"prefsrc":"192.168.1.1","flags":["linkdown"]}]'
)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("192.168.76.0/24", "192.168.0.0/16 dev d0"),
        ("192.0.0.0/8", "192.168.0.0/16 dev d0"),
        ("10.55.0.0/24", "10.0.0.0/8 via 192.168.1.2 dev d0"),
        ("10.9.7.0/24", "blackhole 10.9.0.0/16"),
        ("10.9.8.128/25", "10.9.8.0/24 dev d1"),
        ("10.20.30.0/24", "10.20.0.0/16 dev d0 dev d1"),
        ("10.77.0.0/24", "10.77.0.5/32 dev d1"),
        ("172.20.0.0/24", "unreachable 172.16.0.0/12"),
        ("100.64.0.0/24", None),
        ("193.0.0.0/24", None),
    ],
)
def test_the_most_specific_route_is_named(network: str, expected: str | None) -> None:
    found = json.loads(PRINTED)
    assert routes.overlap(ipaddress.IPv4Network(network), found, "vmlan") == expected


def test_the_labs_own_route_does_not_count() -> None:
    found: list[dict[str, Any]] = [{"dst": "192.168.76.0/24", "dev": "vmlan", "flags": []}]
    network = ipaddress.IPv4Network("192.168.76.0/24")
    assert routes.overlap(network, found, "vmlan") is None
    assert routes.overlap(network, found, "other") == "192.168.76.0/24 dev vmlan"


def test_a_host_without_routes() -> None:
    assert routes.overlap(ipaddress.IPv4Network("10.0.0.0/8"), [], "vmlan") is None


LISTENERS = """\
udp UNCONN 0      0      127.0.0.53%lo:53   0.0.0.0:* users:(("systemd-resolve",pid=600,fd=13))
udp UNCONN 0      0      0.0.0.0:67   0.0.0.0:*
tcp LISTEN 0      128    0.0.0.0:22   0.0.0.0:* users:(("sshd",pid=812,fd=3),("x",pid=9,fd=3))
tcp LISTEN 0      5      [::1]:10022  [::]:*    users:(("socat",pid=9460,fd=5))
tcp LISTEN 0      5      *:8080       *:*       users:(("web server",pid=77,fd=5))
"""


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (22, "sshd (pid 812)"),
        (53, "systemd-resolve (pid 600)"),
        (67, "another process"),
        (10022, "socat (pid 9460)"),
        (8080, "web server (pid 77)"),
        (2, None),
        (1002, None),
    ],
)
def test_who_listens_on_a_port(port: int, expected: str | None) -> None:
    assert routes.port_owner(LISTENERS, port) == expected


def test_one_protocol_alone_prints_no_netid() -> None:
    line = 'LISTEN 0 5 0.0.0.0:10022 0.0.0.0:* users:(("socat",pid=9460,fd=5))\n'
    assert routes.port_owner(line, 10022) == "socat (pid 9460)"
    assert routes.port_owner("", 10022) is None


IGMP = """\
Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter
1\tlo        :     2      V3
\t\t\t\t{group}     2 0:00000000\t\t0
\t\t\t\t010000E0     1 0:00000000\t\t0
2\tuplink    :     1      V3
\t\t\t\t{group}     1 0:00000000\t\t0
3\tother     :     1      V3
\t\t\t\t010000E0     1 0:00000000\t\t0
"""


def test_the_members_of_a_group_are_found_by_interface() -> None:
    """The kernel writes the address as the number that it is in memory."""
    number = int.from_bytes(bytes([230, 0, 0, 1]), sys.byteorder)
    text = IGMP.format(group=f"{number:08X}")
    assert routes.members(text, "230.0.0.1") == ["lo", "uplink"]
    assert routes.members(text, "230.0.0.2") == []
