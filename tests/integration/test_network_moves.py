"""
A network that gets another address while real guests are on it: all waits, or all moves.
"""

from __future__ import annotations

from typing import Any

import harness
import pytest
from labs import Lab

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "dhcp_release", "dig", "ssh"),
]

MACS = {"master": "00:00:00:11:11:11", "worker1": "00:00:00:22:22:22"}
NUMBERS = {"master": 101, "worker1": 102, "mirror": 7}


def pillar(subnet: str, more: bool = True, **network: Any) -> dict[str, Any]:
    """
    Return two guests that boot fast: one by a reservation, one by an address of its own; and behind
    their network another one, that nobody is on.

    more
        Whether a third one has a reservation.
    """
    reserved = {"master": {"mac": MACS["master"], "address": f"{subnet}.101"}}
    if more:
        reserved["gone"] = {"mac": "00:00:00:33:33:33", "address": f"{subnet}.103"}
    keys = {"memory": 192, "cpus": 1, "firmware": "bios", "disks": []}
    nics = {name: {"network": "vmlan", "mac": mac} for name, mac in MACS.items()}
    nics["worker1"]["address"] = f"{subnet}.102"
    return {
        "networks": {
            "vmlan": {
                "address": f"{subnet}.1/24",
                "reservations": reserved,
                "dns": {"names": {"mirror": f"{subnet}.7"}},
                **network,
            },
            "aside": {"address": "10.0.44.1/24"},
        },
        "vms": {name: {**keys, "nics": [nic, {"network": "user"}]} for name, nic in nics.items()},
    }


def resolved(lab: Lab, subnet: str) -> dict[str, str]:
    """Return what the lab's DNS server has for each name, asked at its address."""
    words = ["dig", "+short", "+time=2", "+tries=2", f"@{subnet}.1", "-q"]
    return {name: lab.host.run([*words, name], check=False).stdout.strip() for name in NUMBERS}


def all_at(lab: Lab, subnet: str) -> None:
    """Hold that guests, leases and names are all on one subnet, and nothing is left to do."""
    lab.wait_for_login(*MACS)
    for name in MACS:
        shown = lab.ssh(name, "ip -4 -o address show eth0")
        assert f"{subnet}.{NUMBERS[name]}/24" in shown, shown
    leases = {lease["mac"]: lease["address"] for lease in lab.call("lease_list")}
    assert leases == {mac: f"{subnet}.{NUMBERS[name]}" for name, mac in MACS.items()}
    assert resolved(lab, subnet) == {name: f"{subnet}.{end}" for name, end in NUMBERS.items()}


def agreed(lab: Lab, declared: dict[str, Any]) -> dict[str, Any]:
    """Apply, after a dry run that must have said the same, and return what it said."""
    said = lab.apply(declared=declared, test=True)
    done = lab.apply(declared=declared)
    assert lab.changes(done) == lab.changes(said)
    assert pending(done) == pending(said)
    return done


def pending(states: dict[str, Any]) -> dict[str, Any]:
    """Return what waits, by state."""
    return {name: state["pending"] for name, state in states.items() if "pending" in state}


def test_an_address_changes_with_all_that_belongs_to_it(host: harness.Host) -> None:
    """Not before its machines are off, or may be restarted; no name leads to where nobody is."""
    lab = Lab(host)
    lab.apply(declared=pillar("10.0.3"))
    all_at(lab, "10.0.3")
    waits(lab)
    moves_with_restarts(lab)
    moves_when_machines_are_off(lab)


def waits(lab: Lab) -> None:
    """Hold that nothing moves by itself, and that each state says what of it waits."""
    before = lab.pids()
    moved = pillar("10.0.9")
    done = agreed(lab, moved)
    assert lab.changes(done) == {}
    left = pending(done)
    assert left["network_present vmlan"]["address"]["new"] == "10.0.9.1/24"
    assert left["network_present vmlan"]["dns:names:mirror"]["old"] == "10.0.3.7"
    assert left["reservation_present master"] == {
        "address": {"old": "10.0.3.101", "new": "10.0.9.101", "effect": "live"}
    }
    assert left["vm_running worker1"] == {
        "nics:0:address": {"old": "10.0.3.102", "new": "10.0.9.102", "effect": "live"}
    }
    said = " ".join(done["network_present vmlan"]["warnings"])
    assert "on_change: restart of the network, or stop them" in said
    for state in ("reservation_present master", "vm_running worker1"):
        (said,) = done[state]["warnings"]
        assert said.startswith("these wait for the new address of their network: ")
    all_at(lab, "10.0.3")
    again = lab.apply(declared=moved)
    assert (lab.changes(again), pending(again)) == ({}, left)
    assert lab.pids() == before
    # A restart of the machine is not what it waits for, and does no harm.
    lab.call("vm_restart", "worker1")
    all_at(lab, "10.0.3")
    assert pending(agreed(lab, moved)) == left


def moves_with_restarts(lab: Lab) -> None:
    """Hold that one apply moves all where the network may restart its machines, each once."""
    before = lab.pids()
    moved = pillar("10.0.9", more=False, on_change="restart")
    done = agreed(lab, moved)
    assert pending(done) == {}
    changes = lab.changes(done)
    assert changes["network_present vmlan"]["address"]["effect"] == "restart"
    assert set(changes["reservation_present master"]) == {"address"}
    assert set(changes["reservation_absent gone"]) == {"address", "mac"}
    assert set(changes["vm_running worker1"]) == {"nics:0:address"}
    all_at(lab, "10.0.9")
    after = lab.pids()
    assert all(after[name] != before[name] for name in MACS)
    assert lab.changes(lab.apply(declared=moved)) == {}
    assert lab.pids() == after
    assert not any(route.startswith("10.0.3.0/24") for route in lab.host.routes())


def moves_when_machines_are_off(lab: Lab) -> None:
    """Hold that one apply moves all when nobody runs on the network."""
    back = pillar("10.0.3", more=False)
    done = agreed(lab, back)
    assert set(lab.changes(done)["network_present vmlan"]) == {"on_change"}
    all_at(lab, "10.0.9")
    for name in MACS:
        lab.call("vm_stop", name)
    assert pending(agreed(lab, back)) == {}
    all_at(lab, "10.0.3")
    assert lab.changes(lab.apply(declared=back)) == {}
