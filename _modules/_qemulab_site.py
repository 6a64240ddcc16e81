"""
One lab on one host: what earlier applies stored, and what its supervisor runs.

Functions that take a name read what was applied from here; nothing below decides anything.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from typing import NamedTuple
from typing import TypeVar
from typing import cast

import _qemulab_host as host
import _qemulab_host_own as own
import _qemulab_hostnet as hostnet
import _qemulab_lock as lock
import _qemulab_probe as probe
import _qemulab_spec as spec
from _qemulab_firmware import Firmware
from _qemulab_host import File
from _qemulab_keys import SHARED_NAME
from _qemulab_keys import Network
from _qemulab_keys import Reservation
from _qemulab_keys import Vm
from _qemulab_kinds import SpecError
from _qemulab_layout import Layout
from _qemulab_plan_changes import Plan
from _qemulab_plan_lab import LabFacts
from _qemulab_run_answers import Answers
from _qemulab_schema import plain
from _qemulab_supervisord import Supervisord
from _qemulab_supervisors import STOPPED
from _qemulab_supervisors import Supervisor
from _qemulab_supervisors import UnitStatus
from _qemulab_systemd import Systemd

T = TypeVar("T")


def supervisor_for(layout: Layout) -> Supervisor:
    """Return the supervisor of this host. Source: sd_booted(3) for how systemd is told."""
    if Path("/run/systemd/system").is_dir():
        return Systemd(layout)
    return Supervisord(layout)


def _network(stored: dict[str, Any]) -> Network:
    """Read a network's file; one that does not say which interface it has is no network's."""
    return spec.stored(Network, stored | {"interface": stored["interface"]})


def _machine(stored: dict[str, Any]) -> tuple[Vm, Vm | None]:
    """Read a machine's file: as applied, and as its process was last started."""
    started = stored.get("started")
    return spec.stored(Vm, stored["defined"]), started and spec.stored(Vm, started)


class Begun(NamedTuple):
    """
    What was begun together with something else: the plan that its own state reports, and what the
    supervisor complained of.
    """

    plan: Plan
    said: str = ""


