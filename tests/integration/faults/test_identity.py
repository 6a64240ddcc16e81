"""
Which process is whose: PIDs that are another's by now, zombies, damaged and deleted files, locks.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import harness
import pytest
from bystanders import bystanders
from faultlab import DECLARED
from faultlab import ON_SUPERVISORD
from faultlab import end_all
from faultlab import fresh
from faultlab import kill
from faultlab import pids
from faultlab import qemu_answers
from faultlab import supervisord_pid
from figures import Figures
from labs import Lab
from labs import flat
from masters import ENVIRONMENT
from masters import PROGRAMS

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter"),
]

STATE = "/var/lib/qemulab/lab"
RUNTIME = "/run/qemulab/lab"
PIDFILE = f"{RUNTIME}/supervisord.pid"
DEFINITIONS = [f"{STATE}/vms/a/vm.json", f"{STATE}/networks/vmlan/network.json"]
DEFINITIONS += [f"{STATE}/lab.json"]
SALT_START = 5.0
"""Seconds that Salt's own start may take on a busy host, in each measured time."""


def said(lab: Lab, *words: str) -> str:
    """Return all that ./salt-call prints, whatever comes of it; a traceback must not be in it."""
    command = [harness.REPO / "salt-call", "--out=json", *words]
    env = {"QEMULAB_PILLAR": os.fspath(lab.pillar(DECLARED))}
    done = lab.host.run(command, check=False, env=env)
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def put(lab: Lab, path: str, what: str) -> None:
    """Put something else in a file's place: a directory, a link to a foreign file, or a text."""
    make = {"directory": 'mkdir "$0"', "link": 'ln -s /etc/hosts "$0"'}
    command = f'rm -rf "$0"; {make.get(what, """printf %s "$1" > "$0" """)}'
    lab.host.run(["sh", "-c", command, path, what])


def hosts(lab: Lab) -> str:
    """Return the foreign file that ``put`` links to."""
    return lab.host.run(["cat", "/etc/hosts"]).stdout


def test_f8_a_reused_pid_is_nobody_of_ours(lab: Lab, figures: Figures) -> None:
    """Each PID of the lab, supervisord's in its PID file too, is a foreign process's by now."""
    reused = end_all(lab)
    with bystanders(lab, reused) as signalled:
        assert lab.call("vm_list") == {"a": "stopped"}
        assert not lab.call("network_info", "vmlan")["hub"]["running"]
        lab.apply(declared=DECLARED)
        assert len(pids(lab)) == 3 and not set(pids(lab).values()) & set(reused)
        assert lab.call("vm_stop", "a", "grace=0")["how"] in ("acpi", "quit")
        lab.apply("lab.clean", declared=DECLARED)
        assert pids(lab) == {}
    figures.count("foreign processes signalled", len(signalled), len(reused), lab.host.supervisor)
    assert not signalled


def test_f9_a_zombie_is_no_machine(lab: Lab) -> None:
    """PID 1 does not reap: without its supervisor too, a machine that has ended is off."""
    if lab.host.supervisor == "supervisord":
        kill(lab, supervisord_pid(lab))
    pid = pids(lab)["a"]
    os.kill(lab.host.pid1, signal.SIGSTOP)
    try:
        kill(lab, pid)
        state = f"/proc/{pid}/stat"
        harness.wait_for(lambda: ") Z " in lab.host.run(["cat", state]).stdout, 5, "the zombie")
        begin = time.monotonic()
        if lab.host.supervisor == "supervisord":
            assert lab.call("vm_list") == {"a": "stopped"}
            lab.apply(declared=DECLARED)
            assert lab.call("vm_list") == {"a": "running"}
        else:
            # Its PID 1 is the supervisor: there is nobody to ask, and that is said.
            assert "took longer than 10 s" in said(lab, "qemulab.vm_list")
        assert time.monotonic() - begin < 10 + 2 * SALT_START
    finally:
        os.kill(lab.host.pid1, signal.SIGCONT)
    harness.wait_for(lambda: fresh(lab, "a", pid), 10, "the machine")


