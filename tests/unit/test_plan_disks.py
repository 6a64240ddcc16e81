"""What a machine's disks need: to be made, to grow; or they are left alone, to lose no data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from _qemulab_pillar_keys import Disk
from _qemulab_plan_changes import CREATE
from _qemulab_plan_changes import LIVE
from _qemulab_plan_changes import RECREATE
from _qemulab_plan_changes import RESTART
from _qemulab_plan_diff import merged
from _qemulab_plan_status import Status
from _qemulab_plan_vm import VmFacts
from _qemulab_plan_vm import plan_vm

from tests.unit.test_plan import GIB
from tests.unit.test_plan import RUNNING
from tests.unit.test_plan import STOPPED
from tests.unit.test_plan import VM
from tests.unit.test_plan import changed
from tests.unit.test_plan import effects
from tests.unit.test_plan import one
from tests.unit.test_plan import shown


@pytest.mark.parametrize(
    ("facts", "size", "expected"),
    [
        (RUNNING, "60G", ("50G", "60G", LIVE)),
        (STOPPED, "60G", ("50G", "60G", LIVE)),
        (RUNNING, "40G", ("50G", "40G", RECREATE)),
        (STOPPED, "40G", ("50G", "40G", RECREATE)),
        (STOPPED._replace(disks={}), "40G", (None, "40G", CREATE)),
    ],
)
def test_a_disk_grows_but_never_shrinks(
    facts: VmFacts, size: str, expected: tuple[Any, Any, str]
) -> None:
    """The image's own size counts, not what was declared before."""
    declared = changed(VM, ["disks", "size"], size)
    change = one(plan_vm(facts, declared, "present"))
    assert (change.key, (change.old, change.new, change.effect)) == ("disks:hda:size", expected)


@pytest.mark.parametrize(("bus", "effect"), [("ide", RESTART), ("scsi", LIVE), ("virtio", LIVE)])
def test_a_disk_grows_when_its_guest_sees_it(bus: str, effect: str) -> None:
    """As it is plugged in now, not as it is declared; what waits stays as it was started."""
    now = replace(VM, disks=(Disk("hda", "50G", bus),))
    declared = replace(VM, disks=(Disk("hda", "60G", bus),))
    plan = plan_vm(RUNNING._replace(defined=now, started=now), declared, "running")
    assert effects(plan) == {"disks:hda:size": effect}
    grown = merged(now, declared, plan.waiting()).disks[0].size
    assert grown == ("50G" if effect == RESTART else "60G")
    off = STOPPED._replace(defined=now)
    assert effects(plan_vm(off, declared, "present")) == {"disks:hda:size": LIVE}


def test_a_size_that_was_declared_and_never_applied_is_still_wanted() -> None:
    """The second apply does what the first could not."""
    declared = changed(VM, ["disks", "size"], "60G")
    plan = plan_vm(STOPPED._replace(defined=declared), declared, "present")
    assert shown(plan.changes) == {"disks:hda:size": ("50G", "60G", LIVE)}


def test_another_backing_image_is_refused_until_the_disk_is_gone() -> None:
    """The one that is there has data on it; one that was removed is made anew."""
    declared = changed(VM, ["disks", "backing"], "/new.qcow2")
    plan = plan_vm(STOPPED, declared, "present")
    assert shown(plan.refused) == {"disks:hda:backing": ("/old.qcow2", "/new.qcow2", RECREATE)}
    plan = plan_vm(STOPPED._replace(disks={}), declared, "present")
    assert not plan.refused
    assert effects(plan) == {"disks:hda:backing": CREATE, "disks:hda:size": CREATE}


def test_a_new_disk_of_a_running_machine_waits_for_its_restart() -> None:
    """Of a machine that is off, it is just made."""
    declared = replace(VM, disks=(*VM.disks, Disk("data", "1G", "virtio")))
    expected = {
        "disks": (["hda"], ["hda", "data"], RESTART),
        "disks:data:bus": (None, "virtio", RESTART),
        "disks:data:size": (None, "1G", RESTART),
    }
    assert shown(plan_vm(RUNNING, declared, "running").pending) == expected
    plan = plan_vm(STOPPED, declared, "present")
    assert effects(plan) == {"disks": LIVE, "disks:data:bus": LIVE, "disks:data:size": CREATE}


def test_a_disk_that_is_no_longer_declared_is_not_removed() -> None:
    """It is unplugged with the next restart; no change destroys it."""
    plan = plan_vm(RUNNING, replace(VM, disks=()), "running")
    assert set(effects(plan).values()) == {RESTART}
    plan = plan_vm(STOPPED, replace(VM, disks=()), "present")
    assert set(effects(plan).values()) == {LIVE}


def test_another_order_of_disks_needs_a_restart() -> None:
    """The order is what is booted first."""
    two = replace(VM, disks=(Disk("a", "1G", "ide"), Disk("b", "1G", "ide")))
    facts = VmFacts(two, two, {"a": GIB, "b": GIB}, True, Status.RUNNING)
    plan = plan_vm(facts, replace(two, disks=two.disks[::-1]), "running")
    assert shown(plan.pending) == {"disks": (["a", "b"], ["b", "a"], RESTART)}
