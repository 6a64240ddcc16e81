"""
Twelve kinds of bad input: each is refused, with the path of the field that has it, or is a warning.

The second of them, any text in any field, is in ``test_any_text.py``; what only a real host shows
(a port or a group of another lab, an interface, a file) is in ``tests/integration``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import _qemulab_check_host as check
import _qemulab_pillar_spec as spec
import pytest
from _qemulab_pillar_kinds import Notes
from _qemulab_pillar_kinds import SpecError
from _qemulab_run_site import Site

MAC = "52:54:00:00:00:01"


def paths_of_faults(pillar: Any) -> list[str]:
    """Return where a pillar is faulty."""
    with pytest.raises(SpecError) as caught:
        spec.from_pillar(pillar)
    return [fault.path for fault in caught.value.faults]


def vm(**keys: Any) -> dict[str, Any]:
    """Return a pillar with one machine, ``a``."""
    return {"vms": {"a": keys}}


def network(**keys: Any) -> dict[str, Any]:
    """Return a pillar with one network, ``vmlan``."""
    return {"networks": {"vmlan": keys}}


def forward(**keys: Any) -> dict[str, Any]:
    """Return a pillar with one forwarded port."""
    return vm(nics=[{"network": "user", "forwards": [keys]}])


NAMES = ["../../etc/x", "a b", "a" * 65, "-x", "", "é", "%n", "$HOME", "a\n", "A", ".", "a/b"]


@pytest.mark.parametrize("name", [pytest.param(name, id=f"B1-{name!r}") for name in NAMES])
def test_a_name_that_is_none(name: str) -> None:
    """It would be part of a path, a unit's name and a command line."""
    shown = name if name.isprintable() else repr(name)
    assert paths_of_faults({"name": name}) == ["lab:name"]
    assert paths_of_faults({"vms": {name: {}}})[0] == f"lab:vms:{shown}"
    assert paths_of_faults({"networks": {name: {}}})[0] == f"lab:networks:{shown}"
    assert paths_of_faults(vm(disks=[{"name": name}])) == ["lab:vms:a:disks:0:name"]
    reserved = {name: {"mac": MAC, "address": "10.0.3.5"}}
    assert paths_of_faults(network(reservations=reserved)) == [
        f"lab:networks:vmlan:reservations:{shown}"
    ]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=f"B3-{index}")
        for index, name in enumerate(
            [
                "g1.lab,10.0.0.1\ndhcp-script=/tmp/x",
                "g1\ndhcp-script=/tmp/x",
                "g1 g2",
                "g1#",
                "#",
                "g1,set:x",
                "-g1",
                "g1-",
                "g..1",
                "a" * 254,
            ]
        )
    ],
)
def test_a_host_name_that_is_none(name: str) -> None:
    """It would be a line, or an option, of the DHCP and DNS server's."""
    (found,) = paths_of_faults(network(dns={"names": {name: "10.0.3.5"}}))
    assert found.startswith("lab:networks:vmlan:dns:names:")
    reserved = {name: {"mac": MAC, "address": "10.0.3.5"}}
    (found,) = paths_of_faults(network(reservations=reserved))
    assert found.startswith("lab:networks:vmlan:reservations:")


@pytest.mark.parametrize(
    "mac",
    [
        pytest.param("01:00:5e:00:00:01", id="B4-multicast"),
        pytest.param("ff:ff:ff:ff:ff:ff", id="B4-broadcast"),
        pytest.param("00:00:00:00:00:00", id="B4-zero"),
        pytest.param("52:54:00:00:01", id="B4-five-octets"),
        pytest.param("52:54:00:00:00:0g", id="B4-no-hexadecimal"),
        pytest.param("52:54:00:00:00:01,x=y", id="B4-more"),
        pytest.param("525400000001", id="B4-no-colons"),
        pytest.param(5, id="B4-number"),
    ],
)
def test_a_mac_address_that_is_none(mac: Any) -> None:
    """Of a machine and of a reservation."""
    assert paths_of_faults(vm(nics=[{"mac": mac}])) == ["lab:vms:a:nics:0:mac"]
    reserved = {"m": {"mac": mac, "address": "10.0.3.5"}}
    assert paths_of_faults(network(reservations=reserved)) == [
        "lab:networks:vmlan:reservations:m:mac"
    ]


@pytest.mark.parametrize(
    ("pillar", "path"),
    [
        pytest.param(
            vm(nics=[{"mac": MAC}, {"mac": MAC}]), "lab:vms:a:nics:1:mac", id="B4-twice-in-one"
        ),
        pytest.param(
            {"vms": {"a": {"nics": [{"mac": MAC}]}, "b": {"nics": [{"mac": MAC.upper()}]}}},
            "lab:vms:b:nics:0:mac",
            id="B4-twice-in-two",
        ),
    ],
)
def test_a_mac_address_that_is_taken(pillar: Any, path: str) -> None:
    """Two machines with one address would take each other's frames."""
    assert paths_of_faults(pillar) == [path]


