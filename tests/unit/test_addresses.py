"""Machines' addresses and names on a network: faults, what its server is told, what it costs."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import _qemulab_lan_dhcp as lan_dhcp
import _qemulab_lan_dnsmasq_files as dnsmasq
import _qemulab_lan_hosts as lan_hosts
import _qemulab_pillar_spec as spec
import pytest
from _qemulab_lan_hosts import Known
from _qemulab_pillar_keys import NAMES
from _qemulab_pillar_keys import Lab
from _qemulab_pillar_keys import Reservation
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_kinds import SpecError
from _qemulab_plan_changes import LIVE
from _qemulab_plan_changes import MOVES
from _qemulab_plan_changes import Change
from _qemulab_plan_diff import merged
from _qemulab_plan_status import Status
from _qemulab_plan_vm import VmFacts
from _qemulab_plan_vm import plan_vm
from _qemulab_run_site import Site
from hypothesis import given
from hypothesis import strategies as st

MAC_1, MAC_2, MAC_3 = (f"52:54:00:00:00:0{number}" for number in (1, 2, 3))
OUTSIDE = "is not an address of 10.0.3.0/24 that is not the host's own"
AT = {"network": "vmlan", "address": "10.0.3.104"}
A_0 = "lab:vms:a:nics:0:address"


def lab(
    vms: dict[str, Any], reservations: dict[str, Any] | None = None, **network: Any
) -> dict[str, Any]:
    """Return a pillar of machines, each with its list of NICs, and of one network's keys."""
    return {
        "networks": {"vmlan": {"reservations": reservations or {}, **network}},
        "vms": {name: {"nics": nics} for name, nics in vms.items()},
    }


def faults_of(pillar: Any) -> list[str]:
    """Return all that is wrong with a pillar, as a user reads it."""
    with pytest.raises(SpecError) as caught:
        spec.from_pillar(pillar)
    return [str(fault) for fault in caught.value.faults]


def told(pillar: Any) -> list[Known]:
    """Return what the server of ``vmlan`` is told."""
    declared = spec.from_pillar(pillar).lab
    return lan_hosts.known("vmlan", declared.networks["vmlan"], declared.vms)


def names(pillar: Any) -> dict[str, str]:
    """Return which names have an address on ``vmlan`` before anybody has a lease."""
    declared = spec.from_pillar(pillar).lab
    return lan_hosts.names("vmlan", declared.networks["vmlan"], declared.vms)


# Faults


@pytest.mark.parametrize(
    ("pillar", "faults"),
    [
        *(
            (lab({"a": [{**AT, "address": address}]}), [f"{A_0}: {address} {OUTSIDE}"])
            for address in ("10.0.4.5", "10.0.3.1", "10.0.3.0", "10.0.3.255")
        ),
        (
            lab({"a": [{**AT, "network": "user"}]}),
            [f"{A_0}: only a NIC on one of the lab's networks has it"],
        ),
        (
            lab({"a": [AT], "b": [AT]}),
            [f"lab:vms:b:nics:0:address: 10.0.3.104 is already taken by {A_0}"],
        ),
        (
            lab({"a": [AT]}, {"x": {"mac": MAC_1, "address": AT["address"]}}),
            [f"{A_0}: 10.0.3.104 is already taken by lab:networks:vmlan:reservations:x:address"],
        ),
        (
            lab({"a": [{**AT, "mac": MAC_1}]}, {"x": {"mac": MAC_1, "address": "10.0.3.9"}}),
            [f"{A_0}: the reservation x gives its MAC address 10.0.3.9"],
        ),
        (
            lab({"a": [AT, {**AT, "address": "10.0.3.105"}]}),
            [f"lab:vms:a:nics:1:address: a has one on vmlan already: {A_0}"],
        ),
        (
            lab({"a": [AT]}, {"a": {"mac": MAC_1, "address": "10.0.3.9"}}),
            [
                "lab:networks:vmlan:reservations:a:mac: the machine a has 10.0.3.104 here, and "
                "another MAC address"
            ],
        ),
        (
            lab({"a": [AT]}, dns={"names": {"a": "10.0.3.9"}}),
            ["lab:networks:vmlan:dns:names:a: the machine a has 10.0.3.104"],
        ),
        (lab({"a": [{**AT, "address": "x"}]}), [f"{A_0}: 'x' is not an IPv4 address such as "
                                                "10.0.3.101"]),
    ],
)  # fmt: skip
def test_each_fault_of_an_address_is_told(pillar: Any, faults: list[str]) -> None:
    """With where the other one stands."""
    assert faults_of(pillar) == faults


