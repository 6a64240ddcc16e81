"""The doctor: what has to be done first comes first, and no check keeps another from its turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import _qemulab_check_doctor as doctor
import _qemulab_pillar_spec as spec
import pytest
from _qemulab_check_doctor import Finding
from _qemulab_host_seam import HostError
from _qemulab_plan_status import Status
from _qemulab_run_protocol import STOPPED
from _qemulab_run_protocol import UnitStatus

LAB = spec.from_pillar({}).lab


@pytest.mark.parametrize(
    ("finding", "line"),
    [
        (Finding("ok", "tun", "it opens"), "ok    tun: it opens"),
        (Finding("fail", "port", "it is taken", "stop it"), "fail  port: it is taken; stop it"),
    ],
)
def test_a_finding_is_one_line(finding: Finding, line: str) -> None:
    """Result, thing, how it is, and what to do where something is to be done."""
    assert str(finding) == line


def test_what_is_to_be_done_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a check itself has failed; within a result the checks keep their order."""

    def fine(_lab: Any, _site: Any) -> Iterator[Finding]:
        yield Finding("ok", "fine", "it is")

    def odd(_lab: Any, _site: Any) -> Iterator[Finding]:
        yield Finding("warn", "odd", "it is")
        yield Finding("fail", "bad", "it is")

    def broken_one(_lab: Any, _site: Any) -> Iterator[Finding]:
        yield Finding("ok", "half", "it is")
        raise HostError("x is not installed", "", "install x")

    monkeypatch.setattr(doctor, "CHECKS", (fine, odd, broken_one))
    site: Any = None
    assert [str(finding) for finding in doctor.examine(LAB, site)] == [
        "fail  bad: it is",
        "fail  broken one: x is not installed; install x",
        "warn  odd: it is",
        "ok    fine: it is",
        "ok    half: it is",
    ]


@pytest.mark.parametrize(
    ("line", "ours"),
    [
        (
            'audit: apparmor="DENIED" operation="open" profile="libvirt" comm="qemu-system-x86"',
            True,
        ),
        ('audit: apparmor="DENIED" operation="open" profile="x" comm="cups-browsed"', False),
        ('avc:  denied  { read } for  pid=1 comm="dnsmasq" name="leases"', True),
        ('apparmor="STATUS" operation="profile_load" name="/usr/sbin/dnsmasq"', False),
    ],
)
def test_a_denial_of_ours_is_told_from_others(line: str, ours: bool) -> None:
    """By the program that was denied something."""
    denied = doctor.DENIALS.search(line) and doctor.OUR_PROGRAMS.search(line)
    assert bool(denied) is ours


class Anything(NamedTuple):
    """A lab of which some things run."""

    running: frozenset[str]

    def status(self, kind: str, name: str) -> UnitStatus:
        """Return how a unit is."""
        return UnitStatus(Status.RUNNING, 1) if f"{kind} {name}" in self.running else STOPPED


DECLARED = spec.from_pillar({"networks": {"n": {}}, "vms": {"a": {"disks": []}}}).lab
ALL = frozenset({"hub n", "dnsmasq n", "vm a"})


def test_before_a_start_only_what_does_not_run_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing at all where everything runs: an apply that changes nothing pays nothing for it."""
    asked: list[str] = []

    def check(name: str, result: str) -> doctor.Check:
        def look(lab: Any, _site: Any) -> Iterator[Finding]:
            asked.append(f"{name} {' '.join([*lab.networks, *lab.vms])}")
            yield Finding(result, name, "it is so", "do")

        return look

    names = ("supervisor", "directories", "tun", "accelerator", "uefi_variables", "multicast")
    for name in (*names, "memory", "disk_space", "network_managers", "confinement"):
        monkeypatch.setattr(doctor, name, check(name, "warn" if name == "memory" else "ok"))
    site: Any = Anything(ALL)
    assert doctor.before_start(DECLARED, site) == ([], [])
    assert asked == []
    site = Anything(ALL - {"vm a"})
    assert [each.text for each in doctor.before_start(DECLARED, site)[1]] == [
        "memory: it is so; do"
    ]
    assert asked == [
        *("supervisor a", "directories a", "tun a", "accelerator a", "uefi_variables a"),
        *("multicast n a", "memory n a", "disk_space n a"),
        *("network_managers n a", "confinement n a"),
    ]
    monkeypatch.setattr(doctor, "tun", check("tun", "fail"))
    site = Anything(ALL - {"dnsmasq n"})
    faults, warnings = doctor.before_start(DECLARED, site)
    assert [str(each) for each in faults] == ["fail  tun: it is so; do"] and warnings == []
