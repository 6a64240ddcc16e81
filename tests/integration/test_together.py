"""
What follows one another is begun together, and each state tells of its own alone: machines, and
what stands on a network with the network.
"""

from __future__ import annotations

import datetime
import json
import os
import time
from typing import Any

import harness
from labs import Lab
from labs import flat
from labs import tiny


def started(host: harness.Host, pid: int) -> float:
    """Return when a process of a host was started, in seconds of the clock."""
    fields = host.run(["cat", f"/proc/{pid}/stat"]).stdout.rpartition(")")[2].split()
    uptime = float(host.run(["cat", "/proc/uptime"]).stdout.split()[0])
    return time.time() - uptime + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def ended(state: dict[str, Any]) -> float:
    """Return when a state of today ended, in seconds of the clock."""
    today = datetime.date.today().isoformat()
    begin = datetime.datetime.fromisoformat(f"{today}T{state['start_time']}")
    return begin.timestamp() + state["duration"] / 1000


def test_a_row_is_started_together(host: harness.Host) -> None:
    """The last one's process is there before the first one's state is through."""
    lab = Lab(host)
    declared = {"vms": {name: tiny() for name in ("a", "b", "c")}}
    would = lab.changes(lab.apply(declared=declared, test=True))
    states = lab.apply(declared=declared)
    assert lab.changes(states) == would
    assert {f"vm_running {name}" for name in declared["vms"]} <= would.keys()
    pids = lab.pids()
    assert started(host, pids["c"]) < ended(states["vm_running a"])
    assert lab.changes(lab.apply(declared=declared)) == {}
    assert lab.pids() == pids


def test_one_that_cannot_run_costs_the_others_nothing(host: harness.Host) -> None:
    """Its own state fails, with QEMU's words; later it comes alone."""
    lab = Lab(host)
    declared = {"vms": {"a": tiny(), "b": tiny(cpu="no-such-cpu"), "c": tiny()}}
    would = lab.changes(lab.apply(declared=declared, test=True))
    states = lab.apply(declared=declared, check=False)
    for name in ("a", "c"):
        assert states[f"vm_running {name}"]["changes"] == would[f"vm_running {name}"]
    failed = states["vm_running b"]
    assert failed["result"] is False and failed["changes"] == {}
    assert "b did not start" in failed["comment"] and "no-such-cpu" in failed["comment"]
    assert lab.call("vm_list") == {"a": "running", "b": "stopped", "c": "running"}
    pids = {name: pid for name, pid in lab.pids().items() if name != "b"}

    declared["vms"]["b"] = tiny()
    changed = lab.changes(lab.apply(declared=declared))
    assert list(changed) == ["vm_running b"]
    assert lab.pids().items() >= pids.items()


GRACE = 5
"""Seconds that machines which never hear their power buttons are given to hear them."""


def test_a_row_is_powered_off_together(host: harness.Host) -> None:
    """Those that ignore it are waited for at once; one that hears it is off before its own turn."""
    lab = Lab(host)
    declared = {"vms": {name: tiny(stop_grace=GRACE) for name in ("a", "b", "d")}}
    declared["vms"]["c"] = tiny(boot="guest", memory=192, stop_grace=60, nics=[])
    lab.apply(declared=declared)
    harness.wait_for(lambda: "qemulab: booted" in lab.console("c"), 90, "the guest's report")
    would = lab.changes(lab.apply("lab.clean", declared=declared, test=True))
    states = lab.apply("lab.clean", declared=declared)
    assert lab.changes(states) == would
    removed = {name: states[f"vm_absent {name}"] for name in "abcd"}
    for name, state in removed.items():
        assert state["changes"]["running"] == {"old": True, "new": False, "effect": "stop"}
        assert ("it ignored its power button (quit)" in state["comment"]) is (name != "c")
    seconds = {name: state["duration"] / 1000 for name, state in removed.items()}
    assert seconds["a"] >= GRACE
    assert seconds["b"] + seconds["d"] < GRACE
    said_last = host.path("/var/log/qemulab/lab/consoles/c.log").stat().st_mtime
    assert said_last < ended(removed["a"])
    assert lab.call("vm_list") == {}


def test_a_guest_that_boots_hears_a_later_press(namespace_host: harness.Host) -> None:
    """All that were pressed together are pressed again while the first one is waited for."""
    lab = Lab(namespace_host)
    grace = 20
    declared = {"vms": {"a": tiny(stop_grace=grace)}}
    declared["vms"]["b"] = tiny(boot="guest", memory=192, stop_grace=grace, nics=[])
    lab.apply(declared=declared)
    assert "qemulab: booted" not in lab.console("b")
    states = lab.apply("lab.clean", declared=declared)
    assert "it ignored its power button (quit)" in states["vm_absent a"]["comment"]
    assert states["vm_absent b"]["comment"] == "b has been removed; its disks are kept"


def test_one_that_was_started_again_has_its_whole_grace(namespace_host: harness.Host) -> None:
    """What was pressed was the process before."""
    lab = Lab(namespace_host)
    declared = {"vms": {"a": tiny(stop_grace=12), "b": tiny(stop_grace=4)}}
    lab.apply(declared=declared)
    before = lab.pids()["b"]
    clean = [str(harness.REPO / "salt-call"), "--out=json", "state.apply", "lab.clean"]
    env = {"QEMULAB_PILLAR": str(lab.pillar(declared)), **harness.OUR_SALT}
    running = namespace_host.spawn(clean, env=env)
    assert running.stderr is not None
    while "waiting for a to power off" not in running.stderr.readline():
        assert running.poll() is None
    namespace_host.run(["kill", "-9", str(before)])
    harness.wait_for(lambda: lab.pids().get("b", before) != before, 5, "b again")
    states = flat(json.loads(running.communicate(timeout=60)[0])["local"])
    assert states["vm_absent a"]["duration"] / 1000 >= 12
    assert states["vm_absent b"]["duration"] / 1000 >= 4
    assert lab.call("vm_list") == {}


