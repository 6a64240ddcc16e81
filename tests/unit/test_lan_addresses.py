"""Addresses that are declared on a network which has not got its own new one: told, not done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import _qemulab_host_seam as host
import _qemulab_lan_hosts as lan_hosts
import _qemulab_lan_waiting as addresses
import _qemulab_pillar_spec as spec
import pytest
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Reservation
from _qemulab_pillar_keys import Vm
from _qemulab_plan_changes import CREATE
from _qemulab_plan_changes import LIVE
from _qemulab_plan_changes import RESTART
from _qemulab_plan_network import NetworkFacts
from _qemulab_plan_network import plan_network
from _qemulab_plan_network import plan_reservation
from _qemulab_run_site import Site
from _qemulab_run_underway import Move

MAC = "52:54:00:00:00:01"
OLD, NEW = "10.0.3.1/24", "10.0.9.1/24"


def network(subnet: str, **names: str) -> Network:
    """Return a network on a subnet, with further names."""
    keys = {"address": f"{subnet}.1/24", "dns": {"names": names}}
    return spec.network_from("vmlan", keys, "lab")


def machine(address: str) -> Vm:
    """Return a machine with an address of its own on the network."""
    nic = {"network": "vmlan", "mac": MAC, **({"address": address} if address else {})}
    return spec.vm_from("a", {"nics": [nic], "disks": []}, "lab", {})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a lab with one network on the old subnet and one machine on that."""
    site = Site("lab", str(tmp_path))
    host.write_all([site.store.network_as_file("vmlan", network("10.0.3"))])
    site.store.keep_vm("a", machine("10.0.3.7"), machine("10.0.3.7"))
    return site


def test_addresses_wait_with_their_network(site: Site) -> None:
    """A machine keeps the one that it has, a new one has none; what fits is as declared."""
    site.run.moves["vmlan"] = Move(OLD, NEW)
    wanted = machine("10.0.9.7")
    assert addresses.as_far_as_possible(site, "a", wanted) == machine("10.0.3.7")
    assert addresses.as_far_as_possible(site, "b", wanted) == machine("")
    assert addresses.as_far_as_possible(site, "a", machine("10.0.3.8")) == machine("10.0.3.8")
    assert addresses.has_to_wait(site, "vmlan", "x", "10.0.9.7")
    site.run.moves["vmlan"] = Move(NEW, NEW)
    assert addresses.as_far_as_possible(site, "a", wanted) == wanted
    assert not addresses.has_to_wait(site, "vmlan", "x", "10.0.9.7")


@pytest.mark.parametrize("address", ["10.0.9.7", "10.0.3.1", "10.0.3.255"])
def test_an_address_that_its_network_never_has_is_an_error(site: Site, address: str) -> None:
    """Nobody moves the network there."""
    for move in (None, Move(OLD, OLD)):
        if move is not None:
            site.run.moves["vmlan"] = move
        with pytest.raises(HostError, match="is no address of the network vmlan, 10.0.3.0/24"):
            addresses.as_far_as_possible(site, "a", machine(address))
    both = {"a": machine(address), "b": machine("10.0.3.9")}
    assert addresses.all_as_far_as_possible(site, both) == {"b": machine("10.0.3.9")}


def test_a_network_that_is_not_there_yet_is_no_obstacle(tmp_path: Path) -> None:
    """A dry run says what it would make."""
    site = Site("lab", str(tmp_path))
    assert addresses.as_far_as_possible(site, "a", machine("10.0.9.7")) == machine("10.0.9.7")
    assert not addresses.has_to_wait(site, "vmlan", "x", "10.0.9.7")


def test_no_name_leads_to_an_address_that_the_network_has_not() -> None:
    """Neither by a reservation nor by a machine; who has the MAC address is known all the same."""
    there = replace(network("10.0.3"), reservations={"x": Reservation(MAC, "10.0.9.5")})
    assert lan_hosts.names("vmlan", there, {}) == {}
    assert [item.address for item in lan_hosts.known("vmlan", there, {})] == [""]
    vms = {"a": machine("10.0.9.7")}
    assert lan_hosts.names("vmlan", network("10.0.3"), vms) == {}
    assert [item.name for item in lan_hosts.known("vmlan", network("10.0.3"), vms)] == ["a"]


def test_names_of_the_new_subnet_wait_with_its_address() -> None:
    """A name that leads elsewhere, or goes, need not."""
    old = network("10.0.3", mirror="10.0.3.7", gone="10.0.3.8", world="192.0.2.1")
    new = network("10.0.9", mirror="10.0.9.7", world="192.0.2.1", here="10.0.3.9")
    facts = NetworkFacts(old, "up", True, True, True, ("a",))
    plan = plan_network(facts, new)
    assert {change.path for change in plan.changes} == {
        ("dns", "names", "gone"),
        ("dns", "names", "here"),
    }
    assert ("dns", "names", "mirror") in plan.waiting() and ("address",) in plan.waiting()
    assert all(change.effect == RESTART for change in plan.pending)


@pytest.mark.parametrize("old", [None, Reservation(MAC, "10.0.3.5")])
def test_a_reservation_waits_whole(old: Reservation | None) -> None:
    """With the effect that it will have: no restart of a machine does it."""
    plan = plan_reservation(old, Reservation(MAC, "10.0.9.5"), early=True)
    assert not plan.changes
    assert {change.effect for change in plan.pending} == {LIVE if old else CREATE}
    assert ("address",) in plan.waiting()
