"""A pillar is read whole: every default is the recipe's, every fault is reported at once."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import _qemulab_pillar_spec as spec
import pytest
import yaml
from _qemulab_pillar_keys import Dhcp
from _qemulab_pillar_keys import Disk
from _qemulab_pillar_keys import Dns
from _qemulab_pillar_keys import Forward
from _qemulab_pillar_keys import Lab
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Nic
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_kinds import SpecError
from _qemulab_pillar_schema import compact
from _qemulab_pillar_schema import plain


def vm(**keys: Any) -> dict[str, Any]:
    """Return a pillar with one machine, ``a``."""
    return {"vms": {"a": keys}}


def network(**keys: Any) -> dict[str, Any]:
    """Return a pillar with one network, ``vmlan``."""
    return {"networks": {"vmlan": keys}}


VMLAN = Network(
    address="10.0.3.1/24",
    interface="vmlan",
    multicast="230.0.0.1:1234",
    dhcp=Dhcp(range="10.0.3.100-10.0.3.200", router="10.0.3.101", lease_time="1h"),
    dns=Dns(domain="lab.internal"),
)


def recipe_vm(number: int) -> Vm:
    """Return one of the recipe's machines, every value spelled out."""
    octets = ":".join([str(11 * number)] * 3)
    return Vm(
        memory=2048,
        cpus=2,
        machine="pc",
        firmware="uefi",
        boot="guest",
        cdrom="",
        disks=(Disk(name="hda", size="50G", bus="ide"),),
        nics=(
            Nic(
                network="vmlan",
                mac=f"00:00:00:{octets}",
                address=f"10.0.3.{100 + number}",
                model="virtio-net-pci",
                forwards=(),
            ),
            Nic(
                network="user",
                mac=f"10:00:00:{octets}",
                model="virtio-net-pci",
                forwards=(Forward(10021 + number, 22, "127.0.0.1", "tcp"),),
            ),
        ),
    )


RECIPE = Lab(
    name="lab",
    networks={"vmlan": VMLAN},
    vms={"master": recipe_vm(1), "worker1": recipe_vm(2), "worker2": recipe_vm(3)},
)


# What the pillar does not say


@pytest.mark.parametrize("pillar", [None, {}, {"networks": None, "vms": {}}])
def test_a_pillar_that_says_nothing_is_an_empty_lab(pillar: Any) -> None:
    """Nothing is made that nobody asked for."""
    assert spec.from_pillar(pillar) == spec.Declared(Lab(name="lab"))


def test_the_example_is_the_recipe(repo: Path) -> None:
    """What a user copies has the recipe's values, without a fault or a warning."""
    pillar = yaml.safe_load((repo / "pillar.example").read_text(encoding="utf-8"))
    assert spec.from_pillar(pillar["lab"]) == spec.Declared(RECIPE)


def test_macs_without_quotes_are_decoded_with_a_warning(repo: Path) -> None:
    """YAML reads three of the recipe's as numbers; the lab is the same."""
    text = (repo / "pillar.example").read_text(encoding="utf-8").replace("'", "")
    declared = spec.from_pillar(yaml.safe_load(text)["lab"])
    assert declared.lab == RECIPE
    assert [str(warning) for warning in declared.warnings] == [
        "lab:vms:master:nics:1:mac: YAML read this MAC address as the number 7776040271: quote "
        "it, '10:00:00:11:11:11'",
        "lab:vms:worker1:nics:1:mac: YAML read this MAC address as the number 7776080542: quote "
        "it, '10:00:00:22:22:22'",
        "lab:vms:worker2:nics:1:mac: YAML read this MAC address as the number 7776120813: quote "
        "it, '10:00:00:33:33:33'",
    ]