@pytest.mark.parametrize(
    ("number", "mac"),
    [
        pytest.param(7776040271, "10:00:00:11:11:11", id="B4-unquoted"),
        pytest.param(41135080271, "52:54:00:11:11:11", id="B4-unquoted-qemu"),
    ],
)
def test_a_mac_address_that_yaml_read_as_a_number(number: int, mac: str) -> None:
    """It is what was meant, with a word about it."""
    assert yaml_reads(mac) == number
    declared = spec.from_pillar(vm(nics=[{"mac": number}]))
    assert declared.lab.vms["a"].nics[0].mac == mac
    (warning,) = declared.warnings
    assert warning.path == "lab:vms:a:nics:0:mac" and f"'{mac}'" in warning.problem


def yaml_reads(text: str) -> int:
    """Return the number in base 60 that YAML 1.1 makes of groups of digits."""
    value = 0
    for group in text.split(":"):
        value = value * 60 + int(group)
    return value


ADDRESSES = {
    "outside": "10.0.4.5",
    "gateway": "10.0.3.1",
    "network": "10.0.3.0",
    "broadcast": "10.0.3.255",
    "ipv6": "fe80::1",
    "prefix": "10.0.3.5/24",
    "octet": "10.0.3.256",
    "zeros": "10.0.3.05",
    "short": "10.0.3",
    "more": "10.0.3.5\nserver=192.0.2.1",
}


@pytest.mark.parametrize("address", [pytest.param(v, id=f"B5-{k}") for k, v in ADDRESSES.items()])
def test_an_address_that_is_none_here(address: str) -> None:
    """Of a reservation, and as the router; the router may be the host itself."""
    reserved = {"m": {"mac": MAC, "address": address}}
    assert paths_of_faults(network(reservations=reserved)) == [
        "lab:networks:vmlan:reservations:m:address"
    ]
    if address != "10.0.3.1":
        assert paths_of_faults(network(dhcp={"router": address})) == [
            "lab:networks:vmlan:dhcp:router"
        ]


def test_b5_an_address_that_is_reserved_twice() -> None:
    """At the second place."""
    reserved = {
        "a": {"mac": MAC, "address": "10.0.3.5"},
        "b": {"mac": "52:54:00:00:00:02", "address": "10.0.3.5"},
    }
    assert paths_of_faults(network(reservations=reserved)) == [
        "lab:networks:vmlan:reservations:b:address"
    ]


@pytest.mark.parametrize(
    ("pillar", "path"),
    [
        *(
            pytest.param(forward(host_port=port), "forwards:0:host_port", id=f"B6-host-{port!r}")
            for port in (0, 65536, -1, "22", 22.0, True)
        ),
        *(
            pytest.param(
                forward(host_port=10022, guest_port=port),
                "forwards:0:guest_port",
                id=f"B6-guest-{port!r}",
            )
            for port in (0, 65536, "22")
        ),
        pytest.param(
            vm(nics=[{"network": "user", "forwards": [{"host_port": 80}, {"host_port": 80}]}]),
            "forwards:1:host_port",
            id="B6-twice",
        ),
        pytest.param(
            forward(host_port=10022, host_address="::1"), "forwards:0:host_address", id="B6-ipv6"
        ),
    ],
)
def test_a_port_that_is_none_or_taken(pillar: Any, path: str) -> None:
    """Of the host, and of the machine."""
    assert paths_of_faults(pillar) == [f"lab:vms:a:nics:0:{path}"]


def test_b6_a_port_of_two_machines() -> None:
    """At the second, whatever it is for."""
    nic = {"network": "user", "forwards": [{"host_port": 5907}]}
    pillar = {"vms": {"a": {"nics": [nic]}, "b": {"nics": [], "display": "vnc", "vnc_port": 5907}}}
    assert paths_of_faults(pillar) == ["lab:vms:b:vnc_port"]


INTERFACES = ["a" * 16, "a,b", "lo", "a b", "a/b", "", "A", "-a", "eth0:1", "a\n", "%d", "$x"]


@pytest.mark.parametrize("name", [pytest.param(name, id=f"B7-{name!r}") for name in INTERFACES])
def test_an_interface_name_that_is_none(name: str) -> None:
    """One that the host has is found by looking; see the integration tests."""
    assert paths_of_faults(network(interface=name)) == ["lab:networks:vmlan:interface"]


GROUPS = [
    *("224.0.0.1:1234", "10.0.0.1:1234", "230.0.0.1", "230.0.0.1:0", "230.0.0.1:80"),
    *("230.0.0.1:65536", "230.0.0.1:1234,x", "[ff02::1]:1234", "240.0.0.1:1234", ":1234", ""),
]


@pytest.mark.parametrize("group", [pytest.param(group, id=f"B8-{group!r}") for group in GROUPS])
def test_a_multicast_group_that_is_none(group: str) -> None:
    """Those of the network itself (224.0.0.0/24) are not for us."""
    assert paths_of_faults(network(multicast=group)) == ["lab:networks:vmlan:multicast"]