def test_what_is_left_over_is_powered_off_together(namespace_host: harness.Host) -> None:
    """One state stops them all: for as long as one of them."""
    lab = Lab(namespace_host)
    machines = {name: tiny(stop_grace=GRACE) for name in ("a", "b", "c")}
    lab.apply(declared={"vms": machines})
    declared = {"vms": {"a": machines["a"]}, "prune": "stop"}
    would = lab.changes(lab.apply(declared=declared, test=True))
    states = lab.apply(declared=declared)
    assert lab.changes(states) == would
    assert GRACE <= states["pruned lab-pruned"]["duration"] / 1000 < 2 * GRACE
    assert lab.call("vm_list") == {"a": "running", "b": "stopped", "c": "stopped"}


ON_LAN = [{"network": "vmlan"}]
RESERVED = {"a": {"mac": "52:54:00:00:00:0a", "address": "10.0.3.110"}}


def on_lan(**more: Any) -> dict[str, Any]:
    """Return the declaration of a lab whose two machines sit on its one network."""
    vms = {"a": tiny(nics=ON_LAN), "b": tiny(nics=ON_LAN, **more)}
    return {"networks": {"vmlan": {"reservations": RESERVED}}, "vms": vms}


def test_a_network_is_begun_with_what_stands_on_it(host: harness.Host) -> None:
    """Its machines' processes are there before its own state is through."""
    lab = Lab(host)
    would = lab.changes(lab.apply(declared=on_lan(), test=True))
    states = lab.apply(declared=on_lan())
    assert lab.changes(states) == would
    wanted = {"network_present vmlan", "reservation_present a", "vm_running a", "vm_running b"}
    assert wanted <= would.keys()
    pids = lab.pids()
    for name in ("a", "b"):
        assert started(host, pids[name]) < ended(states["network_present vmlan"])
    assert lab.changes(lab.apply(declared=on_lan())) == {}
    assert lab.pids() == pids


def test_a_machine_that_cannot_run_costs_its_network_nothing(host: harness.Host) -> None:
    """The network and the other machine are there; its own state says what is wrong with it."""
    lab = Lab(host)
    states = lab.apply(declared=on_lan(cpu="no-such-cpu"), check=False)
    failed = [name for name, state in states.items() if state["result"] is False]
    assert failed == ["vm_running b"]
    assert "no-such-cpu" in states["vm_running b"]["comment"]
    assert lab.call("vm_list") == {"a": "running", "b": "stopped"}
    assert lab.call("network_info", "vmlan")["dnsmasq"]["running"]


def test_machines_of_a_network_that_fails_do_not_run(host: harness.Host) -> None:
    """They were begun with it, and are ended with it; the apply after that makes all of it."""
    lab = Lab(host)
    dnsmasq = "/usr/sbin/dnsmasq"
    broken = f"mv {dnsmasq} /srv/dnsmasq; printf '#!/bin/sh\necho broken; exit 1' > {dnsmasq}"
    host.run(["sh", "-c", f"{broken}; chmod +x {dnsmasq}"])
    states = lab.apply(declared=on_lan(), check=False)
    network = states["network_present vmlan"]
    assert network["result"] is False and "broken" in network["comment"]
    assert not states["vm_running a"]["changes"] and states["vm_running a"]["result"] is False
    assert lab.call("vm_list") == {"a": "stopped", "b": "stopped"}
    assert host.run(["pgrep", "-f", "^/usr/bin/qemu-system"], check=False).stdout == ""
    host.run(["mv", "/srv/dnsmasq", dnsmasq])
    lab.apply(declared=on_lan())
    assert lab.call("vm_list") == {"a": "running", "b": "running"}
    assert lab.changes(lab.apply(declared=on_lan())) == {}


def test_no_machine_is_begun_before_what_it_requires(host: harness.Host) -> None:
    """Two networks, the second with a reservation, which is made with it; then one by itself."""
    lab = Lab(host)
    declared = on_lan()
    other = {"mac": "52:54:00:00:00:0b", "address": "10.0.4.110"}
    declared["networks"]["other"] = {
        "address": "10.0.4.1/24",
        "multicast": "230.0.0.2:1234",
        "reservations": {"b": other},
    }
    would = lab.changes(lab.apply(declared=declared, test=True))
    states = lab.apply(declared=declared)
    assert lab.changes(states) == would
    assert started(host, lab.pids()["a"]) > ended(states["network_present vmlan"])
    assert (
        "10.0.4.110" in host.run(["cat", "/var/lib/qemulab/lab/networks/other/reservations"]).stdout
    )
    assert lab.changes(lab.apply(declared=declared)) == {}
    # One state by itself starts nothing that nobody would wait for.
    lab.apply("lab.clean", declared=declared)
    pillar = lab.pillar(declared)
    for name in ("lab-present", "lab-network:vmlan"):
        host.salt_call("state.sls_id", name, "lab", pillar=pillar)
    assert lab.call("vm_list") == {}
