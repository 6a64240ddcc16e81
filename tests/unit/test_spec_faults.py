"""Every fault of a pillar is reported at once, and no pillar at all does anything worse."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import _qemulab_pillar_keys as keys
import _qemulab_pillar_spec as spec
import pytest
from _qemulab_pillar_keys import Dhcp
from _qemulab_pillar_keys import Disk
from _qemulab_pillar_keys import Forward
from _qemulab_pillar_keys import Lab
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Nic
from _qemulab_pillar_keys import Reservation
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_kinds import SpecError
from _qemulab_pillar_schema import plain
from hypothesis import given
from hypothesis import strategies as st

INTERFACE = (
    "an interface name has 1 to 15 characters a-z, 0-9, _, -, begins with a letter and is none of "
    "lo, all, default, bonding_masters"
)


def faults_of(pillar: Any) -> list[str]:
    """Return all that is wrong with a pillar, as a user reads it."""
    with pytest.raises(SpecError) as caught:
        spec.from_pillar(pillar)
    return [str(fault) for fault in caught.value.faults]


def vm(**keys: Any) -> dict[str, Any]:
    """Return a pillar with one machine, ``a``."""
    return {"vms": {"a": keys}}


def network(**keys: Any) -> dict[str, Any]:
    """Return a pillar with one network, ``vmlan``."""
    return {"networks": {"vmlan": keys}}


OUTSIDE = "is not an address of 10.0.3.0/24 that is not the host's own"
NAME = "a name has 1 to 32 letters a-z, digits and inner hyphens"
MEGABYTES = "a whole number from 16 to 4194304 MB"
MAC_1 = "52:54:00:00:00:01"
RESERVED = {"mac": MAC_1, "address": "10.0.3.5"}
USER_AND_NET = {"network": "vmlan", "mac": MAC_1}


@pytest.mark.parametrize(
    ("pillar", "faults"),
    [
        # shapes
        ([], ["lab: [] is not a mapping of keys"]),
        ("lab", ["lab: 'lab' is not a mapping of keys"]),
        (False, ["lab: False is not a mapping of keys"]),
        ({"vms": ["a"]}, ["lab:vms: ['a'] is not a mapping of names"]),
        ({"vms": {"a": "b"}}, ["lab:vms:a: 'b' is not a mapping of keys"]),
        (vm(disks={}), ["lab:vms:a:disks: {} is not a list"]),
        (vm(nics="user"), ["lab:vms:a:nics: 'user' is not a list"]),
        # keys
        (vm(memmory=1), ["lab:vms:a:memmory: unknown key; did you mean memory?"]),
        (vm(nics=[{"ma": 1}]), ["lab:vms:a:nics:0:ma: unknown key; did you mean mac?"]),
        ({"vm": {}}, ["lab:vm: unknown key; did you mean vms?"]),
        (
            network(dhcp={"dns": 1}),
            ["lab:networks:vmlan:dhcp:dns: unknown key; known are lease_time, range, router"],
        ),
        # names
        ({"name": "../x"}, [f"lab:name: '../x' is not allowed; {NAME}"]),
        ({"vms": {"a b": {}}}, [f"lab:vms:a b: 'a b' is not allowed; {NAME}"]),
        ({"vms": {7: {}}}, [f"lab:vms:7: 7 is not text; put it in quotes; {NAME}"]),
        (
            {"networks": {"user": {}}},
            ["lab:networks:user: this name means QEMU's own user network"],
        ),
        # whose own name is no interface's, and that names none
        *(
            (
                {"networks": {name: {}}},
                [f"lab:networks:{name}:interface: {name!r} is not allowed; {INTERFACE}"],
            )
            for name in ("a" * 16, "lo", "all", "default", "123")
        ),
        # values
        (vm(memory="2048"), [f"lab:vms:a:memory: '2048' is not {MEGABYTES}"]),
        (vm(memory=0), [f"lab:vms:a:memory: 0 is not {MEGABYTES}"]),
        (vm(cpus=256), ["lab:vms:a:cpus: 256 is not a whole number from 1 to 255"]),
        (vm(display="gtk"), ["lab:vms:a:display: 'gtk' is not one of none, vnc"]),
        (vm(autostart="yes"), ["lab:vms:a:autostart: 'yes' is not true or false"]),
        (
            vm(disks=[{}, {"size": "10"}]),
            [
                "lab:vms:a:disks:1:size: '10' is not allowed; a size has a whole number and a "
                "unit, such as 512M, 50G or 1T"
            ],
        ),
        (
            network(dns={"upstream": ["1.1.1.1", "x"]}),
            [
                "lab:networks:vmlan:dns:upstream:1: 'x' is not an IPv4 address such as 10.0.3.101",
            ],
        ),
        (
            {"authorized_keys": ["x"]},
            [
                "lab:authorized_keys:0: 'x' is not a public SSH key on one line, as in a .pub file",
            ],
        ),
        # addresses
        (
            network(reservations={"m": {}}),
            [
                "lab:networks:vmlan:reservations:m:mac: is missing",
                "lab:networks:vmlan:reservations:m:address: is missing",
            ],
        ),
        *(
            (
                network(reservations={"m": {"mac": MAC_1, "address": address}}),
                [f"lab:networks:vmlan:reservations:m:address: {address} {OUTSIDE}"],
            )
            for address in ("10.0.4.5", "10.0.3.1", "10.0.3.0", "10.0.3.255")
        ),
        (
            network(reservations={"a": RESERVED, "b": RESERVED}),
            [
                f"lab:networks:vmlan:reservations:b:mac: {MAC_1} is already taken by "
                "lab:networks:vmlan:reservations:a:mac",
                "lab:networks:vmlan:reservations:b:address: 10.0.3.5 is already taken by "
                "lab:networks:vmlan:reservations:a:address",
            ],
        ),
        (
            network(reservations={"a": RESERVED}, dns={"names": {"a": "10.0.3.6"}}),
            ["lab:networks:vmlan:dns:names:a: the reservation a has 10.0.3.5"],
        ),
        (
            network(dhcp={"range": "10.0.4.1-10.0.5.1"}),
            [
                f"lab:networks:vmlan:dhcp:range: 10.0.4.1 {OUTSIDE}",
                f"lab:networks:vmlan:dhcp:range: 10.0.5.1 {OUTSIDE}",
            ],
        ),
        (
            network(address="10.0.3.150/24"),
            ["lab:networks:vmlan:dhcp:range: has the host's own address 10.0.3.150 in it"],
        ),
        (
            network(address="10.0.3.1/28"),
            [
                "lab:networks:vmlan:dhcp:range: is missing: 10.0.3.0/28 is too small for the "
                "default, 100 to 200"
            ],
        ),
        (
            network(dhcp={"router": "10.9.9.9"}),
            [f"lab:networks:vmlan:dhcp:router: 10.9.9.9 {OUTSIDE}"],
        ),
        (
            {"networks": {"a": {"address": "10.0.0.1/8"}, "b": {"address": "10.0.4.1/24"}}},
            ["lab:networks:b:address: 10.0.4.0/24 overlaps 10.0.0.0/8 of the network a"],
        ),
        (
            {
                "networks": {
                    "a": {"interface": "x", "multicast": "230.0.0.2:1234"},
                    "b": {
                        "interface": "x",
                        "multicast": "230.0.0.2:1234",
                        "address": "10.0.4.1/24",
                    },
                }
            },
            [
                "lab:networks:b:interface: x is already taken by lab:networks:a:interface",
                "lab:networks:b:multicast: 230.0.0.2:1234 is already taken by "
                "lab:networks:a:multicast",
            ],
        ),
        # machines
        (
            vm(nics=[USER_AND_NET, {"mac": MAC_1}]),
            [f"lab:vms:a:nics:1:mac: {MAC_1} is already taken by lab:vms:a:nics:0:mac"],
        ),
        (
            {"vms": {"a": {"nics": [{"mac": MAC_1}]}, "b": {"nics": [{"mac": MAC_1}]}}},
            [f"lab:vms:b:nics:0:mac: {MAC_1} is already taken by lab:vms:a:nics:0:mac"],
        ),
        (
            {"networks": {"a": {}}, **vm(nics=[{"network": "b"}])},
            ["lab:vms:a:nics:0:network: there is no network b; known are a, user"],
        ),
        (
            {
                "networks": {"a": {}, "b": {"address": "10.0.4.1/24"}},
                **vm(nics=[{"network": "user"}, {}]),
            },
            ["lab:vms:a:nics:1:network: is missing: the lab has a, b"],
        ),
        (
            vm(nics=[{"forwards": [{"host_port": 80}]}, {"restrict": True}]),
            [
                "lab:vms:a:nics:0:forwards: only a NIC on network user has it",
                "lab:vms:a:nics:1:restrict: only a NIC on network user has it",
            ],
        ),
        (
            vm(nics=[{"network": "user", "forwards": [{}, {"host_port": 0}]}]),
            [
                "lab:vms:a:nics:0:forwards:0:host_port: is missing",
                "lab:vms:a:nics:0:forwards:1:host_port: 0 is not a whole number from 1 to 65535",
            ],
        ),
        (
            vm(nics=[{"network": "user", "forwards": [{"host_port": 80}, {"host_port": 80}]}]),
            [
                "lab:vms:a:nics:0:forwards:1:host_port: 127.0.0.1:80/tcp is already taken by "
                "lab:vms:a:nics:0:forwards:0:host_port"
            ],
        ),
        (
            vm(disks=[{"name": "hdb"}, {}]),
            ["lab:vms:a:disks:1:name: hdb is already taken by lab:vms:a:disks:0:name"],
        ),
        (
            vm(machine="q35", disks=[{"bus": "ide"}]),
            [
                "lab:vms:a:disks:0:bus: machine type q35 has room for 0 ide disks; take scsi or "
                "virtio"
            ],
        ),
        (
            vm(disks=[{}, {}, {}, {"bus": "ide"}]),
            [
                "lab:vms:a:disks:3:bus: machine type pc has room for 3 ide disks; take scsi or "
                "virtio"
            ],
        ),
        (vm(boot="cdrom"), ["lab:vms:a:boot: there is no cdrom to boot from"]),
        (vm(boot="disk", disks=[]), ["lab:vms:a:boot: there is no disk to boot from"]),
        (vm(vnc_port=5901), ["lab:vms:a:vnc_port: needs display: vnc"]),
        # one that cannot be read keeps its place
        (
            vm(disks=["x", {"name": "b"}, {"name": "b"}], nics=["x", {"network": "b"}]),
            [
                "lab:vms:a:disks:0: 'x' is not a mapping of keys",
                "lab:vms:a:nics:0: 'x' is not a mapping of keys",
                "lab:vms:a:nics:1:network: there is no network b; known are user",
                "lab:vms:a:disks:2:name: b is already taken by lab:vms:a:disks:1:name",
            ],
        ),
    ],
)
def test_each_fault_has_its_path_and_what_is_allowed(pillar: Any, faults: list[str]) -> None:
    """To the letter, so that a user finds the line."""
    assert faults_of(pillar) == faults


def test_all_faults_of_a_pillar_are_reported_at_once() -> None:
    """Those of single values, those of places, and those that only show together."""
    pillar = {
        "nmae": "x",
        "prune": "all",
        "networks": {
            "vmlan": {
                "adress": "10.0.3.1/24",
                "interface": "a,b",
                "dhcp": {"lease_time": "-1"},
                "reservations": {"m": {"mac": "x", "address": "10.0.3.5"}, "n": RESERVED},
            }
        },
        "vms": {
            "a": {"memory": -1, "nics": [{"mac": MAC_1}, {"network": "nowhere"}]},
            "b": {"nics": [{"mac": MAC_1}], "boot": "cdrom", "vnc_port": 1},
        },
    }
    assert [fault.partition(": ")[0] for fault in faults_of(pillar)] == [
        "lab:nmae",
        "lab:prune",
        "lab:networks:vmlan:adress",
        "lab:networks:vmlan:interface",
        "lab:networks:vmlan:dhcp:lease_time",
        "lab:networks:vmlan:reservations:m:mac",
        "lab:vms:a:memory",
        "lab:vms:b:vnc_port",
        "lab:vms:a:nics:1:network",
        "lab:vms:b:boot",
        "lab:vms:b:nics:0:mac",
    ]


def test_a_port_that_is_open_to_the_network_is_a_warning() -> None:
    """It is what was asked for, but worth a word."""
    forward = {"host_port": 10022, "host_address": "0.0.0.0"}
    declared = spec.from_pillar(vm(nics=[{"network": "user", "forwards": [forward]}]))
    assert [str(warning) for warning in declared.warnings] == [
        "lab:vms:a:nics:0:forwards:0:host_address: 0.0.0.0 opens the machine to the network"
    ]


# Whatever stands in the pillar

CLASSES = (Lab, Network, Vm, Nic, Disk, Forward)
WORDS = sorted(
    {item.name for cls in CLASSES for item in dataclasses.fields(cls)}
    | {"vmlan", "user", "10.0.3.1/24", "10.0.3.5", "mac", "address", "range", "router", "none"}
    | {"/a.iso", "vnc", "q35", "50G", "a", "b", MAC_1}
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=12)
    | st.text(st.characters(codec=None), max_size=4)
    | st.binary(max_size=4)
    | st.dates()
    | st.just(frozenset({1}))
    | st.datetimes()
)
KEYS = st.sampled_from(WORDS) | st.text(max_size=8) | st.integers() | st.none() | st.dates()
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def keys_of(cls: type[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return mappings with keys of a dataclass and anything behind them."""
    names = [item.name for item in dataclasses.fields(cls)]
    return st.dictionaries(st.sampled_from(names), ANYTHING, max_size=5)


