"""
What becomes of a lab whose processes are killed, stopped or raced for, and whose link is broken.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from collections.abc import Iterator

import harness
import pytest
from faultlab import ANSWERS
from faultlab import DECLARED
from faultlab import dns_answers
from faultlab import forgive
from faultlab import fresh
from faultlab import healed
from faultlab import hub_carries
from faultlab import kill
from faultlab import pids
from faultlab import qemu_answers
from figures import Figures
from labs import Lab

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter"),
]


@pytest.mark.parametrize("rounds", [3, pytest.param(25, marks=pytest.mark.full)])
@pytest.mark.parametrize(
    ("what", "names"),
    [
        pytest.param("QEMU", ["a"], id="F1-qemu"),
        pytest.param("hub (socat)", ["hub vmlan"], id="F2-hub"),
        pytest.param("dnsmasq", ["dnsmasq vmlan"], id="F3-dnsmasq"),
        pytest.param("all three", list(ANSWERS), id="F4-all-three"),
    ],
)
def test_killed_processes_come_back(
    lab: Lab, figures: Figures, what: str, names: list[str], rounds: int
) -> None:
    """By their supervisor, which touches no other; the TAP stays where it is."""
    for _ in range(rounds):
        forgive(lab)
        harness.wait_for(lambda: all(answers(lab) for answers in ANSWERS.values()), 10, "the lab")
        before = pids(lab)
        for name in names:
            kill(lab, before[name])
        gone = {name: before[name] for name in names}
        seconds = healed(lambda gone=gone: all(fresh(lab, *each) for each in gone.items()), what)
        figures.seconds(f"recovery after kill -9: {what}", seconds, lab.host.supervisor)
        after = pids(lab)
        assert {name for name in before if after[name] != before[name]} == set(names)


def test_f12_a_socket_that_is_gone_costs_no_machine(lab: Lab) -> None:
    """It runs, but cannot be asked: that is said, nothing is started a second time."""
    pid = lab.pids()["a"]
    lab.host.run(["rm", "/run/qemulab/lab/vms/a/qmp.sock"])
    state = lab.apply(declared=DECLARED, check=False)["vm_running a"]
    assert state["changes"] == {}
    lab.host.run(["test", "-e", f"/proc/{pid}"])
    lab.call("vm_stop", "a")
    assert lab.call("vm_list") == {"a": "stopped"}


def test_f12_a_stale_socket_is_in_nobodys_way(lab: Lab) -> None:
    """A start replaces it."""
    lab.call("vm_stop", "a", "grace=0")
    path = "/run/qemulab/lab/vms/a/qmp.sock"
    bind = f"import os, socket as s; p = '{path}'; os.makedirs(os.path.dirname(p), exist_ok=True)"
    bind += "; s.socket(s.AF_UNIX).bind(p)"
    lab.host.run(["python3", "-c", bind])
    assert "vm_running a" in lab.changes(lab.apply(declared=DECLARED))
    assert lab.call("vm_list") == {"a": "running"}


def test_f13_a_stopped_qemu_is_unresponsive_and_hangs_nobody(lab: Lab) -> None:
    """SIGSTOP: it has its PID and its socket, and says nothing."""
    pid = lab.pids()["a"]
    kill(lab, pid, "STOP")
    try:
        begin = time.monotonic()
        assert lab.call("vm_list") == {"a": "unresponsive"}
        assert time.monotonic() - begin < 5 + 5  # Salt's own start is in
        state = lab.apply(declared=DECLARED, check=False)["vm_running a"]
        assert state["result"] is False and "unresponsive" in state["comment"]
    finally:
        kill(lab, pid, "CONT")
    assert lab.pids()["a"] == pid


def test_f14_a_foreign_client_of_qmp_is_named_as_the_cause(lab: Lab) -> None:
    """QEMU serves one at a time; the machine is left alone."""
    before = lab.pids()["a"]
    hold = "exec socat UNIX-CONNECT:/run/qemulab/lab/vms/a/qmp.sock EXEC:'sleep 60'"
    client = lab.host.spawn(["sh", "-c", hold])
    try:
        harness.wait_for(lambda: not qemu_answers(lab), 5, "the client's hold")
        state = lab.apply(declared=DECLARED, check=False)["vm_running a"]
        assert state["result"] is False and "another client may hold it" in state["comment"]
    finally:
        client.kill()
        client.communicate()
    harness.wait_for(lambda: qemu_answers(lab), 5, "QMP")
    assert lab.pids()["a"] == before


def test_f19_a_guest_that_ignores_its_power_button_is_stopped(lab: Lab) -> None:
    """Within its grace and 5 seconds; how is said."""
    begin = time.monotonic()
    assert lab.call("vm_stop", "a", "grace=2")["how"] == "quit"
    assert time.monotonic() - begin < 2 + 5 + 5  # Salt's own start is in
    assert lab.call("vm_list") == {"a": "stopped"}


def test_f20_a_machine_that_went_off_by_itself_stays_off(lab: Lab) -> None:
    """QEMU ended in good order: no supervisor starts it; the state does."""
    quit_it = '{"execute":"qmp_capabilities"}\\n{"execute":"quit"}\\n'
    path = "/run/qemulab/lab/vms/a/qmp.sock"
    order = f"printf '{quit_it}' | socat -t5 - UNIX-CONNECT:{path}"

    def is_off() -> bool:
        # Again where a busy QEMU had not read it before socat left.
        lab.host.run(["sh", "-c", order], check=False)
        return bool(lab.call("vm_list") == {"a": "stopped"})

    harness.wait_for(is_off, 30, "its end")
    time.sleep(2.5)  # longer than any supervisor waits between two tries
    assert lab.call("vm_list") == {"a": "stopped"}
    assert lab.changes(lab.apply(declared=DECLARED)).keys() == {"vm_running a"}


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(["ip", "link", "delete", "dev", "vmlan"], id="deleted"),
        pytest.param(["ip", "address", "flush", "dev", "vmlan"], id="address"),
        pytest.param(["ip", "link", "set", "dev", "vmlan", "down"], id="down"),
        pytest.param(["ip", "route", "delete", "230.0.0.1/32", "dev", "lo"], id="route"),
    ],
)
def test_f22_a_link_that_somebody_broke_is_mended(lab: Lab, break_it: list[str]) -> None:
    """By the next apply at the latest; DNS answers on it again."""
    lab.host.run(break_it)
    lab.apply(declared=DECLARED)
    healed(lambda: hub_carries(lab) and dns_answers(lab), "hub and DNS")
    assert "230.0.0.1 dev lo scope link" in lab.host.routes()


def test_f35_no_process_of_a_lab_holds_a_lock(lab: Lab) -> None:
    """It would for its whole life, and no later apply could have it."""
    pids = {str(pid) for pid in lab.pids().values()}
    locks = lab.host.run(["lslocks", "-n", "-o", "PID,PATH"]).stdout.splitlines()
    assert not [line for line in locks if line.split()[0] in pids and "/locks/" in line]


def apply_until(lab: Lab, seconds: float) -> None:
    """Begin an apply, and kill it with SIGKILL after a while."""
    pillar = lab.pillar(DECLARED)
    words = [str(harness.REPO / "salt-call"), "state.apply", "lab"]
    process = lab.host.spawn(words, env={"QEMULAB_PILLAR": str(pillar)})
    time.sleep(seconds)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("seconds", [0.7, 0.9, 1.1, 1.3, 1.6])
def test_f6_an_apply_that_was_killed_is_finished_by_the_next(lab: Lab, seconds: float) -> None:
    """Wherever it was: no lock is left, and no file that is half written."""
    lab.call("vm_stop", "a", "grace=0")
    apply_until(lab, seconds)
    lab.apply(declared=DECLARED)
    assert lab.call("vm_list") == {"a": "running"}
    find = ["find", "/var/lib/qemulab", "-name", "*.new", "-o", "-name", ".vm.json.*"]
    assert lab.host.run(find).stdout == ""


@contextlib.contextmanager
def counted(lab: Lab) -> Iterator[Callable[[], int]]:
    """Count how often the machine's process is started: by its supervisor itself."""
    if lab.host.supervisor == "supervisord":
        log = ["grep", "-h", "spawned: 'vm-a'", "/var/log/qemulab/lab/supervisord.log"]
        yield lambda: len(lab.host.run(log, check=False).stdout.splitlines())
        return
    drop_in = "/etc/systemd/system/qemulab-vm@lab:a.service.d/count.conf"
    text = "[Service]\nExecStartPre=+/bin/sh -c 'echo >> /run/starts'\n"
    write = f'printf %s "$0" > {drop_in} && systemctl daemon-reload && : > /run/starts'
    lab.host.run(["sh", "-c", write, text])
    try:
        yield lambda: len(lab.host.run(["cat", "/run/starts"]).stdout.splitlines())
    finally:
        lab.host.run(["sh", "-c", f"rm {drop_in} /run/starts; systemctl daemon-reload"])


@pytest.mark.parametrize("rounds", [1, pytest.param(100, marks=pytest.mark.full)])
def test_f7_two_applies_and_six_starts_make_one_process(
    lab: Lab, figures: Figures, rounds: int
) -> None:
    """Whoever comes second finds it done; nobody fails for it."""
    call = str(harness.REPO / "salt-call")
    env = {"QEMULAB_PILLAR": str(lab.pillar(DECLARED))}
    words = [["state.apply", "lab", "concurrent=True"]] * 2 + [["qemulab.vm_start", "a"]] * 6
    twice = 0
    with counted(lab) as starts:
        for _ in range(rounds):
            lab.call("vm_stop", "a", "grace=0")
            before = starts()
            running = [lab.host.spawn([call, "--out=json", *each], env=env) for each in words]
            for process in running:
                said, errors = process.communicate(timeout=90)
                assert process.returncode == 0, said + errors
                assert "Traceback" not in said + errors
            assert "a" in pids(lab)  # one process each
            assert starts() > before
            twice += starts() - before > 1
    figures.count("machines started twice", twice, rounds, lab.host.supervisor)
    assert twice == 0