@pytest.mark.parametrize("declaration", [None, {}])
def test_a_machine_that_says_nothing_is_the_recipes(declaration: Any) -> None:
    """It brings the recipe's network; only what tells it from others comes from its name."""
    lab = spec.from_pillar({"vms": {"master": declaration}}).lab
    assert lab.networks == {"vmlan": VMLAN}
    made = lab.vms["master"]
    macs = [nic.mac for nic in made.nics]
    assert all(re.fullmatch("52:54:00(:[0-9a-f]{2}){3}", mac) for mac in macs)
    assert len(set(macs)) == 2
    nics = [
        dataclasses.replace(nic, mac=wanted.mac, address=wanted.address)
        for nic, wanted in zip(made.nics, recipe_vm(1).nics, strict=True)
    ]
    assert dataclasses.replace(made, nics=tuple(nics)) == recipe_vm(1)


def test_generated_values_are_the_same_every_time_and_differ_by_name() -> None:
    """A MAC address, a group and a UUID belong to lab and name, not to an order or a host."""
    assert spec.default_mac("lab", "master", 0) == spec.default_mac("lab", "master", 0)
    assert spec.default_mac("lab", "master", 0) != spec.default_mac("lab2", "master", 0)
    assert spec.default_group("lab", "vmlan") == "230.0.0.1:1234"
    others = {spec.default_group("lab2", "vmlan"), spec.default_group("lab", "lan2")}
    assert len(others) == 2
    for group in others:
        assert re.fullmatch(r"239\.19[2-5]\.\d+\.\d+:1234", group)
    assert spec.vm_uuid("lab", "master") == spec.vm_uuid("lab", "master")
    assert spec.vm_uuid("lab", "master") != spec.vm_uuid("lab2", "master")


def test_a_network_elsewhere_has_range_and_router_of_its_own() -> None:
    """The recipe's numbers, in the network that is declared."""
    lab = spec.from_pillar({"networks": {"lan2": {"address": "172.16.5.1/16"}}}).lab
    made = lab.networks["lan2"]
    assert made.interface == "lan2"
    assert made.dhcp == Dhcp(range="172.16.0.100-172.16.0.200", router="172.16.0.101")


def test_a_small_network_hands_out_no_router() -> None:
    """Number 101 is not in it."""
    pillar = network(address="10.0.3.1/28", dhcp={"range": "10.0.3.2-10.0.3.9"})
    assert spec.from_pillar(pillar).lab.networks["vmlan"].dhcp.router == "none"


@pytest.mark.parametrize(
    ("keys", "boot"),
    [
        ({}, "guest"),
        ({"disks": []}, "guest"),
        ({"cdrom": "/a.iso"}, "cdrom"),
        ({"disks": [{"backing": "/a.qcow2"}]}, "disk"),
        ({"disks": [{"backing": "/a.qcow2"}], "cdrom": "/a.iso"}, "cdrom"),
        ({"cdrom": "/a.iso", "boot": "guest"}, "guest"),
    ],
)
def test_what_is_booted_follows_from_what_is_there(keys: dict[str, Any], boot: str) -> None:
    """A disc first, then an installed disk, else the built-in guest."""
    assert spec.from_pillar(vm(**keys)).lab.vms["a"].boot == boot


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("pc", [("hda", "ide"), ("hdb", "ide"), ("hdc", "ide"), ("hdd", "scsi")]),
        ("q35", [("hda", "scsi"), ("hdb", "scsi"), ("hdc", "scsi"), ("hdd", "scsi")]),
    ],
)
def test_disks_are_named_and_attached_by_position(
    machine: str, expected: list[tuple[str, str]]
) -> None:
    """As -hda, -hdb and -hdc do; further ones need another controller."""
    made = spec.from_pillar(vm(machine=machine, disks=[{}, None, {}, {}])).lab.vms["a"]
    assert [(disk.name, disk.bus) for disk in made.disks] == expected


def test_ssh_ports_are_given_from_10022_around_those_that_are_taken() -> None:
    """By forwards and by screens; an empty list asks for none."""
    pillar = {
        "vms": {
            "a": {},
            "b": {"nics": [{"network": "user", "forwards": [{"host_port": 10022}]}]},
            "c": {"display": "vnc", "vnc_port": 10023},
            "d": {"nics": [{"network": "user", "forwards": []}, {"network": "user"}]},
        }
    }
    vms = spec.from_pillar(pillar).lab.vms
    ports = {
        name: [[forward.host_port for forward in nic.forwards or ()] for nic in made.nics]
        for name, made in vms.items()
    }
    assert ports == {"a": [[], [10024]], "b": [[10022]], "c": [[], [10025]], "d": [[], []]}


