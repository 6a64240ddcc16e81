"""The planner for reservations and for the lab as a whole."""

from __future__ import annotations

from typing import Any

import _qemulab_plan_lab as plan_lab
import pytest
from _qemulab_pillar_keys import Reservation
from _qemulab_plan_changes import CREATE
from _qemulab_plan_changes import DESTROY
from _qemulab_plan_changes import LIVE
from _qemulab_plan_changes import RESTART
from _qemulab_plan_changes import STOP
from _qemulab_plan_changes import Change
from _qemulab_plan_changes import Plan
from _qemulab_plan_lab import LabFacts
from _qemulab_plan_network import plan_reservation
from _qemulab_plan_status import Status

OLD = Reservation("52:54:00:00:00:01", "10.0.3.5")
NEW = Reservation("52:54:00:00:00:01", "10.0.3.6")


def shown(changes: tuple[Change, ...]) -> dict[str, tuple[Any, Any, str]]:
    """Return changes in a form that is short to compare."""
    return {change.key: (change.old, change.new, change.effect) for change in changes}


# Reservations


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (OLD, OLD, {}),
        (None, None, {}),
        (
            None,
            OLD,
            {
                "mac": (None, "52:54:00:00:00:01", CREATE),
                "address": (None, "10.0.3.5", CREATE),
            },
        ),
        (OLD, NEW, {"address": ("10.0.3.5", "10.0.3.6", LIVE)}),
        (
            OLD,
            None,
            {"mac": ("52:54:00:00:00:01", None, LIVE), "address": ("10.0.3.5", None, LIVE)},
        ),
    ],
)
def test_a_reservation_changes_live(
    old: Reservation | None, new: Reservation | None, expected: Any
) -> None:
    """It comes, moves and goes without a restart of anything."""
    plan = plan_reservation(old, new)
    assert shown(plan.changes) == expected
    assert not plan.notes


def test_a_lease_that_contradicts_a_reservation_is_released_and_said() -> None:
    """Even where the reservation itself is already as declared."""
    plan = plan_reservation(OLD, OLD, contradicted=True)
    assert shown(plan.changes) == {"lease": ("contradicts", "released", LIVE)}
    assert plan.notes == ("a running guest moves when it next renews its lease",)


# The lab

READY = LabFacts(user=True, ssh_key=True, known=True, authorized_keys=("k",))


def test_a_new_lab_gets_its_user_and_keys() -> None:
    """Generated values are called so, and a known lab changes nothing."""
    assert shown(plan_lab.plan_lab(LabFacts(), "qemulab", ("k",)).changes) == {
        "user": (None, "qemulab", CREATE),
        "ssh_key": (None, "generated", CREATE),
        "authorized_keys": (None, ["k"], CREATE),
    }
    assert plan_lab.plan_lab(READY, "qemulab", ("k",)) == Plan()


def test_keys_that_may_log_in_change_in_a_known_lab() -> None:
    """From none and to none as well."""
    plan = plan_lab.plan_lab(READY, "qemulab", ())
    assert shown(plan.changes) == {"authorized_keys": (["k"], None, LIVE)}
    plan = plan_lab.plan_lab(READY, "qemulab", ("k", "l"))
    assert shown(plan.changes) == {"authorized_keys": (["k"], ["k", "l"], LIVE)}


def test_a_lab_that_goes_leaves_what_labs_share() -> None:
    """Keys and logs go with a purge; the built-in guest stays: it is the host's."""
    facts = LabFacts(known=True, ssh_key=True, logs=True)
    kept = {"definition": ("present", None, STOP)}
    assert shown(plan_lab.plan_lab_absent(facts, False).changes) == kept
    assert shown(plan_lab.plan_lab_absent(facts, True).changes) == {
        **kept,
        "ssh_key": ("generated", None, DESTROY),
        "logs": ("present", None, DESTROY),
    }
    assert plan_lab.plan_lab_absent(LabFacts(), True) == Plan()


def test_the_guest_is_built_once() -> None:
    """And is then there."""
    assert shown(plan_lab.plan_guest(False).changes) == {"guest": (None, "built", CREATE)}
    assert plan_lab.plan_guest(True) == Plan()
    gone = {"guest": ("built", None, DESTROY)}
    assert shown(plan_lab.plan_guest_absent(True).changes) == gone
    assert plan_lab.plan_guest_absent(False) == Plan()


# What is no longer declared

LEFT = LabFacts(networks=("n", "old"), vms={"a": True, "b": True, "c": False})
NOTES = ("machines no longer declared: b, c", "networks no longer declared: old")


def test_what_is_no_longer_declared_is_reported() -> None:
    """And left as it is."""
    plan = plan_lab.plan_prune(LEFT, ["a"], ["n"], "report")
    assert plan == Plan(notes=NOTES)


def test_what_is_no_longer_declared_is_stopped_where_asked_for() -> None:
    """Machines that run are powered off; nothing is destroyed."""
    plan = plan_lab.plan_prune(LEFT, ["a"], ["n"], "stop")
    assert shown(plan.changes) == {
        "vms:b": ("running", "stopped", STOP),
        "networks:old": ("present", None, STOP),
    }
    assert plan.notes == NOTES


def test_nothing_is_pruned_where_all_is_declared() -> None:
    """In either mode."""
    for mode in ("report", "stop"):
        assert plan_lab.plan_prune(LEFT, ["a", "b", "c"], ["n", "old"], mode) == Plan()


# All off, and on again


def test_what_runs_of_a_lab_is_stopped_together() -> None:
    """What is off is left out."""
    plan = plan_lab.plan_lab_stopped({"a": True, "b": False, "c": True})
    stopped = ("running", "stopped", STOP)
    assert shown(plan.changes) == {"vms:a": stopped, "vms:c": stopped}
    assert plan_lab.plan_lab_stopped({"b": False}) == Plan()


def test_a_lab_is_started_as_it_was_applied() -> None:
    """What is dead costs a restart, what cannot be dealt with is said, what runs is left alone."""
    vms = {
        **{"off": "stopped", "bad": "failed", "idle": "paused", "full": "io-error"},
        **{"dead": "guest-panicked", "on": "running", "lost": "unmanaged", "deaf": "unresponsive"},
    }
    plan = plan_lab.plan_lab_started(["n"], {name: Status(word) for name, word in vms.items()})
    assert shown(plan.changes) == {
        "networks:n": ("down", "up", LIVE),
        "vms:off": ("stopped", "running", LIVE),
        "vms:bad": ("failed", "running", LIVE),
        "vms:idle": ("paused", "running", LIVE),
        "vms:full": ("io-error", "running", LIVE),
        "vms:dead": ("guest-panicked", "running", RESTART),
    }
    assert plan.notes == ("lost is unmanaged, deaf is unresponsive: left as it is",)


def test_a_lab_without_machines_says_so_when_it_is_started() -> None:
    """Nothing was applied yet."""
    (said,) = plan_lab.plan_lab_started([], {}).notes
    assert said.startswith("the lab has no machine")
