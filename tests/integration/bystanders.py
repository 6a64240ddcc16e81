"""
Foreign processes with the very PIDs that a lab's had: who signals a PID by its number hits them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from collections.abc import Sequence

from labs import Lab

#: Forks until the child has the PID that is wanted; the child notes every signal that it gets.
PROGRAM = r"""
import os, signal, sys
wanted, record = int(sys.argv[1]), sys.argv[2]

def note(number, frame):
    with open(record, "a") as file:
        file.write(signal.Signals(number).name + "\n")

for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
    signal.signal(number, note)
def next_pid(number):
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(number - 1))

for _ in range(200):
    next_pid(wanted)
    child = os.fork()
    if child == 0 and os.getpid() == wanted:
        break
    if child == 0:
        os._exit(0)
    if child == wanted:
        next_pid(20000)    # for the others: the numbers that are still to be had stay free
        sys.exit()
    os.waitpid(child, 0)
else:
    sys.exit(f"PID {wanted} is not to be had")
os.setsid()
nowhere = os.open("/dev/null", os.O_RDWR)
for descriptor in (0, 1, 2):
    os.dup2(nowhere, descriptor)
with open("/proc/self/comm", "w") as name:
    name.write("qemu-system-x86")
while True:
    signal.pause()
"""


@contextlib.contextmanager
def bystanders(lab: Lab, pids: Sequence[int]) -> Iterator[list[str]]:
    """
    Have a foreign process at each of these PIDs, all of which must be free.

    Gives a list that afterwards holds each signal that one of them got, and who was killed.
    """
    signalled: list[str] = []
    record = {pid: lab.host.shared / f"signals-{pid}" for pid in pids}
    for pid, path in record.items():
        path.write_text("", encoding="utf-8")
        lab.host.run(["python3", "-c", PROGRAM, str(pid), path])
    try:
        yield signalled
    finally:
        for pid, path in record.items():
            signalled += [f"{pid}: {line}" for line in path.read_text("utf-8").splitlines()]
            if lab.host.run(["kill", "-KILL", str(pid)], check=False).returncode != 0:
                signalled.append(f"{pid}: it has ended")
