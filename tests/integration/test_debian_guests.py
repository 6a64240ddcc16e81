"""
Guests that are not ours: Debian with dhclient, and with systemd-networkd and systemd-resolved.

Both boot in one lab, beside a built-in guest that has no way out of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import debian_guests
import harness
import pytest
from labs import Lab

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "dig", *debian_guests.NEEDS),
    # Where the images are not made yet, the first test makes them.
    pytest.mark.timeout(900),
]

WORLD = "192.0.2.9"
ADDRESSES = {"master": "10.0.3.101", "worker1": "10.0.3.104"}
"""What the machines of Debian reserve; the master's is the router that the recipe hands out."""


def declared() -> dict[str, Any]:
    """Return two machines of Debian, whose MAC addresses nobody types, and a built-in guest."""
    nics = {
        name: [{"network": "vmlan", "address": address}, {"network": "user"}]
        for name, address in ADDRESSES.items()
    }
    inner = {"memory": 192, "cpus": 1, "firmware": "bios", "disks": []}
    return {
        "vms": {
            "master": debian_guests.machine("networkd", nics=nics["master"]),
            "worker1": debian_guests.machine("dhclient", nics=nics["worker1"]),
            "worker2": {**inner, "nics": [{"network": "vmlan"}]},
        }
    }


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give the lab, applied, on a host that has an address for the guests' world."""
    pillar = declared()
    with harness.namespace_host(tmp_path_factory.mktemp("debian")) as host:
        host.run(["ip", "address", "add", f"{WORLD}/32", "dev", "lo"])
        listen = ["socat", f"TCP-LISTEN:80,bind={WORLD},fork,reuseaddr", "SYSTEM:echo the world"]
        host.spawn(listen)
        made = Lab(host)
        said = made.changes(made.apply(declared=pillar, test=True))
        assert made.changes(made.apply(declared=pillar)) == said
        yield made


def resolved(lab: Lab, name: str) -> str:
    """Return the address that the lab's DNS server gives the host; empty for none."""
    words = ["dig", "+short", "+time=2", "+tries=2", "@10.0.3.1", "-q", name]
    return lab.host.run(words, check=False).stdout.strip()


def logged_in(lab: Lab, name: str) -> bool:
    """Return whether a machine lets us in."""
    return lab.ssh(name, "echo in", check=False) == "in"


def test_a_name_with_an_address_resolves_before_its_machine_has_booted(lab: Lab) -> None:
    """By itself and in the lab's domain; it is listed as any other reservation."""
    for name, address in ADDRESSES.items():
        assert resolved(lab, name) == resolved(lab, f"{name}.lab.internal") == address
    listed = lab.call("reservation_list")["vmlan"]
    assert {name: item["address"] for name, item in listed.items()} == ADDRESSES
    assert lab.call("lease_list") == [] or not logged_in(lab, "master")


@pytest.mark.parametrize("name", ADDRESSES)
def test_a_debian_guest_has_one_default_route_that_works(lab: Lab, name: str) -> None:
    """Its own way out; on the router itself as well."""
    ready = functools.partial(logged_in, lab, name)
    harness.wait_for(ready, debian_guests.BOOT_TIMEOUT, f"{name}: {lab.console(name)[-2000:]}")
    routes = lab.ssh(name, "ip -4 route show default").splitlines()
    assert [route.split()[:3] for route in routes] == [["default", "via", "10.0.2.2"]]
    assert f"inet {ADDRESSES[name]}/24" in lab.ssh(name, "ip -4 address show dev eth0")
    assert lab.ssh(name, f"bash -c 'cat < /dev/tcp/{WORLD}/80'") == "the world"


@pytest.mark.parametrize("name", ADDRESSES)
def test_a_debian_guest_resolves_every_machine(lab: Lab, name: str) -> None:
    """By its short name and in the domain; also the machine that has a lease only."""
    lease = next(each for each in lab.call("lease_list") if each["name"] == "worker2")
    for other, address in {**ADDRESSES, "worker2": lease["address"]}.items():
        for asked in (other, f"{other}.lab.internal"):
            assert lab.ssh(name, f"getent ahostsv4 {asked}").split()[0] == address
        assert resolved(lab, other) == address


def test_a_machine_without_a_way_out_is_handed_the_router(lab: Lab) -> None:
    """What the pillar says, here the recipe's default."""
    key = ["-i", "/var/lib/qemulab/lab/ssh/id_ed25519", "-o", "StrictHostKeyChecking=no"]
    route = ["ip", "-4", "route", "show", "default"]
    said = lab.host.run(["ssh", *key, f"root@{resolved(lab, 'worker2')}", *route]).stdout
    assert said.split()[:3] == ["default", "via", "10.0.3.101"]


def test_what_a_guest_calls_itself_leads_nowhere(lab: Lab) -> None:
    """Both call themselves debian; only declared names resolve."""
    assert lab.ssh("worker1", "cat /etc/hostname") == "debian"
    assert resolved(lab, "debian") == resolved(lab, "debian.lab.internal") == ""


def test_a_reservation_goes_with_its_machine(lab: Lab) -> None:
    """Its name and its lease too; the others' processes are the same, and nothing is left to do."""
    pillar = declared()
    del pillar["vms"]["worker1"]
    before = lab.pids()
    lab.call("vm_stop", "worker1", "grace=0")
    lab.call("vm_remove", "worker1")
    harness.wait_for(lambda: resolved(lab, "worker1") == "", 5, "the end of the name")
    assert set(lab.call("reservation_list")["vmlan"]) == {"master"}
    assert "worker1" not in [lease["name"] for lease in lab.call("lease_list")]
    assert lab.changes(lab.apply(declared=pillar)) == {}
    before.pop("worker1")
    assert lab.pids() == before