@ON_SUPERVISORD
def test_f9_a_supervisor_that_is_stopped_is_named_and_not_doubled(lab: Lab) -> None:
    """Its zombie is not started elsewhere; once it goes on, it starts it again by itself."""
    supervisord = supervisord_pid(lab)
    pid = pids(lab)["a"]
    kill(lab, supervisord, "STOP")
    try:
        kill(lab, pid)
        begin = time.monotonic()
        text = said(lab, "state.apply", "lab")
        assert f"supervisord (process {supervisord}) does not answer" in text
        assert f"kill -CONT {supervisord}" in text
        assert time.monotonic() - begin < 2 * 5 + SALT_START
        assert not qemu_answers(lab)
    finally:
        kill(lab, supervisord, "CONT")
    harness.wait_for(lambda: fresh(lab, "a", pid), 5, "the machine")
    assert supervisord_pid(lab) == supervisord


@ON_SUPERVISORD  # the other supervisor has none of them
@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: Path(path).stem)
def test_f10_a_damaged_definition_is_named_and_not_followed(lab: Lab, path: str) -> None:
    """It is no traceback and costs no process; what the error says to do is all there is to do."""
    before, foreign = pids(lab), hosts(lab)
    for what in ("", "1", "{}", "directory", "link"):
        put(lab, path, what)
        text = said(lab, "state.apply", "lab")
        fine = what == "{}" and path.endswith("lab.json")  # nothing in there is missed
        assert fine or (f"{path} is damaged" in text and "remove it and apply again" in text)
    lab.host.run(["rm", "-r", path])
    lab.apply(declared=DECLARED)
    assert pids(lab) == before
    assert hosts(lab) == foreign


def test_f10_damaged_scripts_and_units_are_written_anew(lab: Lab) -> None:
    """By the start that needs them; a link is replaced, and what it leads to left alone."""
    foreign = hosts(lab)
    paths = [f"{STATE}/vms/a/{name}" for name in ("launch", "prepare", "powerdown")]
    if lab.host.supervisor == "systemd":
        paths += ["/etc/systemd/system/qemulab-vm@lab:a.service.d/qemulab.conf"]
        paths += ["/etc/systemd/system/qemulab-vm@.service"]
    else:
        paths += [f"{STATE}/units/vm-a.{end}" for end in ("ini", "sh")]
        paths += [f"{STATE}/supervisord.conf"]
    for what in ("garbage", "link"):
        lab.call("vm_stop", "a", "grace=0")
        for path in paths:
            put(lab, path, what)
        assert "vm_running a" in lab.changes(lab.apply(declared=DECLARED))
    assert hosts(lab) == foreign


@ON_SUPERVISORD
def test_f10_nobody_believes_a_pid_file(lab: Lab, figures: Figures) -> None:
    """supervisord's says 1, nothing, nonsense, a foreign PID; or it is no file at all."""
    foreign = hosts(lab)
    free = end_all(lab)[0]
    with bystanders(lab, [free]) as signalled:
        for what in ("1", "", "99999999999", "directory", "link", str(free)):
            put(lab, PIDFILE, what)
            lab.apply(declared=DECLARED)
            assert len(pids(lab)) == 3
            put(lab, PIDFILE, what)
            ended = end_all(lab)
            assert free not in ended
        lab.apply(declared=DECLARED)
        put(lab, PIDFILE, str(free))
        lab.apply("lab.clean", declared=DECLARED)
        assert pids(lab) == {}
    figures.count("foreign processes signalled", len(signalled), 1, lab.host.supervisor)
    assert not signalled
    assert hosts(lab) == foreign


def test_f11_files_that_are_deleted_cost_no_process(lab: Lab) -> None:
    """Definitions, locks, PID file, scripts: the apply writes them anew, and starts nothing."""
    before = pids(lab)
    scripts = [f"{STATE}/vms/a/launch", f"{STATE}/networks/vmlan/hub", f"{STATE}/supervisord.conf"]
    lab.host.run(["rm", "-rf", *DEFINITIONS, *scripts, f"{RUNTIME}/locks", PIDFILE])
    states = lab.apply(declared=DECLARED)
    assert "vm_running a" in lab.changes(states)
    assert pids(lab) == before
    assert lab.changes(lab.apply(declared=DECLARED)) == {}