NETWORK_LIKE = st.fixed_dictionaries(
    {},
    optional={
        "address": st.sampled_from(["10.0.3.1/24", "10.0.0.1/8", "10.0.3.1/29"]) | ANYTHING,
        "dhcp": keys_of(Dhcp) | ANYTHING,
        "dns": keys_of(keys.Dns) | ANYTHING,
        "reservations": st.dictionaries(KEYS, keys_of(Reservation) | ANYTHING, max_size=3),
        "interface": ANYTHING,
    },
)
VM_LIKE = st.fixed_dictionaries(
    {},
    optional={
        "nics": st.lists(keys_of(Nic) | ANYTHING, max_size=3) | ANYTHING,
        "disks": st.lists(keys_of(Disk) | ANYTHING, max_size=4) | ANYTHING,
        "boot": st.sampled_from(["cdrom", "disk", "guest"]) | ANYTHING,
        "memory": ANYTHING,
    },
)
LAB_LIKE = st.fixed_dictionaries(
    {},
    optional={
        "name": ANYTHING,
        "networks": st.dictionaries(KEYS, NETWORK_LIKE | ANYTHING, max_size=3) | ANYTHING,
        "vms": st.dictionaries(KEYS, VM_LIKE | ANYTHING, max_size=3) | ANYTHING,
    },
)


