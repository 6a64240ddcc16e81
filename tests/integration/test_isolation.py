"""
The LAN needs no other network and leaks nothing into one.
"""

from __future__ import annotations

from pathlib import Path

import harness
import pytest
from figures import Figures
from labs import Lab

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "ssh", "tcpdump", "unshare"),
]

NAMES = ("master", "worker1")


def two_of_the_recipe() -> dict[str, object]:
    """Return a lab of two machines with the recipe's addresses."""
    macs = {"master": "00:00:00:11:11:11", "worker1": "00:00:00:22:22:22"}
    addresses = {"master": "10.0.3.101", "worker1": "10.0.3.102"}
    return {
        "networks": {
            "vmlan": {
                "reservations": {
                    name: {"mac": mac, "address": addresses[name]} for name, mac in macs.items()
                }
            }
        },
        "vms": {
            name: {
                "memory": 256,
                "cpus": 1,
                "nics": [{"network": "vmlan", "mac": mac}, {"network": "user"}],
            }
            for name, mac in macs.items()
        },
    }


@pytest.mark.parametrize("supervisor", harness.HOSTS)
def test_f24_not_one_packet_leaves(tmp_path: Path, figures: Figures, supervisor: str) -> None:
    """Through a whole life: up, names and pings all over, a change of the route, down."""
    with harness.HOSTS[supervisor](tmp_path, uplink=True) as host:
        lab = Lab(host)
        assert host.uplink is not None
        declared = two_of_the_recipe()
        lab.apply(declared=declared)
        lab.wait_for_login(*NAMES)
        for name in NAMES:
            for other in (*NAMES, "10.0.3.1", "10.0.3.101"):
                lab.ssh(name, f"ping -c 2 -W 5 {other}")
        # A laptop moves: the default route goes away, and the lab does not notice.
        host.run(["ip", "route", "delete", "default"])
        lab.ssh("worker1", "ping -c 1 -W 5 master")
        with figures.healing(supervisor):
            assert lab.changes(lab.apply(declared=declared)) == {}
        lab.apply("lab.clean", declared=declared)
        seen = host.uplink.seen()
        figures.count("packets of the lab seen on other interfaces", len(seen), 1, supervisor)
        assert seen == []


def test_other_names_go_to_the_hosts_resolvers(tmp_path: Path) -> None:
    """And with ``upstream: none`` they go nowhere."""
    with harness.namespace_host(tmp_path, uplink=True) as host:
        lab = Lab(host)
        assert host.uplink is not None
        declared = {"networks": {"vmlan": {}}}
        lab.apply(declared=declared)
        ask = ["dig", "+tries=1", "+time=1", "@10.0.3.1", "elsewhere.example"]
        host.run(ask, check=False)
        assert any("elsewhere.example" in frame for frame in host.uplink.seen())
        declared = {"networks": {"vmlan": {"dns": {"upstream": "none"}}}}
        lab.apply(declared=declared)
        before = len(host.uplink.seen())
        host.run([*ask[:-1], "nowhere.example"], check=False)
        host.run([*ask[:-1], "bare"], check=False)
        assert len(host.uplink.seen()) == before


def test_a_route_of_the_host_is_not_shadowed(tmp_path: Path) -> None:
    """A lab's network that overlaps one is refused, by that route's name."""
    with harness.namespace_host(tmp_path, uplink=True) as host:
        lab = Lab(host)
        host.run(["ip", "route", "add", "10.0.0.0/16", "via", harness.GATEWAY])
        states = lab.apply(declared={"networks": {"vmlan": {}}}, check=False)
        comment = states["declared lab-declared"]["comment"]
        assert "lab:networks:vmlan:address: 10.0.3.0/24 overlaps the host's route 10.0.0.0/16" in (
            comment
        )
        assert "vmlan" not in host.interfaces()


def test_a_firewall_in_the_way_is_named(namespace_host: harness.Host) -> None:
    """With the rule that drops, and a command that opens it and works."""
    lab = Lab(namespace_host)
    rules = "add table inet filter; add chain inet filter input "
    rules += "{ type filter hook input priority 0; policy drop; }"
    namespace_host.run(["nft", rules])
    namespace_host.run(["nft", "add rule inet filter input iif lo accept"])
    warnings = lab.apply(declared={"networks": {"vmlan": {}}})["network_present vmlan"]["warnings"]
    dhcp = next(text for text in warnings if "drops DHCP on vmlan" in text)
    assert "chain inet filter input policy drop" in dhcp
    namespace_host.run(["sh", "-c", dhcp.partition("to open it: ")[2]])
    listed = namespace_host.run(["nft", "list", "ruleset"]).stdout
    assert 'iifname "vmlan" udp dport 67' in listed
