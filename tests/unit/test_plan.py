"""The planner: each difference has the effect that its key says, and nothing else happens."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import _qemulab_pillar_spec as spec
import pytest
from _qemulab_pillar_keys import Forward
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Nic
from _qemulab_pillar_keys import Reservation
from _qemulab_pillar_keys import Vm
from _qemulab_plan_changes import BOOT
from _qemulab_plan_changes import CREATE
from _qemulab_plan_changes import DESTROY
from _qemulab_plan_changes import EFFECTS
from _qemulab_plan_changes import LIVE
from _qemulab_plan_changes import RECREATE
from _qemulab_plan_changes import RESTART
from _qemulab_plan_changes import STOP
from _qemulab_plan_changes import Change
from _qemulab_plan_changes import Plan
from _qemulab_plan_diff import merged
from _qemulab_plan_network import NetworkFacts
from _qemulab_plan_network import plan_network
from _qemulab_plan_network import plan_network_absent
from _qemulab_plan_status import Status
from _qemulab_plan_vm import VmFacts
from _qemulab_plan_vm import plan_vm
from _qemulab_plan_vm import plan_vm_absent
from _qemulab_plan_vm import plan_vm_stopped

GIB = 2**30
BASE = {
    "networks": {"vmlan": {}, "lan2": {"address": "10.0.4.1/24"}},
    "vms": {
        "a": {
            "display": "vnc",
            "disks": [{"backing": "/old.qcow2", "bus": "virtio"}],
            "nics": [
                {"network": "vmlan"},
                {"network": "user", "forwards": [{"host_port": 10022}]},
            ],
        }
    },
}
LAB = spec.from_pillar(BASE).lab
VM = LAB.vms["a"]
NET = LAB.networks["vmlan"]
RUNNING = VmFacts(VM, VM, {"hda": 50 * GIB}, True, Status.RUNNING)
STOPPED = VmFacts(VM, None, {"hda": 50 * GIB}, True)
NEW = VmFacts()
UP = NetworkFacts(NET, "up", True, True, True, ("a",))
IDLE = UP._replace(machines=())

# Another value for each key; a new key needs one here, and its true effect in its declaration.
OTHER_VM: dict[str, Any] = {
    "memory": 1024,
    "cpus": 1,
    "cpu": "max",
    "machine": "q35",
    "accel": "tcg",
    "firmware": "bios",
    "boot": "guest",
    "cdrom": "/a.iso",
    "display": "none",
    "vnc_port": 5901,
    "on_change": "restart",
    "autostart": True,
    "stop_grace": 1,
    "disks:name": "root",
    "disks:size": "51G",
    "disks:bus": "scsi",
    "disks:backing": "/new.qcow2",
    "nics:network": "lan2",
    "nics:mac": "52:54:00:00:00:99",
    "nics:model": "e1000",
    "nics:address": "10.0.3.7",
    "nics:connected": False,
    "nics:restrict": True,
    "nics:forwards:host_port": 10023,
    "nics:forwards:guest_port": 23,
    "nics:forwards:host_address": "0.0.0.0",
    "nics:forwards:protocol": "udp",
}
OTHER_NETWORK: dict[str, Any] = {
    "address": "10.0.3.2/24",
    "interface": "other",
    "multicast": "230.0.0.2:1234",
    "on_change": "restart",
    "autostart": True,
    "dhcp:range": "10.0.3.100-10.0.3.199",
    "dhcp:router": "none",
    "dhcp:lease_time": "2h",
    "dns:domain": "lan.example",
    "dns:upstream": "none",
    "dns:names": {"www": "10.0.3.9"},
}


def walk(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every key of a dataclass that holds a value, with the effect it declares."""
    for item in dataclasses.fields(cls):
        inside = item.metadata["of"]
        if inside is Reservation:
            continue  # has a state and a plan of its own
        if inside is not None:
            yield from walk(inside, f"{prefix}{item.name}:")
        else:
            yield f"{prefix}{item.name}", item.metadata["effect"]


def changed(thing: Any, path: list[str], value: Any) -> Any:
    """Return a declaration with one value changed; in a list, in its last item."""
    name, *deeper = path
    if not deeper:
        return replace(thing, **{name: value})
    inside = getattr(thing, name)
    if isinstance(inside, tuple):
        return replace(thing, **{name: (*inside[:-1], changed(inside[-1], deeper, value))})
    return replace(thing, **{name: changed(inside, deeper, value)})


def one(plan: Plan) -> Change:
    """Return the only change that a plan has, wherever it has it."""
    (change,) = plan.changes + plan.pending + plan.refused
    return change


def effects(plan: Plan) -> dict[str, str]:
    """Return the effect of each key that a plan changes, defers or refuses."""
    return {c.key: c.effect for c in plan.changes + plan.pending + plan.refused}