def test_b8_a_group_of_two_networks() -> None:
    """Their machines would meet."""
    pillar = {
        "networks": {
            "one": {"multicast": "230.0.0.9:1234"},
            "two": {"multicast": "230.0.0.9:1234", "address": "10.0.4.1/24"},
        }
    }
    assert paths_of_faults(pillar) == ["lab:networks:two:multicast"]


@pytest.mark.parametrize(
    ("pillar", "path"),
    [
        *(
            pytest.param(vm(memory=value), "memory", id=f"B9-memory-{value!r}")
            for value in (-1, 0, 15, 2**40, "1T", "2048", 2048.0, True)
        ),
        *(
            pytest.param(vm(disks=[{"size": value}]), "disks:0:size", id=f"B9-size-{value!r}")
            for value in ("10", 10, "0G", "-1G", "1.5G", "10X", "65T", "1K", "10G,x")
        ),
    ],
)
def test_an_amount_that_is_none(pillar: Any, path: str) -> None:
    """Of memory, in MB; of a disk, with its unit."""
    assert paths_of_faults(pillar) == [f"lab:vms:a:{path}"]


def test_b9_more_memory_than_the_host_has_is_a_warning() -> None:
    """It may be there by the time, or swapped."""
    notes = Notes()
    check.check_memory(spec.from_pillar(vm(memory=4 * 1024 * 1024)).lab, notes)
    assert not notes.faults
    (warning,) = notes.warnings
    assert str(warning).startswith("lab:vms: the machines want 4194304 MB together, the host has ")


@pytest.mark.parametrize(
    ("pillar", "path"),
    [
        pytest.param(vm(memmory=1), "lab:vms:a:memmory", id="B10-unknown-of-a-machine"),
        pytest.param(network(adress="x"), "lab:networks:vmlan:adress", id="B10-of-a-network"),
        pytest.param({"vm": {}}, "lab:vm", id="B10-unknown-of-the-lab"),
        pytest.param({5: {}}, "lab:5", id="B10-no-text"),
        pytest.param([], "lab", id="B10-list"),
        pytest.param("x", "lab", id="B10-text"),
        pytest.param(vm(nics={}), "lab:vms:a:nics", id="B10-mapping-for-list"),
        pytest.param({"vms": []}, "lab:vms", id="B10-list-for-mapping"),
    ],
)
def test_a_key_or_a_shape_that_is_unknown(pillar: Any, path: str) -> None:
    """By its path."""
    assert paths_of_faults(pillar) == [path]


@pytest.mark.parametrize(
    "pillar", [pytest.param(value, id=f"B10-{value!r}") for value in (None, {}, {"vms": None})]
)
def test_an_empty_pillar_is_an_empty_lab(pillar: Any) -> None:
    """Nothing is declared, and nothing is wrong with that."""
    lab = spec.from_pillar(pillar).lab
    assert not lab.vms and not lab.networks


def test_b11_a_socket_path_that_is_too_long(tmp_path: Path) -> None:
    """The kernel takes 107 bytes; the longest names fit below the usual root."""
    longest = "a" * 32
    lab = spec.from_pillar({"name": longest, "vms": {longest: {"nics": [], "disks": []}}}).lab
    notes = Notes()
    check.check_sockets(lab, Site(longest), notes)
    assert not notes.faults
    check.check_sockets(lab, Site(longest, "/srv/a-root-that-is-rather-long"), notes)
    (fault,) = notes.faults
    assert fault.path == f"lab:vms:{longest}" and "is too long; shorten names" in fault.problem


def test_b12_a_file_that_no_machine_could_read(tmp_path: Path) -> None:
    """Missing, no file at all, closed to the user that QEMU runs as, or no disc."""
    closed = tmp_path / "closed.iso"
    closed.write_bytes(b"x")
    os.chmod(closed, 0o600)
    for path, said in (
        (tmp_path / "none.iso", "cannot be used: No such file or directory"),
        (tmp_path, "is not a file"),
        (closed, "is not readable by the user qemulab: chmod o+r"),
    ):
        pillar = vm(cdrom=str(path), disks=[{"backing": str(path)}])
        assert faults_of_media(pillar) == [
            f"lab:vms:a:cdrom: {path} {said}",
            f"lab:vms:a:disks:0:backing: {path} {said}",
        ]
    other = tmp_path / "other.img"
    other.write_bytes(bytes(2**16))
    convert = "qemu-img convert -O qcow2 makes one of it"
    assert faults_of_media(vm(cdrom=str(other), disks=[{"backing": str(other)}])) == [
        f"lab:vms:a:cdrom: {other} is no image of a CD or DVD (ISO 9660 or UDF)",
        f"lab:vms:a:disks:0:backing: {other} is no qcow2 image: {convert}",
    ]
    other.write_bytes(bytes(16 * 2048) + b"\1CD001" + bytes(2041))
    assert faults_of_media(vm(cdrom=str(other))) == []


def faults_of_media(pillar: Any) -> list[str]:
    """Return the faults of the files that a pillar names."""
    notes = Notes()
    check.check_media(spec.from_pillar(pillar).lab, Site("lab"), notes)
    return sorted(str(fault) for fault in notes.faults)
