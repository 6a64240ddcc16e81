"""
What is named of what is made, and how a declaration reaches its state: for any declaration.
"""

from __future__ import annotations

from typing import Any

import _qemulab_pillar_spec as spec
import pytest
from _qemulab_pillar_schema import arguments
from _qemulab_plan_changes import words
from _qemulab_plan_network import NetworkFacts
from _qemulab_plan_network import plan_network
from _qemulab_plan_shown import named
from _qemulab_plan_vm import VmFacts
from _qemulab_plan_vm import plan_vm
from hypothesis import given
from hypothesis import strategies as st

SAID: dict[str, Any] = {
    "memory": 2048,
    "cpus": 2,
    "cpu": "max",
    "machine": "q35",
    "accel": "auto",
    "firmware": "bios",
    "boot": "guest",
    "cdrom": "/srv/a.iso",
    "display": "none",
    "on_change": "report",
    "autostart": False,
    "stop_grace": 30,
}
"""A value for each plain key of a machine; of some the default, which is named if declared."""

DISK = {"name": "root", "size": "1G", "bus": "virtio", "backing": "/srv/b.qcow2"}
LAN = {"network": "one", "mac": "52:54:00:00:00:09", "model": "e1000", "connected": True}
USER = {"network": "user", "restrict": False, "forwards": [{"host_port": 22022, "guest_port": 80}]}
NETWORK: dict[str, Any] = {
    "address": "10.0.3.1/24",
    "interface": "tap0",
    "multicast": "239.1.2.3:4000",
    "dhcp": {"range": "10.0.3.10-10.0.3.20", "router": "none", "lease_time": "1h"},
    "dns": {"upstream": "none", "names": {"a": "10.0.3.9"}},
    "on_change": "report",
    "autostart": False,
}


def some(keys: dict[str, Any], always: tuple[str, ...] = ()) -> st.SearchStrategy[dict[str, Any]]:
    """Return mappings with any of the keys; those of mappings inside likewise."""
    required, optional = {}, {}
    for key, value in keys.items():
        values = some(value) if isinstance(value, dict) and key != "names" else st.just(value)
        (required if key in always else optional)[key] = values
    return st.fixed_dictionaries(required, optional=optional)


NICS = st.lists(some(LAN) | some(USER, ("network",)), max_size=3)
VMS = st.builds(
    lambda plain, inside: {**plain, **inside},
    some(SAID),
    st.fixed_dictionaries({}, optional={"disks": st.lists(some(DISK), max_size=2), "nics": NICS}),
)


def lab_of(vms: Any, network: Any) -> dict[str, Any]:
    """Return a pillar whose disks and NICs do not contradict each other."""
    for vm in vms.values():
        for key in ("name", "mac", "forwards"):
            seen = False
            for item in [*vm.get("disks", []), *vm.get("nics", [])]:
                if key in item and (seen or len(vms) > 1):
                    del item[key]
                seen = seen or key in item
    return {"vms": vms, "networks": {"one": network}}


@given(st.lists(VMS, min_size=1, max_size=3), some(NETWORK))
def test_every_declaration_reaches_its_state(vms: list[Any], network: Any) -> None:
    """Read again by itself, whether its network is there yet or not; and nothing is put into it."""
    pillar = lab_of({f"vm{index}": vm for index, vm in enumerate(vms)}, network)
    lab, notes = spec.survey(pillar)
    assert lab is not None and not notes.faults
    for name, vm in lab.vms.items():
        said = arguments(vm, pillar["vms"][name])
        assert spec.vm_from(name, said, lab.name, lab.networks) == vm
        assert spec.vm_from(name, said, lab.name, {}) == vm
        assert said.keys() - pillar["vms"][name].keys() <= {"nics"}
    said = arguments(lab.networks["one"], network)
    assert spec.network_from("one", said, lab.name) == lab.networks["one"]
    assert said.keys() - network.keys() <= {"multicast", "dns"}


def leaves_of(declared: Any, prefix: str = "") -> set[str]:
    """Return the keys of all that a declaration says, as a plan has them."""
    found = set()
    for key, value in declared.items():
        if key == "disks":
            for index, disk in enumerate(value):
                name = disk.get("name", "hd" + "ab"[index])
                found |= leaves_of(disk, f"disks:{name}:") - {f"disks:{name}:name"}
        elif key == "nics":
            for index, nic in enumerate(value):
                found |= leaves_of(nic, f"nics:{index}:")
        elif isinstance(value, dict):
            found |= leaves_of(value, f"{prefix}{key}:")
        else:
            found.add(prefix + key)
    return found


@given(VMS)
def test_what_is_made_names_what_was_declared_and_what_was_made_for_it(declared: Any) -> None:
    """And no other value: of those there are twenty, the same for every lab."""
    pillar = lab_of({"a": declared}, {})
    lab = spec.from_pillar(pillar).lab
    vm = lab.vms["a"]
    changes = plan_vm(VmFacts(), vm, "running").changes
    found = set(words(named(changes, vm, declared)))
    made = {f"disks:{disk.name}:size" for disk in vm.disks} | {"running", "uefi_variables"}
    for index in range(len(vm.nics)):
        made |= {f"nics:{index}:{key}" for key in ("network", "mac", "forwards")}
    assert found - made <= leaves_of(declared) | {"disks"}
    assert (leaves_of(declared) | made) & set(words(changes)) <= found
    assert ("disks" in found) == (declared.get("disks") == [])


@given(some(NETWORK))
def test_a_network_names_what_was_declared_its_group_and_its_domain(declared: Any) -> None:
    """And what comes up on the host."""
    network = spec.network_from("one", declared, "lab")
    plan = plan_network(NetworkFacts(), network)
    found = set(words(named(plan.changes, network, declared)))
    made = {"multicast", "dns:domain", "link", "route", "hub", "dnsmasq"}
    assert found == (leaves_of(declared) | made)


def test_what_is_there_already_is_named_whole() -> None:
    """A default that takes the place of another value; what goes away; a disk that is new."""
    old = spec.vm_from("a", {"memory": 64, "nics": [], "disks": []}, "lab", {})
    new = spec.vm_from("a", {"nics": []}, "lab", {})
    facts = VmFacts(defined=old, has_variables=True)
    changes = plan_vm(facts, new, "present").changes
    assert words(named(changes, new, {"nics": []})) == {
        "memory": {"old": 64, "new": 2048, "effect": "live"},
        "disks": {"old": [], "new": ["hda"], "effect": "live"},
        "disks:hda:size": {"old": None, "new": "50G", "effect": "create"},
    }


@pytest.mark.parametrize("declared", [None, {}])
def test_something_is_named_of_a_thing_that_nothing_was_declared_for(declared: Any) -> None:
    """A dry run with no change would say that all is well."""
    vm = spec.vm_from("a", {"nics": [], "disks": [], "firmware": "bios"}, "lab", {})
    changes = plan_vm(VmFacts(), vm, "present").changes
    assert named(changes, vm, declared) == changes != ()