def shown(changes: tuple[Change, ...]) -> dict[str, tuple[Any, Any, str]]:
    """Return changes in a form that is short to compare."""
    return {change.key: (change.old, change.new, change.effect) for change in changes}


# Each key by itself


def test_every_key_has_another_value_to_test_it_with() -> None:
    """And every key that is tested exists."""
    assert {path for path, _ in walk(Vm)} == set(OTHER_VM)
    assert {path for path, _ in walk(Network)} == set(OTHER_NETWORK)


@pytest.mark.parametrize("path", OTHER_VM)
def test_a_changed_key_of_a_running_machine_has_its_declared_effect(path: str) -> None:
    """Every value but the changed one is as it was, so nothing else may show."""
    effect = dict(walk(Vm))[path]
    assert effect in (LIVE, BOOT, RESTART, RECREATE)
    plan = plan_vm(RUNNING, changed(VM, path.split(":"), OTHER_VM[path]), "running")
    if path == "disks:name":  # one disk goes and another comes
        assert set(effects(plan).values()) == {effect}
    else:
        assert one(plan).effect == effect
    assert bool(plan.changes) == (effect in (LIVE, BOOT))
    assert bool(plan.pending) == (effect == RESTART)
    assert bool(plan.refused) == (effect == RECREATE)


@pytest.mark.parametrize("path", OTHER_NETWORK)
def test_a_changed_key_of_a_network_in_use_has_its_declared_effect(path: str) -> None:
    """Machines that must reopen it are named where there are any."""
    effect = dict(walk(Network))[path]
    assert effect in (LIVE, BOOT, RESTART)
    plan = plan_network(UP, changed(NET, path.split(":"), OTHER_NETWORK[path]))
    assert one(plan).effect == effect
    assert plan.machines == (("a",) if effect == RESTART else ())
    assert bool(plan.pending) == (effect == RESTART)


@pytest.mark.parametrize("path", [path for path, effect in walk(Vm) if effect != RECREATE])
def test_nothing_costs_a_restart_on_a_machine_that_is_off(path: str) -> None:
    """What is off is started as it is declared."""
    plan = plan_vm(STOPPED, changed(VM, path.split(":"), OTHER_VM[path]), "present")
    assert set(effects(plan).values()) <= {LIVE, BOOT, CREATE}
    assert plan.changes and not plan.pending and not plan.refused


@pytest.mark.parametrize("path", OTHER_NETWORK)
def test_nothing_costs_a_restart_on_a_network_without_machines(path: str) -> None:
    """Nobody has to reopen it."""
    plan = plan_network(IDLE, changed(NET, path.split(":"), OTHER_NETWORK[path]))
    assert one(plan).effect in (LIVE, BOOT)
    assert plan.machines == ()


def test_every_effect_has_words() -> None:
    """So that documentation and states can say what it means."""
    assert set(EFFECTS) == {CREATE, LIVE, BOOT, RESTART, RECREATE, STOP, DESTROY}


# Machines


def test_a_machine_as_declared_changes_nothing() -> None:
    """The second apply is silent."""
    assert plan_vm(RUNNING, VM, "running") == Plan()
    assert plan_vm(RUNNING, VM, "present") == Plan()
    assert plan_vm(STOPPED, VM, "present") == Plan()


def test_a_new_machine_is_created_value_by_value() -> None:
    """Values that say nothing are no changes; what is generated is called so."""
    plan = plan_vm(NEW, VM, "running")
    assert shown(plan.changes) == {
        "memory": (None, 2048, CREATE),
        "cpus": (None, 2, CREATE),
        "machine": (None, "pc", CREATE),
        "accel": (None, "auto", CREATE),
        "firmware": (None, "uefi", CREATE),
        "boot": (None, "disk", CREATE),
        "disks": (None, ["hda"], CREATE),
        "disks:hda:size": (None, "50G", CREATE),
        "disks:hda:bus": (None, "virtio", CREATE),
        "disks:hda:backing": (None, "/old.qcow2", CREATE),
        "nics:0:network": (None, "vmlan", CREATE),
        "nics:0:mac": (None, VM.nics[0].mac, CREATE),
        "nics:0:model": (None, "virtio-net-pci", CREATE),
        "nics:0:connected": (None, True, CREATE),
        "nics:0:restrict": (None, False, CREATE),
        "nics:1:network": (None, "user", CREATE),
        "nics:1:mac": (None, VM.nics[1].mac, CREATE),
        "nics:1:model": (None, "virtio-net-pci", CREATE),
        "nics:1:connected": (None, True, CREATE),
        "nics:1:forwards": (None, ["127.0.0.1:10022 to 22/tcp"], CREATE),
        "nics:1:restrict": (None, False, CREATE),
        "display": (None, "vnc", CREATE),
        "on_change": (None, "report", CREATE),
        "autostart": (None, False, CREATE),
        "stop_grace": (None, 30, CREATE),
        "uefi_variables": (None, "generated", CREATE),
        "running": (False, True, CREATE),
    }
    assert not plan_vm(NEW, VM, "present").touches("running")


