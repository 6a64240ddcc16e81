"""
What clients of every kind are handed, by the real dnsmasq with a lab's files, and what resolves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _qemulab_lan_dnsmasq_files as dnsmasq
import _qemulab_lan_hosts as lan_hosts
import _qemulab_pillar_spec as spec
import harness
import pytest
from _qemulab_lan_dnsmasq_files import Files

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("unshare", "nsenter", "ip", "dnsmasq", "dig", "busybox"),
]

TAP = "02:00:00:00:00:01"
HAND = "52:54:00:00:00:09"
STRANGER = "52:54:00:00:00:0a"
WORDS = ("ignore", "infinite", "set", "tag", "net", "id", "123", "12h", "7w", "010")
"""What dnsmasq has words of its own for, or takes for a time; names all the same."""
AWAY = [{"network": "vmlan"}, {"network": "user"}]
PILLAR: dict[str, Any] = {
    "networks": {
        "vmlan": {
            # The router's address and one more: whoever is in the range gets the other one.
            "dhcp": {"range": "10.0.3.101-10.0.3.102", "router": "10.0.3.101"},
            "reservations": {"hand": {"mac": HAND, "address": "10.0.3.9"}},
        }
    },
    "vms": {
        **{
            name: {"nics": [{"network": "vmlan", "address": f"10.0.3.{20 + number}"}]}
            for number, name in enumerate(WORDS)
        },
        "master": {"nics": [{"network": "vmlan", "address": "10.0.3.101"}]},
        "away": {"nics": [{**AWAY[0], "address": "10.0.3.7"}, AWAY[1]]},
        "inner": {"nics": [{"network": "vmlan", "address": "10.0.3.8"}]},
        "leased": {"nics": AWAY},
        "off": {"nics": AWAY},
    },
}


class Segment:
    """A network's server at one end of a cable, in a namespace, and at the other end a client."""

    def __init__(self, folder: Path, server: int, client: int) -> None:
        self.folder = folder
        self.server = server
        self.client = client
        self.files = Files(folder)
        self.declared = spec.from_pillar(PILLAR).lab
        self.files.leases.parent.mkdir()
        self.script = folder / "script"
        self.script.write_text(
            '#!/bin/sh\n[ "$1" != bound ] || echo "$ip|$router|$domain|$hostname"\n'
        )
        self.script.chmod(0o755)

    def run(self, pid: int, *words: str) -> str:
        """Run a command in a namespace and return what it printed."""
        command = ["nsenter", "--target", str(pid), "--net", "--", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout.strip()

    def write(self, pillar: dict[str, Any]) -> None:
        """Write what the server reads of a pillar."""
        lab = spec.from_pillar(pillar).lab
        network = lab.networks["vmlan"]
        known = lan_hosts.known("vmlan", network, lab.vms)
        names = lan_hosts.names("vmlan", network, lab.vms)
        text = dnsmasq.configuration(network, self.files, TAP, known)
        self.files.configuration.write_text(text, encoding="utf-8")
        self.files.reservations.write_text(dnsmasq.reservations_text(known), encoding="utf-8")
        self.files.hosts.write_text(dnsmasq.hosts_text(names), encoding="utf-8")

    def handed(self, mac: str, called: str = "") -> list[str]:
        """Ask for a lease; return address, router, domain and name that come with it."""
        self.run(self.client, "ip", "link", "set", "eth0", "down")
        self.run(self.client, "ip", "link", "set", "eth0", "address", mac, "up")
        words = ["busybox", "udhcpc", "-q", "-n", "-f", "-i", "eth0", "-t", "10", "-T", "1"]
        words += ["-s", str(self.script), *(["-x", f"hostname:{called}"] if called else [])]
        return self.run(self.client, *words).split("|")

    def of(self, name: str, called: str = "") -> list[str]:
        """Return what a machine is handed."""
        return self.handed(self.declared.vms[name].nics[0].mac, called)

    def resolved(self, name: str) -> str:
        """Return the address that a name leads to; empty for none."""
        return self.run(self.server, "dig", "+short", "+time=2", "@10.0.3.1", "-q", name)


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Segment, int]]:
    """Give the segment with its server at work, and the server's PID."""
    spaces = [
        subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    server = None
    try:
        ours = os.readlink("/proc/self/ns/net")
        for each in spaces:
            path = f"/proc/{each.pid}/ns/net"
            harness.wait_for(lambda path=path: os.readlink(path) != ours, 10, "unshare")
        made = Segment(tmp_path_factory.mktemp("dhcp"), spaces[0].pid, spaces[1].pid)
        made.write(PILLAR)
        far = str(made.client)
        veth = ["ip", "link", "add", "vmlan", "type", "veth"]
        made.run(made.server, *veth, "peer", "name", "eth0", "netns", far)
        made.run(made.server, "ip", "address", "add", "10.0.3.1/24", "dev", "vmlan")
        for device in ("lo", "vmlan"):
            made.run(made.server, "ip", "link", "set", device, "up")
        enter = ["nsenter", "--target", str(made.server), "--net", "--"]
        option = f"--conf-file={made.files.configuration}"
        server = subprocess.Popen(
            [*enter, "dnsmasq", option, "--user=root"], stderr=subprocess.DEVNULL
        )
        harness.wait_for(lambda: made.resolved("away") == "10.0.3.7", 10, "dnsmasq")
        yield made, server.pid
    finally:
        for process in [*spaces, *([server] if server else [])]:
            process.kill()
            process.communicate()


def test_each_is_handed_the_router_that_is_right_for_it(segment: tuple[Segment, int]) -> None:
    """None where there is a way out, and none to the router; what is declared to all others."""
    lan, _ = segment
    router = "10.0.3.101"
    assert lan.of("away") == ["10.0.3.7", "", "lab.internal", "away"]
    assert lan.of("master") == [router, "", "lab.internal", "master"]
    assert lan.of("inner") == ["10.0.3.8", router, "lab.internal", "inner"]
    assert lan.handed(HAND) == ["10.0.3.9", router, "lab.internal", "hand"]
    # Nobody has reserved for it, and it is in the recipe's range.
    assert lan.handed(STRANGER) == ["10.0.3.102", router, "lab.internal", ""]


@pytest.mark.parametrize("name", WORDS)
def test_a_name_that_dnsmasq_has_a_word_for_is_a_name(
    segment: tuple[Segment, int], name: str
) -> None:
    """It gets its address under it, and both its names resolve."""
    lan, _ = segment
    address = lan.declared.vms[name].nics[0].address
    assert lan.of(name) == [address, "10.0.3.101", "lab.internal", name]
    assert lan.resolved(name) == lan.resolved(f"{name}.lab.internal") == address


def test_nobody_takes_a_name_that_is_declared(segment: tuple[Segment, int]) -> None:
    """Neither that of a machine that is off, nor one with an address; nor any other name."""
    lan, _ = segment
    for called in ("off", "away", "somebody"):
        assert lan.handed(STRANGER, called)[0] == "10.0.3.102"
    assert lan.of("inner", "off")[3] == "inner"
    for name in ("off", "somebody", "off.lab.internal"):
        assert lan.resolved(name) == ""
    assert lan.resolved("away") == "10.0.3.7"


def test_what_changes_is_taken_up_by_a_server_that_goes_on(segment: tuple[Segment, int]) -> None:
    """After all of them have asked: a machine that has come, and one that has its name by lease."""
    lan, pid = segment
    lease = lan.handed(STRANGER)[0]
    new = {"nics": [{"network": "vmlan", "mac": STRANGER}]}  # and dnsmasq has a word for its name
    late = {"nics": [{"network": "vmlan", "address": "10.0.3.77"}]}
    lan.write({**PILLAR, "vms": {**PILLAR["vms"], "90s": new, "late": late}})
    for _ in range(3):
        os.kill(pid, signal.SIGHUP)
        harness.wait_for(lambda: lan.resolved("late") == "10.0.3.77", 5, "the new name")
        time.sleep(0.05)
    assert lan.resolved("90s") == lan.resolved("90s.lab.internal") == lease
    assert Path(f"/proc/{pid}/comm").read_text() == "dnsmasq\n"
