"""What is left where a supervisor was killed, or its definitions were removed."""

from __future__ import annotations

import dataclasses

import _qemulab_pillar_spec as spec
from _qemulab_plan_changes import LIVE
from _qemulab_plan_changes import RESTART
from _qemulab_plan_changes import Change
from _qemulab_plan_changes import Plan
from _qemulab_plan_changes import fact
from _qemulab_plan_network import NetworkFacts
from _qemulab_plan_network import plan_network
from _qemulab_plan_network import plan_network_absent
from _qemulab_plan_status import Status
from _qemulab_plan_vm import VmFacts
from _qemulab_plan_vm import plan_vm

LAB = spec.from_pillar({"vms": {"a": {}}}).lab
VM = LAB.vms["a"]
NET = LAB.networks["vmlan"]
RUNNING = VmFacts(VM, VM, {"hda": 50 * 2**30}, True, Status.RUNNING)
STOPPED = RUNNING._replace(started=None, status=Status.STOPPED)
UP = NetworkFacts(NET, "up", True, True, True, ("a",))


def shown(changes: tuple[Change, ...]) -> dict[str, tuple[object, object, str]]:
    """Return changes in a form that is short to compare."""
    return {change.key: (change.old, change.new, change.effect) for change in changes}


def test_a_machine_without_its_supervisor_waits_for_a_restart() -> None:
    """It goes on running; what would give it a supervisor again is for its user to say."""
    lost = RUNNING._replace(status=Status.UNMANAGED, supervised=False, unit=False)
    change = fact("supervised", False, True, RESTART)
    assert plan_vm(lost, VM, "running") == Plan(pending=(change,))
    may = dataclasses.replace(VM, on_change="restart")
    plan = plan_vm(lost._replace(defined=may, started=may), may, "running")
    assert plan == Plan((change,))


def test_a_definition_that_is_gone_is_made_again_live() -> None:
    """Of a machine that runs; one that is off gets it with its next start."""
    lost = plan_vm(RUNNING._replace(unit=False), VM, "running")
    assert shown(lost.changes) == {"unit": ("absent", "present", LIVE)}
    assert plan_vm(STOPPED._replace(unit=False), VM, "present") == Plan()
    lost = plan_network(UP._replace(units=False), NET)
    assert shown(lost.changes) == {"units": ("absent", "present", LIVE)}


def test_processes_without_their_supervisor_are_replaced() -> None:
    """Nobody notices; a network that is to be absent takes them with it."""
    lost = UP._replace(hub=False, orphans=("hub",), units=False)
    plan = plan_network(lost, NET)
    assert shown(plan.changes) == {"hub": ("unmanaged", "running", LIVE)}
    assert shown(plan_network_absent(lost).changes)["hub"][0] == "unmanaged"