# There and back

MAC_1 = "52:54:00:00:00:01"
FULL = {
    "name": "lab2",
    "authorized_keys": ["ssh-ed25519 AAAA me"],
    "prune": "stop",
    "networks": {
        "one": {
            "address": "10.0.3.129/26",
            "dhcp": {"range": "10.0.3.140-10.0.3.150", "lease_time": "infinite"},
            "dns": {"upstream": ["9.9.9.9"], "names": {"www.lab": "10.0.3.141"}},
            "reservations": {"m": {"mac": MAC_1, "address": "10.0.3.141"}},
            "on_change": "restart",
            "autostart": True,
        },
        "two": {"address": "10.0.4.1/24", "dns": {"upstream": []}, "dhcp": {"router": "none"}},
    },
    "vms": {
        "a": {"disks": [], "nics": [], "cdrom": "/a, b.iso"},
        "b": {
            "nics": [
                {"network": "user", "restrict": True, "forwards": []},
                {"network": "two", "model": "e1000", "connected": False},
                {"network": "user", "forwards": [{"host_port": 53, "protocol": "udp"}]},
            ],
            "disks": [{"name": "root", "backing": "/b.qcow2"}, {"bus": "virtio", "size": "1T"}],
            "display": "vnc",
            "vnc_port": 5901,
            "machine": "q35",
            "cpu": "max",
        },
    },
}


@pytest.mark.parametrize("pillar", [{}, {"vms": {"a": {}}}, FULL], ids=["empty", "small", "full"])
def test_a_lab_survives_every_way_that_it_travels(pillar: Any) -> None:
    """As a state's arguments, as JSON on disk, and through Salt's YAML."""
    lab = spec.from_pillar(pillar).lab
    assert spec.from_pillar(compact(lab)).lab == lab
    assert spec.from_pillar(yaml.safe_load(yaml.safe_dump(compact(lab)))).lab == lab
    assert spec.stored(Lab, json.loads(json.dumps(plain(lab)))) == lab
    for name, made in lab.vms.items():
        assert spec.vm_from(name, compact(made), lab.name, lab.networks) == made
        assert spec.stored(Vm, json.loads(json.dumps(plain(made)))) == made
    for name, made in lab.networks.items():
        assert spec.network_from(name, compact(made), lab.name) == made
        assert spec.stored(Network, json.loads(json.dumps(plain(made)))) == made


def test_what_another_version_stored_is_read_as_far_as_it_is_known() -> None:
    """Keys that are new there are passed over, at every depth."""
    lab = spec.from_pillar(FULL).lab
    stored = plain(lab.vms["b"])
    stored["colour"] = "red"
    stored["nics"][0]["colour"] = "red"
    assert spec.stored(Vm, stored) == lab.vms["b"]
    with pytest.raises(SpecError):
        spec.stored(Vm, "damaged")


# One thing by itself


def test_a_machine_may_sit_on_a_network_that_is_not_there_yet() -> None:
    """In a dry run it comes before the network does."""
    made = spec.vm_from("a", {"nics": [{"network": "later"}]}, "lab", {})
    assert made.nics[0].network == "later"


def test_one_thing_by_itself_is_checked_as_in_the_pillar() -> None:
    """With the same paths."""
    for read, path in (
        (lambda: spec.vm_from("a", {"boot": "cdrom"}, "lab", {}), "lab:vms:a:boot"),
        (lambda: spec.vm_from("a b", {}, "lab", {}), "lab:vms:a b"),
        (lambda: spec.vm_from("a", {}, "l ab", {}), "lab:name"),
        (
            lambda: spec.network_from("a", {"dhcp": {"router": "1.1.1.1"}}, "lab"),
            "lab:networks:a:dhcp:router",
        ),
        (
            lambda: spec.reservation_from("a", {"mac": MAC_1}, "lan"),
            "lab:networks:lan:reservations:a:address",
        ),
    ):
        with pytest.raises(SpecError) as caught:
            read()
        assert [fault.path for fault in caught.value.faults] == [path]
