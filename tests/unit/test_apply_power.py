"""A machine off and on: one hold of its lock, and nobody gets at it in between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _qemulab_apply_lab as apply_lab
import _qemulab_apply_power as apply_power
import _qemulab_host_seam as host
import _qemulab_pillar_spec as spec
import _qemulab_vm_power as power
import pytest
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Vm
from _qemulab_plan_changes import Plan
from _qemulab_plan_status import Status
from _qemulab_plan_vm import VmFacts
from _qemulab_run_site import Site
from _qemulab_run_underway import Early

VM = spec.vm_from("a", {"nics": [], "stop_grace": 7}, "lab", {})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a lab that has one machine."""
    site = Site("lab", str(tmp_path / "root"))
    host.write_all([site.store.vm_as_file("a", VM, None)])
    return site


@pytest.fixture
def done(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what is done to it, in order; nothing is."""
    found: list[Any] = []

    @contextlib.contextmanager
    def lock(*_: str) -> Iterator[None]:
        found.append("locked")
        yield
        found.append("free")

    def stop(_site: Site, _name: str, grace: int) -> str:
        found.append(("stop", grace))
        return "acpi"

    monkeypatch.setattr(site, "lock", lock)
    monkeypatch.setattr(apply_power.vm_status, "find_status", lambda *_, **__: (Status.STOPPED, 0))
    monkeypatch.setattr(apply_power.vm_status, "find_lost", lambda *_: ())
    monkeypatch.setattr(apply_power.vm_status, "runs", lambda *_: True)
    monkeypatch.setattr(apply_power.power, "check_start", lambda *_: None)
    monkeypatch.setattr(apply_power.power, "stop", stop)
    monkeypatch.setattr(apply_power.power, "start", lambda *_: found.append("start"))
    monkeypatch.setattr(apply_power.power, "reset", lambda *_: found.append("reset"))
    monkeypatch.setattr(apply_power.power, "unlike_before", lambda *_: ["a disk is new"])
    return found


def test_a_restart_holds_the_lock_from_end_to_end(site: Site, done: list[Any]) -> None:
    """Another apply that comes between would start what is being stopped."""
    assert apply_power.restart(site, "a") == ("acpi", ["a disk is new"])
    assert done == ["locked", ("stop", 7), "start", "free"]


@pytest.mark.parametrize(("grace", "given"), [(None, 7), (0, 0), (3, 3)])
def test_a_stop_without_a_grace_has_the_machines_own(
    site: Site, done: list[Any], grace: int | None, given: int
) -> None:
    """None at all is one, too."""
    assert apply_power.stop(site, "a", grace) == ("acpi", [])
    assert done == ["locked", ("stop", given), "free"]


def test_a_machine_that_would_not_come_back_is_not_powered_off(
    site: Site, done: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by a restart of its own nor by the lab's, nor where its guest is dead."""

    def refuses(_site: Site, name: str, vm: Any, running: Any) -> None:
        assert (name, vm, running) == ("a", VM, VM)
        raise HostError("port 2222 is taken")

    monkeypatch.setattr(apply_power.power, "check_start", refuses)
    dead = Status.INTERNAL_ERROR
    monkeypatch.setattr(apply_power.vm_status, "find_status", lambda *_, **__: (dead, 5))
    for each in (
        lambda: apply_power.restart(site, "a"),
        lambda: apply_power.start(site, "a"),
        lambda: apply_lab.restart(site),
    ):
        with pytest.raises(HostError, match="port 2222 is taken"):
            each()
    assert not [what for what in done if what not in ("locked", "free")]


def test_a_reset_holds_the_lock_as_well(site: Site, done: list[Any]) -> None:
    """Or it would come between another's stop and start."""
    apply_power.reset(site, "a")
    assert done == ["locked", "reset", "free"]


LARGER = spec.vm_from("a", {"nics": [], "memory": 4096, "stop_grace": 3}, "lab", {})
RUNNING = VmFacts(VM, VM, {"hda": 50 << 30}, True, Status.RUNNING)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, done: list[Any]) -> Callable[[VmFacts], None]:
    """Return a function that sets what is of the machine, asked for under its lock."""

    def set_facts(facts: VmFacts) -> None:
        def find_facts(*_: Any) -> VmFacts:
            done.append("looked")
            return facts

        monkeypatch.setattr(apply_power.vm_status, "find_facts", find_facts)
        monkeypatch.setattr(apply_power.power, "check_start", lambda *_: done.append("checked"))
        start: Callable[..., None] = lambda _site, _name, vm: done.append(vm)  # noqa: E731
        monkeypatch.setattr(apply_power.power, "start", start)

    return set_facts