@pytest.mark.parametrize(
    ("lock", "state"),
    [("network-vmlan", "network_present vmlan"), ("vm-a", "vm_running a")],
    ids=["network", "machine"],
)
def test_f35_a_lock_that_is_held_is_a_timeout_with_a_name(
    lab: Lab, figures: Figures, lock: str, state: str
) -> None:
    """Who holds it is told, nothing is half done, and once it is free the apply does it all."""
    end_all(lab)
    hung = lab.host.spawn(["flock", f"{RUNTIME}/locks/{lock}", "sh", "-c", "echo; sleep 60"])
    try:
        assert hung.stdout is not None
        hung.stdout.readline()
        failed = apply_with_timeout(lab, 1)[state]
        assert failed["result"] is False
        holder = lab.host.run(["pgrep", "-x", "flock"]).stdout.strip()
        assert f"{lock} is held by process {holder} (flock) for over 1 s" in failed["comment"]
        figures.seconds("F35 told of a lock of 1 s", failed["duration"] / 1000, lab.host.supervisor)
        assert 1000 <= failed["duration"] < 1500
        assert "a" not in pids(lab)
    finally:
        hung.kill()
        hung.communicate()
    lab.apply(declared=DECLARED)
    assert len(pids(lab)) == 3


@ON_SUPERVISORD
def test_f35_whom_a_changed_network_could_not_restart_the_next_apply_does(lab: Lab) -> None:
    """Its lock was held when its turn came; the network has another group by then, and is whole."""
    network = {**DECLARED["networks"]["vmlan"], "multicast": "230.0.0.7:1234"}
    declared = {**DECLARED, "networks": {"vmlan": {**network, "on_change": "restart"}}}
    before = pids(lab)["a"]
    hung = lab.host.spawn(["flock", f"{RUNTIME}/locks/vm-a", "sh", "-c", "echo; sleep 60"])
    try:
        assert hung.stdout is not None
        hung.stdout.readline()
        failed = apply_with_timeout(lab, 1, declared)["network_present vmlan"]
        assert failed["result"] is False
        assert "a was not restarted: " in failed["comment"]
        assert pids(lab)["a"] == before
    finally:
        hung.kill()
        hung.communicate()
    said = lab.changes(lab.apply(declared=declared, test=True))
    assert said == {
        "network_present vmlan": {
            "machines:a": {"old": "on the network as it was", "new": "restarted"}
            | {"effect": "restart"}
        }
    }
    assert lab.changes(lab.apply(declared=declared)) == said
    after = pids(lab)
    assert after["a"] != before
    assert lab.changes(lab.apply(declared=declared)) == {}
    assert pids(lab) == after


def apply_with_timeout(
    lab: Lab, seconds: int, declared: dict[str, Any] = DECLARED
) -> dict[str, Any]:
    """Apply with the minion option that says how long a lock is waited for; return the states."""
    place = lab.host.shared / "minion-of-f35"
    place.mkdir(exist_ok=True)
    (place / "top.sls").write_text("base: {'*': [lab]}", encoding="utf-8")
    (place / "lab.sls").write_text(json.dumps({"lab": declared}), encoding="utf-8")
    options = {
        "id": "qemulab",
        "file_client": "local",
        "root_dir": f"{place}/root",
        "file_roots": {"base": [f"{harness.REPO}/salt"]},
        "pillar_roots": {"base": [os.fspath(place)]},
        "module_dirs": [os.fspath(harness.REPO)],
        "enable_fqdns_grains": False,
        "qemulab.lock_timeout": seconds,
    }
    (place / "minion").write_text(json.dumps(options), encoding="utf-8")
    command = [f"{PROGRAMS}/salt-call", f"--config-dir={place}", "--out=json", "state.apply", "lab"]
    done = lab.host.run(command, check=False, env=ENVIRONMENT)
    assert "Traceback" not in done.stdout + done.stderr
    return flat(json.loads(done.stdout)["local"])