class Pressed(NamedTuple):
    """
    A machine whose power button was pressed together with others': the plan that its own state
    reports, the process, and since when that has had its grace (``time.monotonic``).
    """

    plan: Plan
    pid: int
    since: float


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
        self.supervisor = supervisor_for(self.layout)
        self.answers = Answers()
        self._files: dict[Path, tuple[Any, Any]] = {}
        self.begun: dict[tuple[str, str], Begun] = {}
        """What was begun with something else, until its own state asks: by kind and name."""
        self.promised: dict[str, Vm] = {}
        """Machines that a dry run has said it would make: their ports are theirs. By name."""
        self.leaving: set[str] = set()
        """Machines that a dry run has said it would stop: what they hold is free by then."""
        self.pressed: dict[str, Pressed] = {}
        """Machines that are on their way off, until their own state asks: by name."""

    # what is

    def status(self, kind: str, name: str, fresh: bool = False) -> UnitStatus:
        """Return how a unit is; ``fresh`` asks the supervisor anew."""
        if fresh:
            self.answers.forget()
        return self.answers.recent("units", self.supervisor.status).get((kind, name), STOPPED)

    def lock(
        self, kind: str, name: str, timeout: float | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """
        Hold the lock of a machine or a network for the length of a ``with`` block.

        Raises HostError, which names the holder, where it is not free within ``timeout`` seconds;
        default the lab's.
        """
        wait = self._lock_timeout if timeout is None else timeout
        return lock.hold(self.layout.lock(kind, name), wait)

    def links(self) -> list[dict[str, Any]]:
        """Return the host's interfaces."""
        return self.answers.recent("network", hostnet.survey)[0]

    def routes(self) -> list[dict[str, Any]]:
        """Return the host's IPv4 routes."""
        return self.answers.recent("network", hostnet.survey)[1]

    def firmware(self, machine: str) -> Firmware:
        """Return the UEFI firmware for a machine type; raises HostError where there is none."""
        return self.answers.recent(f"firmware {machine}", lambda: probe.firmware(machine))

    def accel(self, wanted: str) -> str:
        """Return the accelerator to use; raises HostError where a demanded one is no use."""
        return self.answers.recent(f"accel {wanted}", lambda: probe.accel(wanted).name)

    # what was applied

    def _stored(self, path: Path, parse: Callable[[dict[str, Any]], T]) -> T | None:
        """Return what a file of ours holds, read anew only where it is another file by now."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        # A file is never written in place: a new text is a new file.
        version = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._files.get(path, (None, None))[0] != version:
            value = host.read_json(path)
            try:
                self._files[path] = version, None if value is None else parse(value)
            except LookupError as err:
                raise host.damaged(path, f"it lacks {err}") from err
            except SpecError as err:
                raise host.damaged(path, err) from err
        return cast("T | None", self._files[path][1])

    def networks(self) -> list[str]:
        """Return the networks that the lab has."""
        layout = self.layout
        names = host.list_directory(layout.networks)
        return [name for name in names if layout.network_file(name).exists()]

    def network(self, name: str) -> Network | None:
        """Return a network as applied, with its reservations; ``None`` where there is none."""
        path = self.layout.network_file(name)
        return self._stored(path, _network)

    def all_networks(self) -> dict[str, Network]:
        """Return every network as applied."""
        found = {name: self.network(name) for name in self.networks()}
        return {name: network for name, network in found.items() if network is not None}

    def network_as_file(self, name: str, network: Network) -> File:
        """Return what keeps a network as applied."""
        return File(self.layout.network_file(name), host.json_text(plain(network)))

    def reservations(self, name: str) -> dict[str, Reservation]:
        """Return what is reserved on a network."""
        network = self.network(name)
        return dict(network.reservations) if network else {}

    def vms(self) -> list[str]:
        """Return the machines that the lab has defined."""
        names = host.list_directory(self.layout.vms)
        return [name for name in names if self.layout.vm_file(name).exists()]

    def vm_directories(self) -> list[str]:
        """Return every machine of which anything is left, its disks at least."""
        names = host.list_directory(self.layout.vms)
        return [name for name in names if own.machine(self.layout, name)]

    def vm(self, name: str) -> tuple[Vm | None, Vm | None]:
        """Return a machine as applied, and as its process was last started."""
        return self._stored(self.layout.vm_file(name), _machine) or (None, None)

    def vm_stored(self, name: str) -> int:
        """Return when a machine was last stored, as at each of its starts: nanoseconds, or 0."""
        try:
            return os.stat(self.layout.vm_file(name)).st_mtime_ns
        except OSError:
            return 0

    def vm_as_file(self, name: str, defined: Vm, started: Vm | None) -> File:
        """Return what keeps a machine as applied and as started."""
        value = {"defined": plain(defined), "started": started and plain(started)}
        return File(self.layout.vm_file(name), host.json_text(value))

    def store_vm(self, name: str, defined: Vm, started: Vm | None) -> None:
        """Keep a machine as applied and as started."""
        host.write_all([self.vm_as_file(name, defined, started)])

    def other_labs(self) -> tuple[str, ...]:
        """Return the names of the host's other labs."""
        state = self.layout.state
        names = set(host.list_directory(state)) - {self.lab, SHARED_NAME}
        return tuple(sorted(name for name in names if own.is_lab(state / name)))

    def beside(self, other: str) -> Site:
        """Return another lab of this host."""
        return Site(other, str(self.layout.root))

    def facts(self) -> LabFacts:
        """Return what is of the lab as a whole."""
        stored = host.read_json(self.layout.lab_file)
        return LabFacts(
            user=host.has_user(),
            ssh_key=self.layout.ssh_key.exists(),
            known=stored is not None,
            authorized_keys=tuple((stored or {}).get("authorized_keys", ())),
            networks=tuple(self.networks()),
            vms={name: self.status("vm", name).alive for name in self.vms()},
            others=self.other_labs(),
            remains=stored is None and self.supervisor.remains(),
            logs=own.has_logs(self.layout),
        )