@pytest.mark.parametrize(
    ("declared", "facts", "grace", "started_as", "changes"),
    [
        (LARGER, RUNNING, 3, LARGER, {"memory", "stop_grace"}),
        (VM, RUNNING, 7, VM, set()),
        (None, RUNNING, 7, VM, set()),
        (LARGER, RUNNING._replace(status=Status.GUEST_PANICKED), 0, LARGER, None),
        (LARGER, RUNNING._replace(disks={"hda": 60 << 30}), 7, VM, set()),
    ],
    ids=["as declared", "as it is", "not declared", "dead", "refused"],
)
def test_a_restart_for_a_network_is_planned_under_the_lock(
    site: Site,
    done: list[Any],
    known: Callable[[VmFacts], None],
    declared: Vm | None,
    facts: VmFacts,
    grace: int,
    started_as: Vm,
    changes: set[str] | None,
) -> None:
    """And what its own state is to report is what was done."""
    known(facts)
    plan = apply_power.restart_as(site, "a", declared)
    assert done == ["locked", "looked", "checked", ("stop", grace), started_as, "free"]
    assert not plan.pending and not plan.refused
    if changes is not None:
        assert {change.key for change in plan.changes} == changes


def test_a_machine_that_somebody_has_stopped_meanwhile_is_not_started(
    site: Site, done: list[Any], known: Callable[[VmFacts], None]
) -> None:
    """It opens the network as it is when it starts."""
    known(VmFacts(VM, None, {"hda": 50 << 30}, True))
    assert apply_power.restart_as(site, "a", LARGER) == Plan()
    assert done == ["locked", "looked", "free"]


def test_a_restart_for_a_network_costs_no_image_that_a_machine_alone_holds(
    site: Site, done: list[Any], known: Callable[[VmFacts], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one stop that could not come back."""
    known(RUNNING._replace(lost=("hda",)))

    def refuse(*_: Any) -> None:
        raise HostError("it alone holds hda")

    monkeypatch.setattr(apply_power.held, "need_none", refuse)
    with pytest.raises(HostError, match="it alone holds hda"):
        apply_power.restart_as(site, "a", LARGER)
    known(RUNNING)
    monkeypatch.setattr(apply_power.held, "need_none", lambda *_: None)
    monkeypatch.setattr(apply_power.power, "check_start", refuse)
    with pytest.raises(HostError, match="it alone holds hda"):
        apply_power.restart_as(site, "a", LARGER)
    assert not [each for each in done if isinstance(each, tuple | Vm)]


def test_a_machine_that_is_stopped_has_no_plan_from_before(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own state looks again."""
    monkeypatch.setattr(power, "find_status", lambda *_: (Status.STOPPED, 0))
    site.run.early.update({("vm", "a"): Early(Plan()), ("vm", "b"): Early(Plan())})
    assert power.stop(site, "a", 0) == "stopped"
    assert list(site.run.early) == [("vm", "b")]


def test_what_was_removed_while_the_lock_was_waited_for_is_not_started(site: Site) -> None:
    """Its files are read under the lock."""
    host.remove(site.layout.vm_file("a"))
    for each in (apply_power.start, apply_power.stop, apply_power.restart, apply_power.reset):
        with pytest.raises(HostError, match="the lab lab has no machine a; it has none"):
            each(site, "a")
