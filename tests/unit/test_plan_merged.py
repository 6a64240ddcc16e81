"""
What a thing is after its plan, and what takes each change up: for every key that there is.

A new key needs a value in the tables of ``test_plan.py``, and no other line here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import _qemulab_lan_dnsmasq_files as dnsmasq
import _qemulab_pillar_keys as keys
import _qemulab_vm_live as live
import pytest
from _qemulab_lan_dnsmasq_files import Files
from _qemulab_pillar_keys import TAKERS
from _qemulab_pillar_keys import Disk
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Nic
from _qemulab_pillar_keys import Reservation
from _qemulab_pillar_keys import Vm
from _qemulab_plan_changes import BOOT
from _qemulab_plan_changes import LIVE
from _qemulab_plan_changes import RECREATE
from _qemulab_plan_changes import RESTART
from _qemulab_plan_changes import Plan
from _qemulab_plan_diff import differences
from _qemulab_plan_diff import leaves
from _qemulab_plan_diff import merged
from _qemulab_plan_network import plan_network
from _qemulab_plan_vm import plan_vm
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_plan import NET
from tests.unit.test_plan import OTHER_NETWORK
from tests.unit.test_plan import OTHER_VM
from tests.unit.test_plan import RUNNING
from tests.unit.test_plan import UP
from tests.unit.test_plan import VM
from tests.unit.test_plan import changed
from tests.unit.test_plan import walk

NEW_NIC = Nic("vmlan", "52:54:00:00:00:07", address="10.0.3.9", forwards=())
NEW_DISK = Disk("data", "1G", "virtio")
LISTS: list[dict[str, Any]] = [
    {},
    {"nics": VM.nics[:1]},
    {"nics": ()},
    {"nics": (*VM.nics, NEW_NIC)},
    {"nics": VM.nics[::-1]},
    {"disks": ()},
    {"disks": (*VM.disks, NEW_DISK)},
    {"disks": (NEW_DISK, *VM.disks)},
]
"""Lists that have lost or got an item, or have them in another order."""
NAMES = [{}, {"a": "10.0.3.8"}, {"b": "10.0.3.9"}, {"a": "10.0.3.9", "b": "10.0.3.8"}]


def took_over_what_it_said(old: Any, declared: Any, plan: Plan) -> None:
    """Hold that what changes is as declared, that what waits is as it was, and nothing else."""
    now = merged(old, declared, plan.waiting())
    done = {change.path for change in differences(leaves(old), leaves(now))}
    left = {change.path for change in differences(leaves(now), leaves(declared))}
    assert done == {change.path for change in plan.changes}
    assert left == plan.waiting()


@given(st.sets(st.sampled_from(sorted(OTHER_VM))), st.sampled_from(LISTS))
def test_a_machine_takes_over_what_changes_and_keeps_what_waits(
    others: set[str], lists: dict[str, Any]
) -> None:
    """Whatever keys change together, and whatever disks and NICs come or go with that."""
    declared = VM
    for path in others:
        declared = changed(declared, path.split(":"), OTHER_VM[path])
    declared = replace(declared, **lists)
    plan = plan_vm(RUNNING, declared, "running")
    if not plan.refused:  # of which nothing is done
        took_over_what_it_said(VM, declared, plan)


@given(
    st.sets(st.sampled_from(sorted(OTHER_NETWORK))), st.sampled_from(NAMES), st.sampled_from(NAMES)
)
def test_a_network_takes_over_what_changes_and_keeps_what_waits(
    others: set[str], before: dict[str, str], after: dict[str, str]
) -> None:
    """A range or a name may have to wait although others of its mapping do not."""
    old = replace(NET, dns=replace(NET.dns, names=before))
    declared = replace(NET, dns=replace(NET.dns, names=after))
    for path in others:
        declared = changed(declared, path.split(":"), OTHER_NETWORK[path])
    took_over_what_it_said(old, declared, plan_network(UP._replace(defined=old), declared))


def test_a_disk_grows_live_while_their_order_waits() -> None:
    """Members go by their names, wherever they stand."""
    old = replace(VM, disks=(Disk("a", "1G", "virtio"), Disk("b", "1G", "virtio")))
    declared = replace(VM, disks=(Disk("b", "2G", "virtio"), Disk("a", "1G", "virtio")))
    now = merged(old, declared, {("disks",)})
    assert now.disks == (Disk("a", "1G", "virtio"), Disk("b", "2G", "virtio"))


def taken(cls: type[Any]) -> dict[str, tuple[str, str]]:
    """Return the effect of each key and what takes it up."""
    effects = dict(walk(cls))
    value: Any = {Vm: VM, Network: NET}[cls]
    found = {}
    for path, effect in effects.items():
        where, *deeper = path.split(":")
        item = next(f for f in value.__dataclass_fields__.values() if f.name == where)
        for name in deeper:
            item = item.metadata["of"].__dataclass_fields__[name]
        found[path] = effect, item.metadata["takes"]
    return found


MACHINE = {keys.START, keys.QMP, keys.UNIT, keys.NAMES, keys.DISK, keys.NOTHING}
NETWORK = {keys.LINK, keys.SERVER, keys.NAMES, keys.UNIT, keys.NOTHING}
OF_EFFECT = {
    LIVE: set(TAKERS) - {keys.START, keys.DISK},
    BOOT: {keys.UNIT},
    RESTART: {keys.START, keys.LINK},
    RECREATE: {keys.DISK},
}


@pytest.mark.parametrize(("cls", "allowed"), [(Vm, MACHINE), (Network, NETWORK)])
def test_something_takes_every_key_up(cls: type[Any], allowed: set[str]) -> None:
    """And it can: nothing that runs takes up what only a start reads."""
    for path, (effect, takes) in taken(cls).items():
        assert takes in allowed & OF_EFFECT[effect], path


def test_every_taker_has_a_key_and_a_meaning() -> None:
    """No word is left over."""
    used = {takes for cls in (Vm, Network) for _, takes in taken(cls).values()}
    assert used == set(TAKERS)
    assert all(
        field.metadata["takes"] in TAKERS for field in Reservation.__dataclass_fields__.values()
    )


@pytest.mark.parametrize(
    "path", [path for path, (_, takes) in taken(Vm).items() if takes == keys.QMP]
)
def test_what_qemu_is_told_has_a_step(path: str) -> None:
    """After the last of which the machine is as declared."""
    declared = changed(VM, path.split(":"), OTHER_VM[path])
    *_, last = live.steps(VM, declared, RUNNING)
    assert last.after == declared


@pytest.mark.parametrize("path", [path for path, (_, takes) in taken(Network).items()])
def test_the_server_of_a_network_reads_what_is_said_that_it_reads(
    path: str, tmp_path: Path
) -> None:
    """What it reads at its start alone, and what it reads again."""
    declared = changed(NET, path.split(":"), OTHER_NETWORK[path])
    files, takes = Files(tmp_path), taken(Network)[path][1]

    def at_start(network: Network) -> str:
        return dnsmasq.configuration(network, files, "52:54:00:00:00:01", [])

    said = at_start(NET) != at_start(declared)
    assert said == (takes == keys.SERVER) or takes == keys.LINK
    assert (NET.dns.names != declared.dns.names) == (takes == keys.NAMES)
