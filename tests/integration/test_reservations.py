"""
Reservations that change while real guests hold leases: no restart, no lease lost, nothing stale.
"""

from __future__ import annotations

import json
from typing import Any

import harness
import pytest
from labs import Lab

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "dhcp_release", "dig", "ssh"),
]

MACS = {"master": "00:00:00:11:11:11", "worker1": "00:00:00:22:22:22"}


def pillar(**reservations: str) -> dict[str, Any]:
    """Return two guests that boot fast, and reservations by name: address, for the guests' MACs."""
    macs = {**MACS, "spare": "00:00:00:44:44:44"}
    return {
        "networks": {
            "vmlan": {
                "reservations": {
                    name: {"mac": macs[name], "address": address}
                    for name, address in reservations.items()
                }
            }
        },
        "vms": {
            name: {
                "memory": 192,
                "cpus": 1,
                "firmware": "bios",
                "disks": [],
                "nics": [{"network": "vmlan", "mac": mac}, {"network": "user"}],
            }
            for name, mac in MACS.items()
        },
    }


def leased(lab: Lab) -> dict[str, str]:
    """Return what is leased, by MAC address."""
    return {lease["mac"]: lease["address"] for lease in lab.call("lease_list")}


def resolved(lab: Lab, name: str) -> str:
    """Return the address that the lab's DNS server has for a name; empty for none."""
    words = ["dig", "+short", "+time=2", "+tries=2", "@10.0.3.1", "-q", name]
    return lab.host.run(words, check=False).stdout.strip()


def agreed(lab: Lab, declared: dict[str, Any]) -> dict[str, Any]:
    """Apply, after a dry run that must have said the same, and return the changes."""
    said = lab.changes(lab.apply(declared=declared, test=True))
    done = lab.changes(lab.apply(declared=declared))
    assert said == done
    return done


def test_reservations_change_under_running_guests(host: harness.Host) -> None:
    """
    Added, moved, removed and of a machine's own; the DHCP server is the same process all along.

    At last the lab of an older version is taken over: its machines run on.
    """
    lab = Lab(host)
    lab.apply(declared=pillar(master="10.0.3.101", worker1="10.0.3.102"))
    lab.wait_for_login("master", "worker1")
    assert leased(lab) == {MACS["master"]: "10.0.3.101", MACS["worker1"]: "10.0.3.102"}
    before = lab.pids()

    # Added: its name resolves at once, nobody else notices.
    done = agreed(lab, pillar(master="10.0.3.101", worker1="10.0.3.102", spare="10.0.3.104"))
    assert list(done) == ["reservation_present spare"]
    harness.wait_for(lambda: resolved(lab, "spare") == "10.0.3.104", 5, "the new name")
    assert leased(lab) == {MACS["master"]: "10.0.3.101", MACS["worker1"]: "10.0.3.102"}

    # Moved: the lease that contradicts it goes; the guest moves when it next renews.
    moved = pillar(master="10.0.3.101", worker1="10.0.3.112", spare="10.0.3.104")
    state = lab.apply(declared=moved, test=True)["reservation_present worker1"]
    assert state["changes"] == {
        "address": {"old": "10.0.3.102", "new": "10.0.3.112", "effect": "live"},
        "lease": {"old": "contradicts", "new": "released", "effect": "live"},
    }
    assert "a running guest moves when it next renews its lease" in state["warnings"]
    assert list(agreed(lab, moved)) == ["reservation_present worker1"]
    assert leased(lab) == {MACS["master"]: "10.0.3.101"}
    harness.wait_for(lambda: resolved(lab, "worker1") == "10.0.3.112", 5, "the moved name")
    lab.ssh("worker1", "killall -USR1 udhcpc")
    harness.wait_for(
        lambda: leased(lab).get(MACS["worker1"]) == "10.0.3.112", 30, "the guest's new lease"
    )
    harness.wait_for(
        lambda: "10.0.3.112/24" in lab.ssh("worker1", "ip address show eth0", check=False),
        10,
        "the guest's new address",
    )

    # Removed: neither its lease nor its name stays behind.
    removed = pillar(master="10.0.3.101", spare="10.0.3.104")
    done = agreed(lab, removed)
    assert done["reservation_absent worker1"]["address"]["new"] is None
    assert leased(lab) == {MACS["master"]: "10.0.3.101"}
    harness.wait_for(lambda: resolved(lab, "worker1") == "", 5, "the name's end")

    assert lab.changes(lab.apply(declared=removed)) == {}

    addressed(lab)
    assert lab.pids() == before
    assert resolved(lab, "master") == "10.0.3.101"
    taken_over(lab, removed, before)


def addressed(lab: Lab) -> None:
    """Hold that a machine's own address is reserved as by a reservation, while its guest runs."""
    lab.ssh("worker1", "killall -USR1 udhcpc")
    harness.wait_for(lambda: MACS["worker1"] in leased(lab), 30, "the guest's own lease")
    assert resolved(lab, "worker1") == leased(lab)[MACS["worker1"]]
    own = pillar(master="10.0.3.101", spare="10.0.3.104")
    own["vms"]["worker1"]["nics"][0]["address"] = "10.0.3.122"
    done = agreed(lab, own)
    assert done == {
        "vm_running worker1": {
            "nics:0:address": {"old": None, "new": "10.0.3.122", "effect": "live"},
            "nics:0:lease": {"old": "contradicts", "new": "released", "effect": "live"},
        }
    }
    harness.wait_for(lambda: resolved(lab, "worker1") == "10.0.3.122", 5, "the reserved name")
    lab.ssh("worker1", "killall -USR1 udhcpc")
    harness.wait_for(
        lambda: leased(lab).get(MACS["worker1"]) == "10.0.3.122", 30, "the guest's new lease"
    )
    assert lab.changes(lab.apply(declared=own)) == {}


def taken_over(lab: Lab, declared: dict[str, Any], before: dict[str, int]) -> None:
    """Hold that the lab of an older version is taken over, and that its machines run on."""
    older(lab)
    done = agreed(lab, declared)
    domain = {"old": None, "new": "lab.internal", "effect": "live"}
    assert done == {"network_present vmlan": {"dns:domain": domain}}
    assert {name: lab.pids()[name] for name in MACS} == {name: before[name] for name in MACS}
    assert resolved(lab, "master.lab.internal") == "10.0.3.101"


def older(lab: Lab) -> None:
    """Have what is stored be as a version left it that knew no domain and no address of a NIC."""
    files = ["/var/lib/qemulab/lab/networks/vmlan/network.json"]
    files += [f"/var/lib/qemulab/lab/vms/{name}/vm.json" for name in MACS]
    for file in files:
        stored = json.loads(lab.host.run(["cat", file]).stdout)
        for vm in (stored.get("defined"), stored.get("started")):
            for nic in (vm or {}).get("nics", ()):
                del nic["address"]
        stored.get("dns", {}).pop("domain", None)
        lab.host.run(["tee", file], stdin=json.dumps(stored))
