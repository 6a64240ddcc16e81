"""
A lab as a whole: off for the night and on in the morning, started with the host, taken away.
"""

from __future__ import annotations

import harness
import pytest
from labs import Lab
from labs import tiny

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter"),
]

ON_LAN = [{"network": "vmlan"}]
GRACE = 60
"""Seconds that a machine has which never hears its power button: a purge waits for none of them."""


def test_a_lab_for_the_night(host: harness.Host) -> None:
    """Off and on as the dry runs say; on again as it was applied, whatever the pillar says."""
    lab = Lab(host)
    declared = {"vms": {name: tiny(nics=ON_LAN) for name in ("a", "010")}}
    lab.apply(declared=declared)
    before = lab.pids()
    faulty = {"vms": {"x y": {}}}

    would = lab.apply("lab.stopped", declared=faulty, test=True)["stopped lab-stopped"]
    done = lab.apply("lab.stopped", declared=faulty)["stopped lab-stopped"]
    stopped = {"old": "running", "new": "stopped", "effect": "stop"}
    assert would["changes"] == done["changes"] == {"vms:010": stopped, "vms:a": stopped}
    assert done["comment"] == "the lab's machines have been powered off; their disks are kept"
    assert lab.call("vm_list") == {"010": "stopped", "a": "stopped"}
    networks = {name: pid for name, pid in before.items() if name not in declared["vms"]}
    assert lab.pids() == networks
    assert lab.changes(lab.apply("lab.stopped")) == {}

    host.run(["ip", "link", "set", "dev", "vmlan", "down"])
    would = lab.apply("lab.started", declared=faulty, test=True)["started lab-started"]
    done = lab.apply("lab.started", declared=faulty)["started lab-started"]
    started = {"old": "stopped", "new": "running", "effect": "live"}
    down = {"old": "down", "new": "up", "effect": "live"}
    assert done["changes"] == {"networks:vmlan": down, "vms:010": started, "vms:a": started}
    assert would["changes"] == done["changes"]
    assert lab.call("vm_list") == {"010": "running", "a": "running"}
    assert lab.changes(lab.apply(declared=declared)) == {}
    assert lab.changes(lab.apply("lab.started")) == {}

    before = lab.pids()
    assert lab.call("lab_restart")["how"] == {"010": "quit", "a": "quit"}
    after = lab.pids()
    assert {name for name in after if after[name] != before[name]} == {"010", "a"}


def test_a_start_with_the_host_touches_nothing_and_a_purge_waits_for_nobody(
    host: harness.Host,
) -> None:
    """The effect ``boot``; then all is gone long before the machine's grace is over."""
    lab = Lab(host)
    vm = tiny(nics=ON_LAN, stop_grace=GRACE)
    lab.apply(declared={"networks": {"vmlan": {}}, "vms": {"a": vm}})
    before = lab.pids()
    boots = {"networks": {"vmlan": {"autostart": True}}, "vms": {"a": {**vm, "autostart": True}}}
    would = lab.changes(lab.apply(declared=boots, test=True))
    boot = {"autostart": {"old": False, "new": True, "effect": "boot"}}
    assert would == {"network_present vmlan": boot, "vm_running a": boot}
    assert lab.changes(lab.apply(declared=boots)) == would
    assert lab.pids() == before
    if host.supervisor == "systemd":
        units = ["qemulab-vm@lab:a.service", "qemulab-hub@lab:vmlan.service"]
        shown = host.run(["systemctl", "is-enabled", *units]).stdout.split()
        assert shown == ["enabled", "enabled"]
    gone = lab.apply("lab.purge", declared=boots)["vm_absent a"]
    assert gone["duration"] / 1000 < GRACE / 4
    assert gone["comment"] == "a has been removed"
