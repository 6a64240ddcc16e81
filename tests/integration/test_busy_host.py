"""
A host that has too much to do: what is slow is waited for, and what stands still is told.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator

import harness
import pytest
from figures import Figures
from labs import Lab
from labs import tiny

#: Runs in the host: has a machine's QEMU, from its first step on, stand still most of the time.
STARVE = """
import os, pathlib, signal, sys, time
name, still, runs = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
def found():
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\\0")
        except OSError:
            continue
        if b"qemu-system" in words[0] and f"guest={name}".encode() in words:
            return int(path.parent.name)
    return 0
while not (pid := found()):
    time.sleep(0.002)
try:
    while True:
        os.kill(pid, signal.SIGSTOP)
        print("stands", flush=True)
        time.sleep(still)
        os.kill(pid, signal.SIGCONT)
        time.sleep(runs)
except ProcessLookupError:
    pass
finally:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass
"""


@contextlib.contextmanager
def starved(host: harness.Host, name: str, still: float, runs: float) -> Iterator[None]:
    """Starve a machine of a host: it stands still, then runs, for so many seconds in turn."""
    process = host.spawn(["python3", "-c", STARVE, name, str(still), str(runs)])
    try:
        yield
    finally:
        process.terminate()
        process.communicate(timeout=10)


def test_a_slow_start_is_waited_for_and_a_slow_machine_is_asked_again(
    namespace_host: harness.Host,
) -> None:
    """QEMU answers nobody within two seconds here, and gets there all the same."""
    lab = Lab(namespace_host)
    declared = {"vms": {"a": tiny()}}
    with starved(namespace_host, "a", still=2.6, runs=0.05):
        states = lab.apply(declared=declared)
        assert "running" in lab.changes(states)["vm_running a"]
        assert states["vm_running a"]["duration"] > 2000, "it was not starved"
        pid = lab.pids()["a"]
        assert lab.changes(lab.apply(declared=declared)) == {}
        # Stopped in good order, by its own QEMU: not killed as one that is dead.
        assert lab.call("vm_stop", "a", "grace=0")["how"] == "quit"
    assert lab.apply(declared=declared)["vm_running a"]["result"] is True
    assert lab.pids()["a"] != pid


@pytest.mark.full
def test_a_start_that_stands_still_is_given_up(namespace_host: harness.Host) -> None:
    """Nothing is waited for that shows no sign of life; the next apply has it running."""
    lab = Lab(namespace_host)
    declared = {"vms": {"a": tiny()}}
    with starved(namespace_host, "a", still=120, runs=0):
        begun = time.monotonic()
        state = lab.apply(declared=declared, check=False)["vm_running a"]
        assert "a did not start: it is not answering" in state["comment"]
        assert 20 < time.monotonic() - begun < 60
    assert lab.apply(declared=declared)["vm_running a"]["result"] is True


#: Programs that want the CPU all the time, beside the lab's.
LOAD = 10
BUSY = ["sh", "-c", "while :; do :; done"]

#: As much as a guest is given by default. One that hears its power button takes a second.
GRACE = 30


@contextlib.contextmanager
def load() -> Iterator[None]:
    """Keep the machine busy: as many runnable processes as ``LOAD`` beside whatever runs."""
    loops = [subprocess.Popen(["nice", "-n", "4", *BUSY]) for _ in range(LOAD)]
    try:
        yield
    finally:
        for each in loops:
            each.kill()
            each.wait()


@pytest.mark.parametrize(
    ("names", "rounds"), [("abc", 1), pytest.param("abcdefgh", 13, marks=pytest.mark.full)]
)
def test_no_clean_takes_the_grace(
    namespace_host: harness.Host, names: str, rounds: int, figures: Figures
) -> None:
    """
    At a load of ten they start, all at once; booted and idle they hear their power buttons, each
    time.

    What is counted are machines: each ``lab.clean`` ends all of its lab, three in the one of CI,
    eight in each of the thirteen that ``--full`` adds, 107 together.
    """
    lab = Lab(namespace_host)
    guest = tiny(boot="guest", memory=160, cpus=2, stop_grace=GRACE, nics=[])
    declared = {"vms": {name: guest for name in names}}
    with load():
        for _ in range(rounds):
            lab.apply(declared=declared)
            for name in names:
                harness.wait_for(
                    lambda name=name: "qemulab: booted" in lab.console(name), 300, "its report"
                )
            states = lab.apply("lab.clean", declared=declared)
            for name in names:
                state = states[f"vm_absent {name}"]
                ignored = state["comment"] != f"{name} has been removed; its disks are kept"
                figures.count(
                    "idle guests that lab.clean ended, which took their grace", int(ignored), 1
                )
                assert not ignored, lab.console(name)[-3000:]
                figures.seconds(
                    "the end of one by lab.clean, at a load of ten", state["duration"] / 1000
                )
                lab.host.run(["rm", "-f", f"/var/log/qemulab/lab/consoles/{name}.log"])