def test_a_machine_that_is_off_is_started_where_it_should_run() -> None:
    """Nothing is created by that."""
    plan = plan_vm(STOPPED, VM, "running")
    assert shown(plan.changes) == {"running": (False, True, LIVE)}


@pytest.mark.parametrize("status", ["paused", "io-error"])
def test_a_machine_that_was_halted_goes_on_where_it_should_run(status: str) -> None:
    """Its process is there; QEMU's own word is the old value."""
    plan = plan_vm(RUNNING._replace(status=Status(status)), VM, "running")
    assert shown(plan.changes) == {"running": (status, True, LIVE)}
    assert plan_vm(RUNNING._replace(status=Status(status)), VM, "present") == Plan()


@pytest.mark.parametrize("status", ["internal-error", "guest-panicked"])
def test_a_machine_whose_guest_is_dead_is_powered_off_and_on(status: str) -> None:
    """With whatever else waits for a restart: nobody is left to disturb."""
    plan = plan_vm(RUNNING._replace(status=Status(status)), replace(VM, memory=1024), "running")
    memory, running = (2048, 1024, RESTART), (status, True, RESTART)
    assert (shown(plan.changes), plan.pending) == ({"memory": memory, "running": running}, ())


def test_a_restart_is_done_only_where_it_was_asked_for() -> None:
    """Else it waits, and what needs none is done nevertheless."""
    declared = replace(VM, memory=1024, cdrom="/a.iso")
    plan = plan_vm(RUNNING, declared, "running")
    assert shown(plan.changes) == {"cdrom": (None, "/a.iso", LIVE)}
    assert shown(plan.pending) == {"memory": (2048, 1024, RESTART)}
    plan = plan_vm(RUNNING, replace(declared, on_change="restart"), "running")
    assert shown(plan.changes) == {
        "cdrom": (None, "/a.iso", LIVE),
        "on_change": ("report", "restart", LIVE),
        "memory": (2048, 1024, RESTART),
    }
    assert not plan.pending
    assert plan.has(RESTART)


def test_nothing_waits_on_a_machine_that_its_network_restarts() -> None:
    """It is powered off and on whatever its own declaration says."""
    declared = replace(VM, memory=1024)
    plan = plan_vm(RUNNING, declared, "running", restarted=True)
    assert shown(plan.changes) == {"memory": (2048, 1024, RESTART)}
    assert not plan.pending


def test_a_pending_change_stays_pending_after_it_was_defined() -> None:
    """What runs is what it was started with, whatever is stored."""
    declared = replace(VM, memory=1024)
    plan = plan_vm(RUNNING._replace(defined=declared), declared, "running")
    assert shown(plan.pending) == {"memory": (2048, 1024, RESTART)}
    assert not plan.changes


def test_a_nic_that_is_plugged_in_elsewhere_changes_nothing_live() -> None:
    """Its forwards and its cable come with the restart."""
    nics = (VM.nics[0], replace(VM.nics[1], network="vmlan", forwards=(), connected=False))
    plan = plan_vm(RUNNING, replace(VM, nics=nics), "running")
    assert effects(plan) == dict.fromkeys(
        ("nics:1:network", "nics:1:forwards", "nics:1:connected"), RESTART
    )


def test_a_nic_that_comes_or_goes_needs_a_restart() -> None:
    """With all of its values."""
    added = replace(VM, nics=(*VM.nics, Nic("user", "52:54:00:00:00:07", forwards=(Forward(7),))))
    assert set(effects(plan_vm(RUNNING, added, "running")).values()) == {RESTART}
    fewer = plan_vm(RUNNING, replace(VM, nics=VM.nics[:1]), "running")
    assert set(effects(fewer).values()) == {RESTART}
    assert one(Plan(tuple(c for c in fewer.pending if c.key == "nics:1:mac"))).new is None


@pytest.mark.parametrize("path", OTHER_VM)
def test_what_was_done_live_is_left_out_of_the_next_plan(path: str) -> None:
    """After it, only what waits for a restart or is refused is left."""
    declared = changed(VM, path.split(":"), OTHER_VM[path])
    now = merged(VM, declared, plan_vm(RUNNING, declared, "running").waiting())
    grown = {disk.name: 51 * GIB if path == "disks:size" else 50 * GIB for disk in declared.disks}
    plan = plan_vm(VmFacts(declared, now, grown, True, Status.RUNNING), declared, "running")
    assert not plan.changes
    effect = dict(walk(Vm))[path]
    assert (effect in (LIVE, BOOT)) == (plan == Plan())


# Machines that stop or go