@given(LAB_LIKE | ANYTHING)
def test_no_pillar_raises_anything_but_its_faults(pillar: Any) -> None:
    """Each of them with a path below lab, on one line, in text that can be written."""
    try:
        declared = spec.from_pillar(pillar)
    except SpecError as err:
        assert err.faults
        for fault in err.faults:
            assert fault.path == "lab" or fault.path.startswith("lab:")
            assert len(str(fault).splitlines()) == 1
            str(fault).encode()
    else:
        json.dumps(plain(declared.lab)).encode()


@given(LAB_LIKE | keys_of(Vm))
def test_no_argument_of_a_state_raises_anything_but_its_faults(declaration: Any) -> None:
    """A state is given one thing, and reads it just as strictly."""
    for read in (
        lambda: spec.vm_from("a", declaration, "lab", {}),
        lambda: spec.network_from("a", declaration, "lab"),
        lambda: spec.reservation_from("a", declaration, "vmlan"),
    ):
        try:
            read()
        except SpecError as err:
            assert err.faults


HUGE = int("f" * 5000, 16)


@pytest.mark.parametrize(
    ("pillar", "path"),
    [
        (HUGE, "lab"),
        ({HUGE: 1}, "lab:this number"),
        ({"vms": {HUGE: {}}}, "lab:vms:this number"),
        (vm(memory=HUGE), "lab:vms:a:memory"),
        (vm(nics=[{"mac": HUGE}]), "lab:vms:a:nics:0:mac"),
        (vm(disks=[HUGE]), "lab:vms:a:disks:0"),
        (network(dns={"names": {"a": [HUGE]}}), "lab:networks:vmlan:dns:names:a"),
    ],
    ids=range(7),
)
def test_a_number_that_cannot_be_written_is_a_fault_like_any_other(pillar: Any, path: str) -> None:
    """YAML reads a number of any length in hexadecimal; Python refuses to print it."""
    assert [fault.partition(": ")[0] for fault in faults_of(pillar)] == [path]


