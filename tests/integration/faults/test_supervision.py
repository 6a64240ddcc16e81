"""
What becomes of a lab whose supervisor is killed, cannot be reached, or has lost a unit's files.
"""

from __future__ import annotations

import copy

import pytest
from faultlab import DECLARED
from faultlab import ON_SUPERVISORD
from faultlab import ON_SYSTEMD
from faultlab import dns_answers
from faultlab import fresh
from faultlab import healed
from faultlab import hub_carries
from faultlab import kill
from faultlab import pids
from faultlab import supervisord_pid
from figures import Figures
from labs import Lab

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter"),
]

PENDING = {"supervised": {"old": False, "new": True, "effect": "restart"}}


def lose_supervisor(lab: Lab) -> None:
    """Kill the supervisord; what it runs goes on."""
    before = pids(lab)
    kill(lab, supervisord_pid(lab))
    assert pids(lab) == before
    assert lab.call("vm_list") == {"a": "unmanaged"}


@ON_SUPERVISORD
def test_f15_a_machine_outlives_its_supervisor(lab: Lab, figures: Figures) -> None:
    """It is shown as what it is, and waits for a restart; hub and DHCP server are replaced."""
    before = pids(lab)
    lose_supervisor(lab)
    info = lab.call("vm_info", "a")
    assert (info["status"], info["pid"]) == ("unmanaged", before["a"])
    assert lab.call("network_info", "vmlan")["machines"] == ["a"]
    states = lab.apply(declared=DECLARED)
    gone = {"old": "unmanaged", "new": "running", "effect": "live"}
    assert lab.changes(states) == {"network_present vmlan": {"hub": gone, "dnsmasq": gone}}
    assert states["vm_running a"]["pending"] == PENDING
    assert "wait for a restart" in states["vm_running a"]["warnings"][0]
    seconds = states["network_present vmlan"]["duration"] / 1000
    figures.seconds("F15 hub and dnsmasq under a new supervisord", seconds, lab.host.supervisor)
    assert hub_carries(lab) and dns_answers(lab)
    again = lab.apply(declared=DECLARED)
    assert lab.changes(again) == {} and again["vm_running a"]["pending"] == PENDING
    assert pids(lab)["a"] == before["a"]
    # Who asks for it gets it, over QMP; and then it is as before.
    done = lab.call("vm_restart", "a")
    assert (done["how"], done["status"]) == ("quit", "running")
    last = lab.apply(declared=DECLARED)
    assert lab.changes(last) == {} and "pending" not in last["vm_running a"]


@ON_SUPERVISORD
def test_f15_a_machine_that_may_restart_gets_its_supervisor_back(lab: Lab) -> None:
    """With ``on_change: restart`` the apply does what else it says is pending."""
    declared = copy.deepcopy(DECLARED)
    declared["vms"]["a"] |= {"on_change": "restart"}
    lab.apply(declared=declared)
    before = pids(lab)
    lose_supervisor(lab)
    assert lab.changes(lab.apply(declared=declared))["vm_running a"] == PENDING
    assert lab.call("vm_list") == {"a": "running"}
    assert not set(pids(lab).values()) & set(before.values())
    assert lab.changes(lab.apply(declared=declared)) == {}


@ON_SUPERVISORD
def test_f15_a_supervisor_without_its_socket_is_replaced(lab: Lab) -> None:
    """Nobody can reach it: it is ended before what it would start again, so nothing runs twice."""
    before, lost = pids(lab), supervisord_pid(lab)
    log = lab.host.path("/var/log/qemulab/lab/supervisord.log")
    begin = log.stat().st_size
    lab.host.run(["rm", "/run/qemulab/lab/supervisord.sock"])
    assert lab.apply(declared=DECLARED)["vm_running a"]["pending"] == PENDING
    assert pids(lab)["a"] == before["a"]
    assert supervisord_pid(lab) != lost
    assert "exited: " not in log.read_text(encoding="utf-8")[begin:]
    lab.call("vm_restart", "a")
    assert lab.call("vm_list") == {"a": "running"}


@ON_SYSTEMD
def test_f15_a_unit_without_files_gets_them_back(lab: Lab, figures: Figures) -> None:
    """It costs nothing: every process stays, and is started again by systemd as before."""
    before = pids(lab)
    lab.host.run(["sh", "-c", "rm -r /etc/systemd/system/qemulab-* && systemctl daemon-reload"])
    assert lab.call("vm_list") == {"a": "running"}
    assert lab.pids() == before
    states = lab.apply(declared=DECLARED)
    absent = {"old": "absent", "new": "present", "effect": "live"}
    generated = {"old": "absent", "new": "generated", "effect": "live"}
    consoles = [f"files:qemulab-consoles@lab.{end}" for end in ("service", "timer")]
    assert lab.changes(states) == {
        "present lab-present": dict.fromkeys(consoles, generated),
        "network_present vmlan": {"units": absent},
        "vm_running a": {"unit": absent},
    }
    assert pids(lab) == before
    seconds = sum(states[name]["duration"] for name in lab.changes(states)) / 1000
    figures.seconds("F15 units written again", seconds, lab.host.supervisor)
    kill(lab, before["a"])
    healed(lambda: fresh(lab, "a", before["a"]), "the machine")


@ON_SYSTEMD
def test_f15_a_machine_of_nobody_is_left_alone(lab: Lab) -> None:
    """Somebody has run its launch script himself: no twin, no signal; a restart makes it ours."""
    lab.call("vm_stop", "a", "grace=0")
    script = """
        install -d -m 700 -o qemulab -g qemulab /run/qemulab/lab/vms/a
        exec setpriv --reuid=qemulab --regid=qemulab --init-groups \
            setsid /bin/sh /var/lib/qemulab/lab/vms/a/launch < /dev/null > /dev/null 2>&1"""
    lab.host.spawn(["sh", "-c", script])
    healed(lambda: lab.call("vm_list") == {"a": "unmanaged"}, "the machine by hand")
    before = pids(lab)
    assert lab.apply(declared=DECLARED)["vm_running a"]["pending"] == PENDING
    assert pids(lab) == before
    lab.call("vm_restart", "a")
    assert lab.call("vm_list") == {"a": "running"}
    assert pids(lab)["a"] != before["a"]
