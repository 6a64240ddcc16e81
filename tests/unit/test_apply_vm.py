"""A machine as declared: what is asked of the host and what is stored, whoever else is at it."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

import _qemulab_apply_vm as apply_vm
import _qemulab_host_generated as written
import _qemulab_host_seam as host
import _qemulab_pillar_spec as spec
import _qemulab_vm_ports as vm_ports
import _qemulab_vm_power as power
import pytest
from _qemulab_host_seam import File
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Vm
from _qemulab_plan_changes import RESTART
from _qemulab_plan_changes import Plan
from _qemulab_plan_changes import fact
from _qemulab_plan_status import Status
from _qemulab_plan_vm import VmFacts
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


def test_a_machine_that_would_not_come_back_is_not_powered_off(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a change that restarts it: what its start would refuse is refused before its end."""

    def refuses(_site: Site, name: str, vm: Vm, running: Vm) -> None:
        assert (name, vm, running) == ("a", OTHER, VM)
        raise HostError("no UEFI firmware")

    monkeypatch.setattr(apply_vm.power, "check_start", refuses)
    monkeypatch.setattr(apply_vm.power, "stop", lambda *_: pytest.fail("it was powered off"))
    plan = Plan((fact("memory", 1, 2, RESTART),))
    with pytest.raises(HostError, match="no UEFI firmware"):
        apply_vm.carry_out(site, "a", OTHER, plan, VmFacts(defined=VM, started=VM))


def test_the_port_of_a_screen_counts_where_the_machine_is_started_anew(tmp_path: Path) -> None:
    """It is listened on from the start on, and what runs has another."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        wanted = dataclasses.replace(VM, display="vnc", vnc_port=other.getsockname()[1])
        site = Site("lab", str(tmp_path))
        assert list(vm_ports.taken(site, "a", wanted, VM)) == []
        assert list(vm_ports.taken(site, "a", wanted, wanted, anew=True)) == []
        (said,) = vm_ports.taken(site, "a", wanted, VM, anew=True)
        assert said.startswith("lab:vms:a:vnc_port: port ")


def test_a_start_tells_of_files_that_it_writes_anew(site: Site) -> None:
    """Somebody's edit would go unseen; a state shows it as a change."""
    vm = dataclasses.replace(VM, firmware="bios", disks=())
    launch = site.layout.launch("a")
    written.write(site.layout.vm_written("a"), [File(launch, "text")])
    assert power.unlike_before(site, "a", vm) == []
    launch.write_text("mine")
    assert power.unlike_before(site, "a", vm) == [
        "files: launch was edited by somebody, and is written anew"
    ]


def test_a_disc_that_is_gone_counts_where_the_machine_is_started_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs has it open, and goes on with it; its next start would not find it."""
    monkeypatch.setattr(power.places, "check", lambda *_: None)
    vm = dataclasses.replace(VM, accel="tcg", disks=(), cdrom=str(site.layout.root / "gone.iso"))
    monkeypatch.setattr(site, "accel", lambda _wanted: "tcg")
    power.check_host(site, "a", vm, vm)
    with pytest.raises(HostError, match="lab:vms:a:cdrom: .*gone.iso"):
        power.check_host(site, "a", vm, vm, anew=True)
