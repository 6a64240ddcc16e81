"""
The lab that the tests under faults/ break, and how they look at it while it is broken.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import harness
import pytest
from figures import Figures
from labs import Lab
from labs import tiny

ON_SUPERVISORD = pytest.mark.parametrize("lab", ["supervisord"], indirect=True)
ON_SYSTEMD = pytest.mark.parametrize("lab", ["systemd"], indirect=True)

HEAL_TIMEOUT = 5.0
"""Seconds within which a supervisor must have a killed process back, and it must answer."""

DECLARED: dict[str, Any] = {
    "networks": {
        "vmlan": {"reservations": {"a": {"mac": "52:54:00:00:00:01", "address": "10.0.3.11"}}}
    },
    "vms": {
        "a": tiny(
            disks=[{"size": "1M"}],
            nics=[{"network": "vmlan", "mac": "52:54:00:00:00:01"}],
        )
    },
}


def made_whole(lab: Lab, figures: Figures) -> None:
    """Hold that the next apply makes the lab whole, and the one after it does nothing."""
    with figures.healing(lab.host.supervisor):
        lab.apply(declared=DECLARED)
    assert lab.changes(lab.apply(declared=DECLARED)) == {}
    assert len(qemus(lab)) == 1


def digest(lab: Lab) -> str:
    """Return the hash of the machine's disk."""
    path = "/var/lib/qemulab/lab/vms/a/disks/hda.qcow2"
    return lab.host.run(["sha256sum", path]).stdout.split()[0]


def kill(lab: Lab, pid: int, signal: str = "KILL") -> None:
    """Send a signal, as a person or the kernel would."""
    lab.host.run(["kill", f"-{signal}", str(pid)])


def healed(question: Callable[[], bool], what: str) -> float:
    """Wait for a supervisor to have healed something by itself; return in how many seconds."""
    begin = time.monotonic()
    harness.wait_for(question, HEAL_TIMEOUT, what)
    return time.monotonic() - begin


def qemu_answers(lab: Lab) -> bool:
    """Return whether QMP greets, without Salt's start in the time."""
    ask = "socat -t1 - UNIX-CONNECT:/run/qemulab/lab/vms/a/qmp.sock </dev/null"
    return '"QMP"' in lab.host.run(["sh", "-c", ask], check=False).stdout


def hub_carries(lab: Lab) -> bool:
    """Return whether a process holds the TAP, and the TAP its address."""
    shown = lab.host.run(["ip", "-j", "address", "show", "dev", "vmlan"], check=False).stdout
    links = json.loads(shown or "[]")
    return any(
        "LOWER_UP" in link["flags"] and any(a["local"] == "10.0.3.1" for a in link["addr_info"])
        for link in links
        if link
    )


def dns_answers(lab: Lab) -> bool:
    """Return whether the lab's DNS server knows the reserved name."""
    dig = ["dig", "+short", "+time=1", "+tries=1", "@10.0.3.1", "-q", "a"]
    return lab.host.run(dig, check=False).stdout.strip() == "10.0.3.11"


ANSWERS: dict[str, Callable[[Lab], bool]] = {
    "a": qemu_answers,
    "hub vmlan": hub_carries,
    "dnsmasq vmlan": dns_answers,
}


def fresh(lab: Lab, name: str, old: int) -> bool:
    """Return whether a process was replaced by another one that answers."""
    there = lab.host.run(["test", "-e", f"/proc/{old}"], check=False).returncode == 0
    return not there and ANSWERS[name](lab)


PROCESSES = {
    "a": "/usr/bin/qemu-system-x86_64 ",
    "hub vmlan": "/usr/bin/socat ",
    "dnsmasq vmlan": "/usr/sbin/dnsmasq ",
}


def pids(lab: Lab) -> dict[str, int]:
    """Return the PIDs of the lab's processes as the kernel knows them; one each, or none."""
    lines = [
        line.split(None, 1)
        for line in lab.host.run(["ps", "-ewwo", "pid=,args="]).stdout.splitlines()
    ]
    found = {}
    for name, begin in PROCESSES.items():
        for number, command in lines:
            if command.startswith(begin):
                assert name not in found, f"{name} runs twice"
                found[name] = int(number)
    return found


def qemus(lab: Lab) -> list[str]:
    """Return the command line of every QEMU that runs."""
    return [line for line in lab.host.processes() if line.startswith("/usr/bin/qemu-system")]


def supervisord_pid(lab: Lab) -> int:
    """Return the PID of the lab's supervisord."""
    found = lab.host.run(["pgrep", "-f", "/var/lib/qemulab/lab/supervisord.conf"]).stdout
    return int(found.split()[0])


def forgive(lab: Lab) -> None:
    """Have the supervisor forget earlier failures: it waits longer after each, then gives up."""
    if lab.host.supervisor == "systemd":
        lab.host.run(["systemctl", "reset-failed"])
        return

    def settled() -> bool:
        states = {info["statename"] for info in lab.supervisord().getAllProcessInfo()}
        return "STARTING" not in states

    # It believes in a start that has lasted for a second.
    harness.wait_for(settled, 10, "supervisord")


def end_all(lab: Lab) -> list[int]:
    """End all that runs of the lab so that nobody starts it again; return the PIDs it had."""
    ended = list(pids(lab).values())
    if lab.host.supervisor == "supervisord":
        ended.insert(0, supervisord_pid(lab))
    for pid in ended:
        kill(lab, pid)
    if lab.host.supervisor == "systemd":
        lab.host.run(["sh", "-c", "systemctl stop 'qemulab-*'; systemctl reset-failed"])
    there = " || ".join(f"test -e /proc/{pid}" for pid in ended)
    harness.wait_for(
        lambda: lab.host.run(["sh", "-c", there], check=False).returncode != 0, 5, "their end"
    )
    return ended
