"""Machines of a row are started together, and each one's state tells of its own alone."""

from __future__ import annotations

import datetime
import os
import time
from typing import Any

import harness
from labs import Lab
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