def test_all_faults_of_addresses_are_told_at_once() -> None:
    """Of several machines, beside those of other kinds."""
    pillar = lab(
        {"a": [AT], "b": [AT, {**AT, "address": "10.0.9.9"}], "c": [{**AT, "network": "user"}]},
        {"a": {"mac": MAC_3, "address": "10.0.3.7"}},
    )
    pillar["vms"]["a"]["memory"] = 0
    assert [fault.partition(": ")[0] for fault in faults_of(pillar)] == [
        "lab:vms:a:memory",
        "lab:networks:vmlan:reservations:a:mac",
        "lab:vms:b:nics:0:address",
        "lab:vms:b:nics:1:address",
        "lab:vms:b:nics:1:address",
        "lab:vms:c:nics:0:address",
    ]


def test_an_address_may_repeat_what_a_reservation_says() -> None:
    """Of the same MAC address: that is one thing said twice."""
    pillar = lab({"a": [{**AT, "mac": MAC_1}]}, {"a": {"mac": MAC_1, "address": AT["address"]}})
    assert told(pillar) == [Known(MAC_1, "10.0.3.104", "a")]


def test_a_reservation_keeps_its_name_before_a_machine_without_an_address() -> None:
    """As it was before machines had names of their own."""
    pillar = lab({"a": [{"network": "vmlan"}]}, {"a": {"mac": MAC_1, "address": "10.0.3.9"}})
    assert names(pillar) == {"a": "10.0.3.9"}
    assert [item.name for item in told(pillar)] == ["a", ""]


# What the server is told


def test_a_machine_has_a_name_without_saying_anything() -> None:
    """By its lease; the MAC address is worked out."""
    (known,) = told({"vms": {"worker3": {}}})
    assert known == Known(spec.default_mac("lab", "worker3", 0), "", "worker3", routed=False)
    assert names({"vms": {"worker3": {}}}) == {}


def test_an_address_of_a_nic_is_reserved_under_the_machines_name() -> None:
    """The name resolves before the machine runs; no MAC address was typed."""
    pillar = lab({"worker3": [AT]})
    mac = spec.default_mac("lab", "worker3", 0)
    assert told(pillar) == [Known(mac, "10.0.3.104", "worker3")]
    assert names(pillar) == {"worker3": "10.0.3.104"}
    declared = spec.from_pillar(pillar).lab
    assert lan_hosts.reserved("vmlan", declared.vms) == {"worker3": Reservation(mac, "10.0.3.104")}


@pytest.mark.parametrize("same", [AT, {"network": "vmlan", "mac": MAC_1}, {**AT, "mac": MAC_1}])
def test_what_a_machine_has_comes_to_its_successor(same: dict[str, Any], tmp_path: Path) -> None:
    """One that is no longer declared has the same still: dnsmasq takes the first alone."""
    site = Site("lab", str(tmp_path))
    old, new = (
        spec.from_pillar(lab({name: [same]})).lab.vms[name] for name in ("worker3", "worker4")
    )
    network = spec.network_from("vmlan", {}, "lab")

    def stored(name: str, vm: Vm, started: Vm | None, when: int) -> None:
        site.store.keep_vm(name, vm, started)
        os.utime(site.layout.vm_file(name), (when, when))

    stored("worker3", old, old, 1)
    stored("worker4", new, None, 2)

    def has_it() -> list[str]:
        known = lan_hosts.known("vmlan", network, lan_dhcp.machines(site))
        had = {"address": AT["address"]} if "address" in same else {}
        mine = {**had, "mac": MAC_1} if "mac" in same else had
        return [each.name for each in known if mine.items() <= each._asdict().items()]

    assert has_it() == ["worker3"]
    stored("worker4", new, new, 3)  # the other runs on, or has gone off by itself
    assert has_it() == ["worker4"]
    stored("worker3", old, None, 4)  # it was stopped
    assert has_it() == ["worker4"]
    if "address" in same:
        found = lan_hosts.names("vmlan", network, lan_dhcp.machines(site))
        assert found == {"worker4": AT["address"]}


