"""
One lab on one host: its name, paths, supervisor and locks, and the answers of this run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _qemulab_host_lock as lock
import _qemulab_host_net as host_net
import _qemulab_host_owned as own
import _qemulab_host_probe as probe
import _qemulab_host_seam as host
from _qemulab_host_firmware import Firmware
from _qemulab_host_paths import Layout
from _qemulab_pillar_keys import SHARED_NAME
from _qemulab_run_answers import ANSWER_AGE
from _qemulab_run_answers import Answers
from _qemulab_run_protocol import STOPPED
from _qemulab_run_protocol import UnitStatus
from _qemulab_run_store import Store
from _qemulab_run_supervisor import LabSupervisor
from _qemulab_run_supervisor import supervisor_for
from _qemulab_run_underway import Underway


class Site:
    """
    One lab on this host.

    lab
        Its name.

    root
        Prefix of every path, ``/`` by default.

    lock_timeout
        Seconds to wait for whoever changes the same machine or network. Default 60.
    """

    def __init__(self, lab: str, root: str = "/", lock_timeout: float = lock.TIMEOUT) -> None:
        self.lab = lab
        self._lock_timeout = lock_timeout
        self.layout = Layout(lab, Path(root))
        self.answers = Answers()
        self.supervisor = LabSupervisor(supervisor_for(self.layout), self.answers)
        self.store = Store(self.layout)
        self.run = Underway()

    def status(self, kind: str, name: str, fresh: bool = False) -> UnitStatus:
        """Return how a unit is; ``fresh`` asks the supervisor anew."""
        return self.units(0 if fresh else ANSWER_AGE).get((kind, name), STOPPED)

    def units(self, age: float = ANSWER_AGE) -> dict[tuple[str, str], UnitStatus]:
        """Return how all units are, by kind and name; the answer is no older than ``age``."""
        return self.answers.recent("units", self.supervisor.status, age)

    def running(self, kinds: Collection[str]) -> dict[str, int]:
        """Return the names of the units of some kinds that run, each with its PID."""
        found = self.units().items()
        return {name: unit.pid for (kind, name), unit in found if kind in kinds and unit.alive}

    @contextlib.contextmanager
    def lock(self, kind: str, name: str, timeout: float | None = None) -> Iterator[None]:
        """
        Hold the lock of a machine or a network for the length of a ``with`` block.

        What is asked in it is asked anew: another apply may have been at it until just now.

        Raises HostError, which names the holder, where it is not free within ``timeout`` seconds;
        default the lab's.
        """
        wait = self._lock_timeout if timeout is None else timeout
        with lock.hold(self.layout.lock(kind, name), wait):
            self.answers.forget()
            yield

    def interfaces(self) -> list[dict[str, Any]]:
        """Return the host's interfaces."""
        return self.answers.recent("network", host_net.survey)[0]

    def routes(self) -> list[dict[str, Any]]:
        """Return the host's IPv4 routes."""
        return self.answers.recent("network", host_net.survey)[1]

    def firmware(self, machine: str) -> Firmware:
        """Return the UEFI firmware for a machine type; raises HostError where there is none."""
        return self.answers.recent(f"firmware {machine}", lambda: probe.firmware(machine))

    def accel(self, wanted: str) -> str:
        """Return the accelerator to use; raises HostError where a demanded one is no use."""
        return self.answers.recent(f"accel {wanted}", lambda: probe.accel(wanted).name)

    def other_labs(self) -> tuple[str, ...]:
        """Return the names of the host's other labs."""
        state = self.layout.state
        names = set(host.list_directory(state)) - {self.lab, SHARED_NAME}
        return tuple(sorted(name for name in names if own.is_lab(state / name)))

    def beside(self, other: str) -> Site:
        """Return another lab of this host."""
        return Site(other, str(self.layout.root))
