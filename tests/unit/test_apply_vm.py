"""A machine as declared: what is asked of the host and what is stored, whoever else is at it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import _qemulab_apply_vm as apply_vm
import _qemulab_host_seam as host
import _qemulab_pillar_spec as spec
import pytest
from _qemulab_plan_status import Status
from _qemulab_run_site import Site
from _qemulab_vm_status import Answer

VM = spec.vm_from("a", {"nics": [], "stop_grace": 7}, "lab", {})
OTHER = dataclasses.replace(VM, memory=4096)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a lab that has one machine."""
    site = Site("lab", str(tmp_path))
    host.write_all([site.store.vm_as_file("a", VM, VM, (OTHER,))])
    return site


def test_what_waits_is_stored_and_the_doubt_stays(site: Site) -> None:
    """A change that was broken off is still to be done again."""
    apply_vm.store_pending(site, "a", OTHER)
    assert site.store.vm("a") == (OTHER, VM)
    assert site.store.vm_unsure("a") == (OTHER,)


def test_what_another_apply_has_stored_since_stays(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is younger than what waits here."""
    younger = dataclasses.replace(VM, memory=8192)
    stored = iter([(VM, VM), (younger, VM)])
    monkeypatch.setattr(site.store, "vm", lambda _name: next(stored))
    apply_vm.store_pending(site, "a", OTHER)
    monkeypatch.undo()
    assert site.store.vm("a") == (VM, VM)


def test_whether_a_machine_is_off_is_asked_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been started since the answer of half a second ago."""
    site.answers.recent("vm a", lambda: Answer(Status.STOPPED, 0))
    monkeypatch.setattr(apply_vm.vm_status, "ask", lambda *_: Answer(Status.RUNNING, 5))
    monkeypatch.setattr(apply_vm.vm_status, "find_lost", lambda *_: ())
    assert list(apply_vm.ensure_off(site, "a", test=True)["changes"]) == ["running"]