def test_the_order_of_machines_changes_nothing_else() -> None:
    """What the server reads is the same for the same machines, whichever of them runs."""
    declared = spec.from_pillar(lab({"a": [AT], "b": [{"network": "vmlan"}]})).lab
    network = declared.networks["vmlan"]
    turned = dict(reversed(declared.vms.items()))
    straight = lan_hosts.known("vmlan", network, declared.vms)
    assert lan_hosts.known("vmlan", network, turned) == straight


def test_one_nic_of_several_has_the_name() -> None:
    """The one with an address, else the first; the others have leases without a name."""
    plain = [{"network": "vmlan", "mac": mac} for mac in (MAC_1, MAC_2)]
    assert [item.name for item in told(lab({"a": plain}))] == ["a", ""]
    second = [plain[0], {**plain[1], "address": "10.0.3.104"}]
    assert [item.name for item in told(lab({"a": second}))] == ["", "a"]


def test_a_reservation_of_another_name_leads_to_the_machine_as_well() -> None:
    """Both names do, and no other NIC has them."""
    nics = [{"network": "vmlan", "mac": MAC_1}, {"network": "vmlan", "mac": MAC_2}]
    pillar = lab({"web": nics}, {"www": {"mac": MAC_1, "address": "10.0.3.9"}})
    assert names(pillar) == {"www": "10.0.3.9", "web": "10.0.3.9"}
    assert [(item.mac, item.name) for item in told(pillar)] == [(MAC_1, "www"), (MAC_2, "")]


@pytest.mark.parametrize(
    ("nics", "routed"),
    [
        ([{"network": "vmlan"}], True),
        ([{"network": "vmlan"}, {"network": "user"}], False),
        ([{"network": "user"}, {"network": "vmlan"}], False),
        # closed: it leads nowhere
        ([{"network": "vmlan"}, {"network": "user", "restrict": True}], True),
        # the router itself
        ([{"network": "vmlan", "address": "10.0.3.101"}], False),
    ],
)
def test_a_machine_with_a_way_out_is_handed_no_router(nics: list[Any], routed: bool) -> None:
    """Nor is the router; any other is, with an address of its own or without."""
    (known,) = told(lab({"a": nics}))
    assert known.routed is routed


def test_a_reservation_at_the_routers_address_is_handed_no_router() -> None:
    """Whoever has it: the recipe's master may be typed by hand, and so may others, which have."""
    reservations = {
        "master": {"mac": MAC_1, "address": "10.0.3.101"},
        "worker": {"mac": MAC_2, "address": "10.0.3.102"},
    }
    assert {item.name: item.routed for item in told(lab({}, reservations))} == {
        "master": False,
        "worker": True,
    }


NIC = st.fixed_dictionaries(
    {"network": st.sampled_from(["vmlan", "user"])},
    optional={
        "mac": st.sampled_from([MAC_1, MAC_2, MAC_3]),
        "address": st.sampled_from(["10.0.3.101", "10.0.3.102", "10.0.3.7"]),
        "restrict": st.booleans(),
    },
)
LAB = st.builds(
    lab,
    st.dictionaries(st.sampled_from("abc"), st.lists(NIC, max_size=3), max_size=3),
    st.dictionaries(
        st.sampled_from(["a", "b", "x"]),
        st.fixed_dictionaries(
            {
                "mac": st.sampled_from([MAC_1, MAC_2, MAC_3]),
                "address": st.sampled_from(["10.0.3.101", "10.0.3.104"]),
            }
        ),
        max_size=2,
    ),
    dhcp=st.fixed_dictionaries(
        {}, optional={"router": st.sampled_from(["none", "10.0.3.1", "10.0.3.7", "10.0.3.150"])}
    ),
)


