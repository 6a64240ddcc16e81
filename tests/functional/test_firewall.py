"""
The firewall check against the kernel: what it says is blocked is, and its command opens it.

Every test has a host and a guest in network namespaces of its own, joined by a veth pair.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import _qemulab_host_firewall as firewall
import pytest

pytestmark = [pytest.mark.needs_root, pytest.mark.needs("nft", "ip", "unshare", "nsenter")]

INTERFACE = "vmlan"
ADDRESS = ipaddress.IPv4Interface("192.168.76.1/24")
GUEST = "192.168.76.7/24"

CLONE_NEWNET = 0x40000000

#: Seconds after which a packet that has not come was dropped; it takes well under a millisecond
#: where the host has a core for it.
PATIENCE = 1.0


@contextlib.contextmanager
def namespace() -> Iterator[int]:
    """Make a network namespace for the length of a ``with`` block, and give its process' PID."""
    process = subprocess.Popen(["unshare", "--net", "sleep", "600"])
    own = os.readlink("/proc/self/ns/net")
    try:
        deadline = time.monotonic() + 5
        while os.readlink(f"/proc/{process.pid}/ns/net") == own:
            assert time.monotonic() < deadline, "unshare made no namespace"
            time.sleep(0.002)
        yield process.pid
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Lab:
    """A host with the lab's interface and a guest, each by the PID that holds its namespace."""

    host: int
    guest: int

    def run(self, pid: int, *argv: str, stdin: str = "") -> str:
        """Run a command in one of the two and return what it printed."""
        command = ["nsenter", "--target", str(pid), "--net", *argv]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def socket(self, pid: int, kind: socket.SocketKind) -> socket.socket:
        """Return a socket of one of the two: a socket stays in the namespace that it is born in."""
        made: list[socket.socket] = []

        def make() -> None:
            with open(f"/proc/{pid}/ns/net", "rb") as handle:
                libc = ctypes.CDLL(None, use_errno=True)
                assert libc.setns(handle.fileno(), CLONE_NEWNET) == 0
            made.append(socket.socket(socket.AF_INET, kind))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        made[0].settimeout(PATIENCE)
        return made[0]

    def load(self, rules: str) -> None:
        """Load rules of nft, or of iptables-restore where they begin with its ``*``."""
        if rules.startswith("*"):
            self.run(self.host, "iptables-restore", stdin=rules)
        else:
            self.run(self.host, "nft", "-f", "-", stdin=rules)

    def blocked(self) -> list[firewall.Blocked]:
        """Return what the check says of the rules that the host has."""
        ruleset = json.loads(self.run(self.host, "nft", "-j", "list", "ruleset"))
        return firewall.blocks(ruleset, INTERFACE, ADDRESS)

    def arrives_dhcp(self) -> bool:
        """Send a request for a lease from 0.0.0.0 to everybody; return whether it arrives."""
        self.run(self.guest, "ip", "address", "flush", "dev", "eth0")
        udp = socket.SOCK_DGRAM
        with self.socket(self.host, udp) as server, self.socket(self.guest, udp) as client:
            server.bind(("", 67))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
            client.bind(("", 68))
            client.sendto(b"x", ("255.255.255.255", 67))
            try:
                return server.recvfrom(9) == (b"x", ("0.0.0.0", 68))
            except TimeoutError:
                return False

    def arrives_dns(self) -> bool:
        """Ask the host's port 53 by UDP and by TCP; return whether both arrive."""
        self.run(self.guest, "ip", "address", "replace", GUEST, "dev", "eth0")
        udp, tcp, server = socket.SOCK_DGRAM, socket.SOCK_STREAM, (str(ADDRESS.ip), 53)
        with self.socket(self.host, udp) as receiver, self.socket(self.guest, udp) as sender:
            receiver.bind(server)
            sender.sendto(b"x", server)
            try:
                receiver.recvfrom(9)
            except TimeoutError:
                return False
        with self.socket(self.host, tcp) as listener, self.socket(self.guest, tcp) as client:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(server)
            listener.listen()
            try:
                client.connect(server)
            except OSError:
                return False
        return True

    def arrives(self) -> set[str]:
        """Return which of a guest's packets reach a server on the host."""
        found = {"DHCP"} if self.arrives_dhcp() else set()
        return found | ({"DNS"} if self.arrives_dns() else set())


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Give a host and a guest, without rules."""
    with namespace() as host, namespace() as guest:
        made = Lab(host, guest)
        made.run(host, "ip", "link", "add", INTERFACE, "type", "veth", "peer", "name", "eth0")
        made.run(host, "ip", "link", "set", "eth0", "netns", str(guest))
        made.run(host, "ip", "address", "add", str(ADDRESS), "dev", INTERFACE)
        for pid, link in ((host, "lo"), (host, INTERFACE), (guest, "eth0")):
            made.run(pid, "ip", "link", "set", link, "up")
        yield made


def summary(found: list[firewall.Blocked]) -> list[tuple[str, str]]:
    """Return what is blocked by which rule, without the numbers that the kernel gave out."""
    return [(each.what, re.sub(r"handle \d+", "handle N", each.rule)) for each in found]


POLICY_DROP = """
table inet filter {
  chain input {
    type filter hook input priority 0; policy drop;
    iif lo accept
    ct state established,related accept
    ct state vmap { invalid : drop, established : accept }
    tcp dport { 22, 80 } accept
    %s
  }
}
"""

# What firewalld loads for the zone public, with an interface of its own for the zone trusted.
FIREWALLD = """
table inet firewalld {
  chain filter_PREROUTING {
    type filter hook prerouting priority filter + 10; policy accept;
    icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
    meta nfproto ipv6 fib saddr . mark . iif oif missing drop
  }
  chain filter_INPUT {
    type filter hook input priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    jump filter_INPUT_ZONES
    reject with icmpx admin-prohibited
  }
  chain filter_INPUT_ZONES {
    iifname "eth9" goto filter_IN_public
    %s
    goto filter_IN_public
  }
  chain filter_IN_public {
    jump filter_IN_public_pre
    jump filter_IN_public_allow
    meta l4proto { icmp, ipv6-icmp } accept
    reject with icmpx admin-prohibited
  }
  chain filter_IN_public_pre { }
  chain filter_IN_public_allow {
    tcp dport 22 accept
    ip6 daddr fe80::/64 udp dport 546 accept
  }
  chain filter_IN_trusted { accept; }
}
"""

# The chains that ufw loads with iptables-restore, in its order; nft prints conditions such as
# addrtype by their name alone.
UFW = """*filter
:INPUT DROP [0:0]
:ufw-before-input - [0:0]
:ufw-not-local - [0:0]
:ufw-user-input - [0:0]
:ufw-after-input - [0:0]
:ufw-skip-to-policy-input - [0:0]
-A INPUT -j ufw-before-input
-A INPUT -j ufw-after-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp --icmp-type echo-request -j ACCEPT
-A ufw-before-input -p udp --sport 67 --dport 68 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -p udp -d 224.0.0.251 --dport 5353 -j ACCEPT
-A ufw-before-input -j ufw-user-input
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m addrtype --dst-type BROADCAST -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j LOG
-A ufw-not-local -j DROP
-A ufw-user-input -p tcp --dport 22 -j ACCEPT
%s
-A ufw-after-input -p udp --dport 67 -j ufw-skip-to-policy-input
-A ufw-after-input -m addrtype --dst-type BROADCAST -j ufw-skip-to-policy-input
-A ufw-skip-to-policy-input -j DROP
COMMIT
"""

# Docker's rules: they concern what is forwarded, not what arrives.
DOCKER = """
table ip filter {
  chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER; }
  chain DOCKER { drop; }
}
table ip nat {
  chain PREROUTING { type nat hook prerouting priority dstnat; fib daddr type local jump DOCKER; }
  chain DOCKER { iifname "docker0" return; }
}
"""

INPUT = """
table inet filter {
  chain input { type filter hook input priority 0; %s; }
}
"""

# Each base chain has its say, in the order of their hooks and priorities.
THREE_TABLES = """
table ip late {
  chain in { type filter hook input priority 9; policy drop; }
}
table inet raw {
  chain pre { type filter hook prerouting priority -300; udp dport 67 drop; }
}
table inet filter {
  chain input { type filter hook input priority 0; accept; }
}
"""

SETS = """
table inet filter {
  set ports { type inet_service; flags interval; elements = { 53, 60-70 } }
  set lan { type ipv4_addr; flags interval; elements = { 192.168.0.0/16, 0.0.0.0 } }
  set pairs { type inet_proto . inet_service; elements = { udp . 67, udp . 53, tcp . 53 } }
  map zones { type ifname : verdict; elements = { "vmlan" : jump lab, "eth0" : drop } }
  chain lab { udp dport != @ports return; ip saddr @lan meta l4proto . th dport @pairs accept; }
  chain input {
    type filter hook input priority 0; policy drop;
    iifname vmap @zones
    tcp dport vmap { 22 : accept, 50-60 : goto last }
  }
  chain last { ip saddr 192.168.76.0/24 ip daddr 192.168.76.1 accept; }
}
"""


@pytest.mark.parametrize(
    "rules",
    [
        "",
        DOCKER,
        POLICY_DROP % 'iifname "vmlan" accept',
        POLICY_DROP % 'iifname "vm*" meta l4proto { tcp, udp } th dport { 53, 67 } accept',
        POLICY_DROP % "ct state new udp dport { 53, 67-68 } accept; tcp dport 53 accept",
        POLICY_DROP % "ip saddr { 192.168.76.0/24, 0.0.0.0 } accept",
        POLICY_DROP % "fib daddr type { local, broadcast } accept",
        POLICY_DROP % "meta pkttype { broadcast, host } accept",
        POLICY_DROP % "ct state new limit rate 9/second accept",
        FIREWALLD % 'iifname "vmlan" goto filter_IN_trusted',
        INPUT % "udp dport 67 accept; udp dport 67 drop",
        INPUT % 'udp dport 67 iifname "eth0" drop; meta mark 5 drop; udp sport 67 drop',
        INPUT % "tcp flags & (fin|syn|rst|ack) != syn tcp dport 53 drop",
        INPUT % "fib saddr . iif oif missing drop; ip6 saddr ::/0 drop",
        INPUT % "limit rate over 90/second drop",
        SETS,
    ],
)
def test_what_lets_guests_in_is_not_reported(lab: Lab, rules: str) -> None:
    lab.load(rules)
    assert lab.blocked() == []
    assert lab.arrives() == {"DHCP", "DNS"}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (
            POLICY_DROP % "",
            [
                ("DHCP", "chain inet filter input policy drop"),
                ("DNS", "chain inet filter input policy drop"),
            ],
        ),
        # UDP alone is open: long answers come by TCP.
        (
            POLICY_DROP % "udp dport { 53, 67 } accept",
            [("DNS", "chain inet filter input policy drop")],
        ),
        (
            POLICY_DROP % "ip saddr 192.168.76.0/24 accept",
            [("DHCP", "chain inet filter input policy drop")],
        ),
        (
            POLICY_DROP % "meta mark 5 accept; ct mark 5 jump other; }; chain other { accept; ",
            [
                ("DHCP", "chain inet filter input policy drop"),
                ("DNS", "chain inet filter input policy drop"),
            ],
        ),
        (INPUT % "udp dport 67 drop", [("DHCP", "chain inet filter input rule handle N drop")]),
        (
            INPUT % "meta l4proto { tcp, udp } th dport 53 reject",
            [("DNS", "chain inet filter input rule handle N reject")],
        ),
        (
            INPUT % 'iifname != { "eth0", "eth1" } drop',
            [
                ("DHCP", "chain inet filter input rule handle N drop"),
                ("DNS", "chain inet filter input rule handle N drop"),
            ],
        ),
        (
            FIREWALLD % "",
            [
                ("DHCP", "chain inet firewalld filter_IN_public rule handle N reject"),
                ("DNS", "chain inet firewalld filter_IN_public rule handle N reject"),
            ],
        ),
        (
            THREE_TABLES,
            [
                ("DHCP", "chain inet raw pre rule handle N drop"),
                ("DHCP", "chain ip late in policy drop"),
                ("DNS", "chain ip late in policy drop"),
            ],
        ),
    ],
)
def test_what_keeps_guests_out_is_reported_and_opened(
    lab: Lab,
    rules: str,
    expected: list[tuple[str, str]],
) -> None:
    lab.load(rules)
    found = lab.blocked()
    assert summary(found) == expected
    assert lab.arrives() == {"DHCP", "DNS"} - {each.what for each in found}
    for each in found:
        lab.run(lab.host, "sh", "-c", each.command)
    assert lab.blocked() == []
    assert lab.arrives() == {"DHCP", "DNS"}


def test_the_rule_is_found_by_its_handle(lab: Lab) -> None:
    lab.load(INPUT % "ct state established accept; udp dport 67 reject")
    (found,) = lab.blocked()
    words = re.fullmatch(r"chain (\S+) (\S+) (\S+) rule (handle \d+) reject", found.rule)
    assert words is not None
    listed = lab.run(lab.host, "nft", "-a", "list", "chain", *words.groups()[:3])
    (line,) = [line for line in listed.splitlines() if line.endswith(f"# {words[4]}")]
    assert line.split("#")[0].strip().startswith("udp dport 67 reject")


@pytest.mark.needs("iptables-restore")
def test_ufws_rules(lab: Lab) -> None:
    lab.load(UFW % "")
    found = lab.blocked()
    assert summary(found) == [
        ("DHCP", "chain ip filter ufw-skip-to-policy-input rule handle N drop"),
        ("DNS", "chain ip filter INPUT policy drop"),
    ]
    assert [each.lasting for each in found] == [
        "ufw allow in on vmlan to any port 67 proto udp",
        "ufw allow in on vmlan to any port 53",
    ]
    assert lab.arrives() == set()
    for each in found:
        lab.run(lab.host, "sh", "-c", each.command)
    assert lab.blocked() == []
    assert lab.arrives() == {"DHCP", "DNS"}


@pytest.mark.needs("iptables-restore")
@pytest.mark.parametrize(
    "allowed",
    [
        # What `ufw allow in on vmlan to any port …` adds, with and without a comment.
        "-A ufw-user-input -i vmlan -p udp --dport 67 -j ACCEPT\n"
        "-A ufw-user-input -i vmlan -p tcp --dport 53 -j ACCEPT\n"
        "-A ufw-user-input -i vmlan -p udp --dport 53 -m comment --comment lab -j ACCEPT",
        "-A ufw-user-input -i vmlan -j ACCEPT",
        # What a person writes by hand.
        "-A ufw-user-input -p udp -m conntrack --ctstate NEW --dport 67 -j ACCEPT\n"
        "-A ufw-user-input -p udp --dport 53 -m state --state NEW -j ACCEPT\n"
        "-A ufw-user-input -p tcp --dport 53 -m state --state NEW -j ACCEPT",
    ],
)
def test_ufws_rules_with_the_lab_allowed(lab: Lab, allowed: str) -> None:
    lab.load(UFW % allowed)
    assert lab.blocked() == []
    assert lab.arrives() == {"DHCP", "DNS"}
