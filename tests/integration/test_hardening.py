"""What the processes of a lab may do, and who can reach them."""

from __future__ import annotations

import re

import harness
import pytest
from labs import Lab
from labs import tiny

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter"),
]

DECLARED = {
    "networks": {"vmlan": {}},
    "vms": {
        "a": tiny(
            disks=[{"size": "1M"}],
            nics=[
                {"network": "vmlan"},
                {"network": "user", "forwards": [{"host_port": 10022}]},
            ],
            display="vnc",
        )
    },
}

CAPABILITIES = {
    "a": 0,
    "hub vmlan": 1 << 12,
    "dnsmasq vmlan": 1 << 10 | 1 << 12 | 1 << 13,
}
"""CAP_NET_BIND_SERVICE is bit 10, CAP_NET_ADMIN 12, CAP_NET_RAW 13. Source: capability.h"""

EXPOSURE = {"vm@lab:a": 3.1, "hub@lab:vmlan": 3.4, "dnsmasq@lab:vmlan": 3.7}
"""The worst score of systemd-analyze security that is let through. Source: measured, version 252"""


def test_processes_have_what_they_need_and_no_more(host: harness.Host) -> None:
    """Their own user, few capabilities, none to gain; QEMU in its sandbox; nothing open outside."""
    lab = Lab(host)
    lab.apply(declared=DECLARED)
    uid = int(host.run(["id", "-u", "qemulab"]).stdout)
    for name, pid in lab.pids().items():
        text = host.run(["cat", f"/proc/{pid}/status"]).stdout
        status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        assert set(status["Uid"].split()) == {str(uid)}, name
        for which in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
            assert int(status[which], 16) == CAPABILITIES[name], f"{name}: {which}"
        assert status["NoNewPrivs"] == "1", name
        if name == "a":
            assert status["Seccomp"] == "2"
    listening = {socket for socket in host.sockets() if socket.startswith(("tcp", "udp"))}
    new = listening - host.before["sockets"]
    inside = r"(tcp|udp) (127\.0\.0\.1|10\.0\.3\.1|0\.0\.0\.0%vmlan|\[fe80::[0-9a-f:]+\]%vmlan):\d+"
    # The hub's socket is bound to lo by SO_BINDTODEVICE, the machines' to the group.
    group = r"udp (0\.0\.0\.0%lo|230\.0\.0\.1):1234"
    assert [socket for socket in new if not re.fullmatch(f"{inside}|{group}", socket)] == []


def test_an_address_of_the_network_is_opened_with_a_warning(namespace_host: harness.Host) -> None:
    """Only where the pillar says so, and not without a word."""
    lab = Lab(namespace_host)
    forward = {"host_port": 10022, "host_address": "0.0.0.0"}
    declared = {"vms": {"a": tiny(nics=[{"network": "user", "forwards": [forward]}])}}
    states = lab.apply(declared=declared)
    said = "lab:vms:a:nics:0:forwards:0:host_address: 0.0.0.0 opens the machine to the network"
    assert said in states["declared lab-declared"]["warnings"]
    assert "tcp 0.0.0.0:10022" in namespace_host.sockets()


def test_units_have_a_low_exposure(systemd_host: harness.Host) -> None:
    """By systemd's own measure: 0 is none, 10 is all."""
    Lab(systemd_host).apply(declared=DECLARED)
    found = {}
    for unit in EXPOSURE:
        words = ["systemd-analyze", "security", "--no-pager", f"qemulab-{unit}.service"]
        said = systemd_host.run(words).stdout.splitlines()[-1]
        found[unit] = float(re.findall(r": ([0-9.]+) ", said)[0])
    assert all(found[unit] <= EXPOSURE[unit] for unit in EXPOSURE), found