@given(LAB)
def test_every_lab_that_is_allowed_has_one_name_and_one_router_for_each(pillar: Any) -> None:
    """No MAC address, address or name stands twice; every machine on the network has its own."""
    try:
        declared = spec.from_pillar(pillar).lab
    except SpecError:
        return
    network = declared.networks["vmlan"]
    known = lan_hosts.known("vmlan", network, declared.vms)
    leading = lan_hosts.names("vmlan", network, declared.vms)
    for column in (
        [item.mac for item in known],
        [item.address for item in known if item.address],
        [item.name for item in known if item.name],
    ):
        assert len(column) == len(set(column))
    for name, item in network.reservations.items():
        assert (item.mac, item.address, name) in [each[:3] for each in known]
    routed = {item.mac: item.routed for item in known}
    for name, vm in declared.vms.items():
        macs = [nic.mac for nic in vm.nics if nic.network == "vmlan"]
        assert set(macs) <= set(routed)
        if macs:
            assert name in leading or name in [item.name for item in known]
        if lan_hosts.has_way_out(vm):
            assert not any(routed[mac] for mac in macs)
    held(declared, dnsmasq.ranges(network))


def held(declared: Lab, ranges: list[str]) -> None:
    """Hold that the range has all addresses of the declared one, but the router's."""
    dhcp = declared.networks["vmlan"].dhcp
    found = set()
    for line in ranges:
        first, last = (ipaddress.IPv4Address(end) for end in line.split("=")[1].split(",")[:2])
        found |= {str(first + number) for number in range(int(last) - int(first) + 1)}
    assert found == {f"10.0.3.{number}" for number in range(100, 201)} - {dhcp.router}


# What a change costs

OFF = spec.from_pillar(lab({"a": [{"network": "vmlan", "mac": MAC_1}]})).lab.vms["a"]
READY = VmFacts(OFF, OFF, {"hda": 50 * 2**30}, True, Status.RUNNING)


def at(address: str) -> Vm:
    """Return the machine with an address."""
    return replace(OFF, nics=(replace(OFF.nics[0], address=address),))


@pytest.mark.parametrize(
    ("leases", "released"),
    [
        ([], False),
        # its own lease is another, or somebody else's is this one
        ([(MAC_1, "10.0.3.150")], True),
        ([(MAC_2, "10.0.3.104")], True),
        ([(MAC_1, "10.0.3.104"), (MAC_2, "10.0.3.150")], False),
    ],
)
def test_an_address_is_reserved_live(leases: list[tuple[str, str]], released: bool) -> None:
    """The dry run says so as for a reservation, with the lease that contradicts it."""
    plan = plan_vm(READY._replace(leases={"vmlan": tuple(leases)}), at("10.0.3.104"), "running")
    change = Change(("nics", "0", "address"), None, "10.0.3.104", LIVE, NAMES)
    lease = Change(("nics", "0", "lease"), "contradicts", "released", LIVE)
    assert plan.changes == ((change, lease) if released else (change,))
    assert plan.notes == ((MOVES,) if released else ())
    assert merged(OFF, at("10.0.3.104"), plan.waiting()) == at("10.0.3.104")


def test_an_address_that_is_no_longer_reserved_is_given_up() -> None:
    """With its lease; one from the range is left alone."""
    facts = READY._replace(defined=at("10.0.3.104"), started=at("10.0.3.104"))
    for address, released in (("10.0.3.104", True), ("10.0.3.150", False)):
        leases = {"vmlan": ((MAC_1, address),)}
        plan = plan_vm(facts._replace(leases=leases), OFF, "running")
        assert plan.touches("nics", "0", "lease") is released


def test_what_an_older_version_stored_is_as_declared() -> None:
    """It knows no address of a NIC; nothing is to be done, and nothing restarted."""
    stored = {"nics": [{"network": "vmlan", "mac": MAC_1, "forwards": []}], "boot": "guest"}
    old = spec.stored(Vm, {**stored, "disks": [{"name": "hda", "bus": "ide"}]})
    assert plan_vm(READY._replace(defined=old, started=old), OFF, "running").changes == ()