def test_stopping_and_removing_say_what_they_cost() -> None:
    """Disks go only with a purge."""
    assert shown(plan_vm_stopped(True).changes) == {"running": (True, False, STOP)}
    assert plan_vm_stopped(False) == Plan()
    gone = {"running": (True, False, STOP), "definition": ("present", None, STOP)}
    assert shown(plan_vm_absent(RUNNING, False).changes) == gone
    assert shown(plan_vm_absent(RUNNING, True).changes) == {
        **gone,
        "disks:hda": ("50G", None, DESTROY),
        "uefi_variables": ("generated", None, DESTROY),
    }
    assert plan_vm_absent(NEW, True) == Plan()
    # A machine without disks that was taken away before has its host key left.
    assert shown(plan_vm_absent(NEW, True, left=True).changes) == {
        "files": ("present", None, DESTROY)
    }
    assert plan_vm_absent(NEW, False, left=True) == Plan()


# Networks


def test_a_network_as_declared_changes_nothing() -> None:
    """Whether machines sit on it or not."""
    assert plan_network(UP, NET) == Plan()
    assert plan_network(IDLE, NET) == Plan()


def test_a_new_network_is_created_with_its_link_and_processes() -> None:
    """Its values, then what serves them."""
    plan = plan_network(NetworkFacts(), NET)
    assert {change.effect for change in plan.changes} == {CREATE}
    assert shown(plan.changes[-4:]) == {
        "link": ("absent", "up", CREATE),
        "route": ("absent", "loopback", CREATE),
        "hub": ("stopped", "running", CREATE),
        "dnsmasq": ("stopped", "running", CREATE),
    }


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (UP._replace(link="no address"), {"link": ("no address", "up", LIVE)}),
        (UP._replace(link="down"), {"link": ("down", "up", LIVE)}),
        (UP._replace(route=False), {"route": ("absent", "loopback", LIVE)}),
        (UP._replace(hub=False), {"hub": ("stopped", "running", LIVE)}),
        (UP._replace(dnsmasq=False), {"dnsmasq": ("stopped", "running", LIVE)}),
    ],
)
def test_what_has_failed_of_a_network_is_put_right(facts: NetworkFacts, expected: Any) -> None:
    """Each part by itself, and no machine has to be restarted for it."""
    plan = plan_network(facts, NET)
    assert shown(plan.changes) == expected
    assert plan.machines == ()


def test_an_address_takes_its_range_with_it() -> None:
    """All waits together, or is done together where that was asked for."""
    pillar = {"networks": {"vmlan": {"address": "10.0.9.1/24"}}}
    moved = spec.from_pillar(pillar).lab.networks["vmlan"]
    plan = plan_network(UP, moved)
    assert not plan.changes
    assert shown(plan.pending) == {
        "address": ("10.0.3.1/24", "10.0.9.1/24", RESTART),
        "dhcp:range": ("10.0.3.100-10.0.3.200", "10.0.9.100-10.0.9.200", RESTART),
        "dhcp:router": ("10.0.3.101", "10.0.9.101", RESTART),
    }
    plan = plan_network(UP, replace(moved, on_change="restart"))
    assert not plan.pending
    assert plan.machines == ("a",)
    assert plan.has(RESTART)


def test_a_machine_that_has_yet_to_reopen_its_network_is_restarted_alone() -> None:
    """Or waits; one that the network as it is would leave behind."""
    facts = UP._replace(machines=("a", "b"), waiting=("b",))
    expected = {"machines:b": ("on the network as it was", "restarted", RESTART)}
    plan = plan_network(facts, NET)
    assert (plan.changes, shown(plan.pending), plan.machines) == ((), expected, ("b",))
    may = replace(NET, on_change="restart")
    plan = plan_network(facts._replace(defined=may), may)
    assert (shown(plan.changes), plan.pending, plan.machines) == (expected, (), ("b",))
    plan = plan_network(facts, replace(may, multicast="230.0.0.9:1234"))
    assert plan.machines == ("a", "b")


def test_reservations_are_no_part_of_a_networks_plan() -> None:
    """They are things of their own."""
    reserved = replace(NET, reservations={"m": Reservation("52:54:00:00:00:01", "10.0.3.5")})
    assert plan_network(UP, reserved) == Plan()


def test_a_network_that_goes_says_what_is_taken_down() -> None:
    """And leaves an interface alone that is not its own."""
    assert shown(plan_network_absent(UP).changes) == {
        "hub": ("running", "stopped", STOP),
        "dnsmasq": ("running", "stopped", STOP),
        "link": ("up", "absent", STOP),
        "route": ("loopback", "absent", STOP),
        "definition": ("present", None, STOP),
    }
    assert plan_network_absent(NetworkFacts(link="other")) == Plan()
    assert plan_network_absent(NetworkFacts()) == Plan()