def test_a_lab_cannot_be_named_as_the_shared_directory() -> None:
    """Its files would be the built-in guest's, and its purge the end of them."""
    with pytest.raises(SpecError, match="lab:name: guest is where the host keeps"):
        spec.from_pillar({"name": "guest", "networks": {"vmlan": {}}})


def test_a_reservation_that_no_machine_asks_for_is_a_warning() -> None:
    """Where the lab has machines; without any, they may be typed by hand."""
    mac, other = "52:54:00:00:00:01", "52:54:00:00:00:02"
    reserved = {
        "a": {"mac": mac, "address": "10.0.3.9"},
        "b": {"mac": other, "address": "10.0.3.8"},
    }
    networks = {"vmlan": {"reservations": reserved}, "n": {"address": "10.0.4.1/24"}}
    vms = {"a": {"nics": [{"network": "vmlan", "mac": mac}, {"network": "n", "mac": other}]}}
    said = spec.from_pillar({"networks": networks, "vms": vms}).warnings
    path = "lab:networks:vmlan:reservations:b:mac"
    assert [str(each) for each in said] == [f"{path}: no NIC on network vmlan has {other}"]
    assert not spec.from_pillar({"networks": networks}).warnings


@pytest.mark.parametrize(("firmware", "memory"), [("uefi", 176), ("bios", 112)])
def test_too_little_memory_for_the_built_in_guest_is_a_warning(firmware: str, memory: int) -> None:
    """It would panic while it unpacks itself; what boots from a disk may have as little."""

    def said(**vm: Any) -> list[str]:
        vms = {"a": {"firmware": firmware, **vm}}
        return [str(warning) for warning in spec.from_pillar({"vms": vms}).warnings]

    assert said(memory=memory) == said(memory=memory - 1, boot="disk") == []
    problem = f"the built-in guest boots with {memory} MB or more through {firmware}"
    assert said(memory=memory - 1) == [f"lab:vms:a:memory: {problem}"]
