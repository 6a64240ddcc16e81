"""The lab as a whole: several things, each changed by a plan of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _qemulab_apply_lab as apply_lab
import _qemulab_host_seam as host
import _qemulab_pillar_spec as spec
import _qemulab_vm_hardware as hardware
import pytest
from _qemulab_host_seam import HostError
from _qemulab_plan_status import Status
from _qemulab_run_site import Site
from _qemulab_vm_status import Answer

VM = spec.vm_from("a", {"nics": []}, "lab", {})


class Machine:
    """A machine that is on or off, as a fake QEMU of it answers."""

    def __init__(self, status: Status) -> None:
        self.status = status

    def ask(self, *_: Any) -> Answer:
        """Return how it is."""
        return Answer(self.status, 0 if self.status.is_off else 5)

    def ensure(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Start it, and say something of it."""
        self.status = Status.RUNNING
        waits = {"memory": {"old": 512, "new": 1024, "effect": "restart"}}
        return {"notes": ["it moves"], "pending": waits, "ssh": "ssh a"}

    def stop(self, *_: Any) -> tuple[str, list[str]]:
        """Power it off."""
        self.status = Status.STOPPED
        return "acpi", []


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return a lab that has one machine, of which no file is looked for."""
    monkeypatch.setattr(host, "is_root", lambda: True)
    monkeypatch.setattr(apply_lab.power, "unlike_before", lambda *_: [])
    monkeypatch.setattr(apply_lab.vm_status, "find_lost", lambda *_: ())
    monkeypatch.setattr(apply_lab.vm_left, "machines", lambda *_: {})
    site = Site("lab", str(tmp_path))
    site.store.keep_vm("a", VM, None)
    return site


def test_what_is_said_of_each_thing_is_said_of_the_whole(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name: what its own plan notes, and what of it waits."""
    machine = Machine(Status.STOPPED)
    monkeypatch.setattr(apply_lab.vm_status, "ask", machine.ask)
    monkeypatch.setattr(apply_lab.machines, "ensure", machine.ensure)
    found = apply_lab.ensure_started(site)
    assert found["notes"] == ["a: it moves", "a: memory waits: 512 -> 1024"]
    assert found["ssh"] == {"a": "ssh a"}


def test_how_a_lab_is_is_asked_anew(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is called off, or on, by an answer that another apply has made untrue since."""
    machine = Machine(Status.RUNNING)
    monkeypatch.setattr(apply_lab.vm_status, "ask", machine.ask)
    monkeypatch.setattr(apply_lab.apply_power, "stop", machine.stop)
    site.answers.recent("vm a", lambda: Answer(Status.STOPPED, 0))
    assert apply_lab.ensure_stopped(site)["how"] == {"a": "acpi"}
    site.answers.recent("vm a", lambda: Answer(Status.RUNNING, 5))
    assert apply_lab.ensure_started(site, test=True)["changes"]


def test_a_lab_is_not_stopped_for_a_restart_that_one_machine_refuses(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where that one is off: it is to be started with the others."""
    monkeypatch.setattr(apply_lab.vm_status, "ask", Machine(Status.STOPPED).ask)
    monkeypatch.setattr(apply_lab, "ensure_stopped", lambda *_: pytest.fail("it was stopped"))
    hardware.keep(site, {"a": 7})
    with pytest.raises(HostError, match="a newer qemulab has made a"):
        apply_lab.restart(site)
