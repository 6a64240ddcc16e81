"""What an apply tells the supervisor of a machine that is off."""

from __future__ import annotations

import dataclasses
import getpass
from pathlib import Path

import _qemulab_apply_vm as machines
import _qemulab_host_seam as host
import _qemulab_pillar_schema as schema
import _qemulab_pillar_spec as spec
import _qemulab_vm_launch as launch
import pytest
from _qemulab_pillar_keys import Vm
from _qemulab_run_protocol import UnitStatus
from _qemulab_run_site import Site
from _qemulab_run_units import Unit

VM = spec.vm_from("a", {"nics": [], "disks": [], "firmware": "bios"}, "lab", {})
ON = dataclasses.replace(VM, autostart=True)


class Supervisor:
    """Has a unit or not, runs nothing, and keeps what it is told."""

    def __init__(self, has: bool) -> None:
        self._has = has
        self.told: list[bool] = []

    def status(self) -> dict[tuple[str, str], UnitStatus]:
        """Return that nothing runs."""
        return {}

    def has(self, _kind: str, _name: str) -> bool:
        """Return whether the unit is there."""
        return self._has

    def update(self, unit: Unit) -> None:
        """Keep whether the unit is to start with the host."""
        self.told.append(unit.autostart)


@pytest.mark.parametrize(
    ("before", "declared", "has", "told", "written"),
    [
        (VM, ON, True, [True], 1),
        (ON, VM, True, [False], 0),
        (ON, dataclasses.replace(ON, memory=512), True, [True], 1),
        (VM, dataclasses.replace(VM, memory=512), True, [], 0),
        (VM, ON, False, [], 0),
        (ON, ON, True, [], 0),
    ],
)
def test_a_start_with_the_host_is_told_of_a_machine_that_is_off(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: Vm,
    declared: Vm,
    has: bool,
    told: list[bool],
    written: int,
) -> None:
    """At once, and with what is declared now: the host may boot before the next apply."""
    scripts: list[Vm] = []
    monkeypatch.setattr(host, "USER", getpass.getuser())
    monkeypatch.setattr(launch, "scripts", lambda _site, _name, vm: scripts.append(vm) or [])
    site = Site("lab", str(tmp_path))
    supervisor = Supervisor(has)
    monkeypatch.setattr(site, "supervisor", supervisor)
    site.store.keep_vm("a", before, None)
    monkeypatch.setattr(host, "is_root", lambda: True)
    machines.ensure(site, "a", schema.compact(declared))
    assert supervisor.told == told and scripts == [declared] * written
    assert site.store.vm("a") == (declared, None)
