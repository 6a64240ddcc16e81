"""A machine off and on: one hold of its lock, and nobody gets at it in between."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _qemulab_apply_lab as apply_lab
import _qemulab_apply_power as apply_power
import _qemulab_host_seam as host
import _qemulab_pillar_spec as spec
import pytest
from _qemulab_host_seam import HostError
from _qemulab_plan_status import Status
from _qemulab_run_site import Site

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


def test_what_was_removed_while_the_lock_was_waited_for_is_not_started(site: Site) -> None:
    """Its files are read under the lock."""
    host.remove(site.layout.vm_file("a"))
    for each in (apply_power.start, apply_power.stop, apply_power.restart, apply_power.reset):
        with pytest.raises(HostError, match="the lab lab has no machine a; it has none"):
            each(site, "a")
