"""Generated files that somebody has been at: what is planned of them, and what is started anew."""

from __future__ import annotations

import dataclasses

import _qemulab_lan_network as networks
import _qemulab_pillar_spec as spec
import _qemulab_plan_lab as plan_lab
import pytest
from _qemulab_plan_changes import LIVE
from _qemulab_plan_changes import Change
from _qemulab_plan_changes import Plan
from _qemulab_plan_lab import LabFacts
from _qemulab_plan_network import NetworkFacts
from _qemulab_plan_network import plan_network
from _qemulab_plan_status import Status
from _qemulab_plan_vm import VmFacts
from _qemulab_plan_vm import plan_vm

LAB = spec.from_pillar({"vms": {"a": {}}}).lab
VM = LAB.vms["a"]
NET = LAB.networks["vmlan"]
RUNNING = VmFacts(VM, VM, {"hda": 50 * 2**30}, True, Status.RUNNING)
UP = NetworkFacts(NET, "up", True, True, True, ("a",))
FILES = {"launch": "edited", "dnsmasq.conf": "absent"}
PLAN = Plan(
    (
        Change(("files", "dnsmasq.conf"), "absent", "generated", LIVE),
        Change(("files", "launch"), "edited", "generated", LIVE),
    )
)


def test_each_file_is_a_change_that_nobody_notices() -> None:
    """Of a machine on or off, a network, the lab; beside what waits for a restart."""
    assert plan_vm(RUNNING._replace(files=FILES), VM, "running") == PLAN
    off = RUNNING._replace(started=None, status=Status.STOPPED, files=FILES)
    assert plan_vm(off, VM, "present") == PLAN
    more = dataclasses.replace(VM, memory=512)
    plan = plan_vm(RUNNING._replace(files=FILES), more, "running")
    assert plan.changes == PLAN.changes and plan.waiting() == {("memory",)}
    assert plan_network(UP._replace(files=FILES), NET) == PLAN
    lab = LabFacts(user=True, ssh_key=True, known=True, files=FILES)
    assert plan_lab.plan_lab(lab, "qemulab", ()) == PLAN


@pytest.mark.parametrize(
    ("files", "anew"),
    [
        ({"hub": "edited"}, {"hub"}),
        ({"dnsmasq": "edited", "link": "edited", "hosts": "edited"}, {"dnsmasq"}),
        ({"units": "edited"}, {"hub", "dnsmasq"}),
        ({"hub": "absent", "dnsmasq": "absent"}, set()),
        ({"reservations": "edited", "resolv.conf": "edited"}, set()),
    ],
)
def test_what_an_edited_file_may_have_started_is_started_anew(
    files: dict[str, str], anew: set[str]
) -> None:
    """What was removed has started nothing; nor is anything left that would start it so."""
    assert networks.outdated(UP._replace(files=files)) == anew
