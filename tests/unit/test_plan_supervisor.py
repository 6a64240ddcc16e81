"""What is left where a supervisor was killed, or its definitions were removed."""

from __future__ import annotations

import dataclasses

import _qemulab_plan as planner
import _qemulab_spec as spec
from _qemulab_plan import LIVE
from _qemulab_plan import RESTART
from _qemulab_plan import Change
from _qemulab_plan import NetworkFacts
from _qemulab_plan import Plan
from _qemulab_plan import VmFacts

LAB = spec.from_pillar({"vms": {"a": {}}}).lab
VM = LAB.vms["a"]
NET = LAB.networks["vmlan"]
RUNNING = VmFacts(VM, VM, {"hda": 50 * 2**30}, True, "running")
STOPPED = RUNNING._replace(started=None, status="stopped")
UP = NetworkFacts(NET, "up", True, True, True, ("a",))


def shown(changes: tuple[Change, ...]) -> dict[str, tuple[object, object, str]]:
    """Return changes in a form that is short to compare."""
    return {change.key: (change.old, change.new, change.effect) for change in changes}


def test_a_machine_without_its_supervisor_waits_for_a_restart() -> None:
    """It goes on running; what would give it a supervisor again is for its user to say."""
    lost = RUNNING._replace(status="unmanaged", supervised=False, unit=False)
    change = Change("supervised", False, True, RESTART)
    assert planner.plan_vm(lost, VM, "running") == Plan(pending=(change,))
    may = dataclasses.replace(VM, on_change="restart")
    plan = planner.plan_vm(lost._replace(defined=may, started=may), may, "running")
    assert plan == Plan((change,))


def test_a_definition_that_is_gone_is_made_again_live() -> None:
    """Of a machine that runs; one that is off gets it with its next start."""
    lost = planner.plan_vm(RUNNING._replace(unit=False), VM, "running")
    assert shown(lost.changes) == {"unit": ("absent", "present", LIVE)}
    assert planner.plan_vm(STOPPED._replace(unit=False), VM, "present") == Plan()
    lost = planner.plan_network(UP._replace(units=False), NET)
    assert shown(lost.changes) == {"units": ("absent", "present", LIVE)}


def test_processes_without_their_supervisor_are_replaced() -> None:
    """Nobody notices; a network that is to be absent takes them with it."""
    lost = UP._replace(hub=False, orphans=("hub",), units=False)
    plan = planner.plan_network(lost, NET)
    assert shown(plan.changes) == {"hub": ("unmanaged", "running", LIVE)}
    assert shown(planner.plan_network_absent(lost).changes)["hub"][0] == "unmanaged"
