"""
The supervisors a host may have: systemd where it is PID 1, else a supervisord of the lab's own.

Both have one interface, ``Supervisor``. Nothing of qemulab stays resident: they watch and restart
the processes, an apply only talks to them.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import signal
import site
import socket
import sys
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Protocol

import _qemulab_host as host
import _qemulab_units as units
from _qemulab_host import HostError
from _qemulab_layout import Layout
from _qemulab_units import Unit

SYSTEMD_DIRECTORY = Path("/etc/systemd/system")
START_TIMEOUT = 10.0


@dataclass(frozen=True)
class Status:
    """How a unit is: ``running``, ``stopped`` or ``failed``, its PID (0 for none), its restarts."""

    state: str
    pid: int = 0
    detail: str = ""

    @property
    def alive(self) -> bool:
        """Return whether a process runs."""
        return self.state == "running"


STOPPED = Status("stopped")


class Supervisor(Protocol):
    """What both supervisors can do."""

    name: str

    def open(self) -> None:
        """Begin to come up, for a lab that is about to have units; does not wait."""

    def status(self) -> dict[tuple[str, str], Status]:
        """Return every unit of the lab that the supervisor knows, by kind and name."""

    def start(self, unit: Unit) -> None:
        """Define a unit and start it; a running one is left alone."""

    def update(self, unit: Unit) -> None:
        """Define a unit anew without starting or stopping it."""

    def stop(self, kind: str, name: str, hard: bool = False) -> None:
        """Stop a unit and wait for its end; ``hard`` sends SIGKILL at once."""

    def signal(self, kind: str, name: str, number: signal.Signals) -> None:
        """Signal a unit's main process."""

    def log(self, kind: str, name: str, lines: int = 5) -> str:
        """Return the last lines that a unit wrote."""

    def forget(self, kind: str, name: str) -> None:
        """Remove a stopped unit's definition."""

    def close(self) -> None:
        """Remove what the supervisor needed for a lab that has no unit left."""


def supervisor_for(layout: Layout) -> Supervisor:
    """Return the supervisor of this host. Source: sd_booted(3) for how systemd is told."""
    if Path("/run/systemd/system").is_dir():
        return Systemd(layout)
    return Supervisord(layout)


class Systemd:
    """systemd as PID 1: template units on disk, one drop-in for each instance."""

    name = "systemd"

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def open(self) -> None:
        """Do nothing: it is up."""

    def status(self) -> dict[tuple[str, str], Status]:
        """Return the lab's loaded units; systemd forgets stopped ones by itself."""
        lab = self._layout.lab
        wanted = "Id,ActiveState,SubState,MainPID,NRestarts,Result"
        shown = host.run(
            ["systemctl", "show", "--all", f"--property={wanted}", f"qemulab-*@{lab}:*.service"]
        )
        found = {}
        for block in shown.stdout.split("\n\n"):
            values = dict(line.partition("=")[::2] for line in block.splitlines())
            kind, at, instance = values.get("Id", "").removeprefix("qemulab-").partition("@")
            owner, colon, name = instance.removesuffix(".service").partition(":")
            if at and colon and owner == lab:
                found[kind, name] = self._status(values)
        return found

    @staticmethod
    def _status(values: dict[str, str]) -> Status:
        active = values["ActiveState"]
        pid = int(values["MainPID"])
        detail = f"{values['SubState']}, restarts {values['NRestarts']}"
        if active in ("active", "deactivating") and pid:
            return Status("running", pid, detail)
        if active == "activating":
            return Status("starting", pid, detail)
        if active == "failed":
            return Status("failed", 0, f"{detail}, {values['Result']}")
        return Status("stopped", 0, detail)

    def _drop_in(self, service: str) -> Path:
        return SYSTEMD_DIRECTORY / f"{service}.d" / "qemulab.conf"

    def update(self, unit: Unit) -> None:
        """
        Write template and drop-in.

        systemd reads what it has not loaded yet by itself; only a unit that it holds in memory
        needs a reload, and it says so.
        """
        template = SYSTEMD_DIRECTORY / units.template_name(unit.kind)
        changed = host.write(template, units.systemd_template(unit.kind, unit.user))
        changed |= host.write(self._drop_in(unit.service), units.systemd_drop_in(unit))
        if changed:
            shown = host.run(["systemctl", "show", "-P", "NeedDaemonReload", unit.service])
            if shown.stdout.strip() == "yes":
                host.run(["systemctl", "daemon-reload"])
        wanted = SYSTEMD_DIRECTORY / "multi-user.target.wants" / unit.service
        if unit.autostart != os.path.lexists(wanted):
            verb = "enable" if unit.autostart else "disable"
            host.run(["systemctl", "--no-reload", "--quiet", verb, unit.service])

    def start(self, unit: Unit) -> None:
        """Define a unit and start it."""
        self.update(unit)
        if self.status().get((unit.kind, unit.name), STOPPED).state == "failed":
            host.run(["systemctl", "reset-failed", unit.service])
        started = host.run(["systemctl", "start", unit.service], check=False)
        if started.status != 0:
            log = self.log(unit.kind, unit.name)
            problem = f"systemd could not start {unit.service}"
            raise HostError(problem, log or started.stderr, f"journalctl -u {unit.service}")

    def log(self, kind: str, name: str, lines: int = 5) -> str:
        """Return the last lines that a unit wrote to the journal."""
        service = units.service_name(kind, self._layout.lab, name)
        host.run(["journalctl", "--sync"], check=False)
        argv = ["journalctl", "-q", "-o", "cat", "-n", str(lines), "-u", service]
        return host.run(argv, check=False).stdout

    def stop(self, kind: str, name: str, hard: bool = False) -> None:
        """Stop a unit; hard: leave it no time, and do not let it come back."""
        service = units.service_name(kind, self._layout.lab, name)
        if hard:
            host.run(["systemctl", "stop", "--no-block", service])
            kill = ["systemctl", "kill", "--signal=KILL", "--kill-whom=main", service]
            host.run(kill, check=False)
        host.run(["systemctl", "stop", service], timeout=3700)
        host.run(["systemctl", "reset-failed", service], check=False)

    def signal(self, kind: str, name: str, number: signal.Signals) -> None:
        """Signal a unit's main process: systemd knows which it is."""
        service = units.service_name(kind, self._layout.lab, name)
        host.run(["systemctl", "kill", f"--signal={number.name}", "--kill-whom=main", service])

    def forget(self, kind: str, name: str) -> None:
        """Remove a unit's drop-in and its start at boot."""
        service = units.service_name(kind, self._layout.lab, name)
        wanted = SYSTEMD_DIRECTORY / "multi-user.target.wants" / service
        if os.path.lexists(wanted):
            host.remove(wanted)
        host.remove(self._drop_in(service).parent)

    def close(self) -> None:
        """Remove the templates where no lab of this host has an instance left."""
        names = host.list_directory(SYSTEMD_DIRECTORY)
        if any(name.startswith("qemulab-") and name.endswith(".service.d") for name in names):
            return
        removed = [host.remove(SYSTEMD_DIRECTORY / units.template_name(k)) for k in units.KINDS]
        if any(removed):
            host.run(["systemctl", "daemon-reload"])


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket in place of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _UnixTransport(xmlrpc.client.Transport):
    """XML-RPC over a UNIX socket, a connection a call."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__()
        self._path = path
        self._timeout = timeout

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        """Return a fresh connection: supervisord closes them when it likes."""
        return _UnixConnection(self._path, self._timeout)


class Supervisord:
    """A supervisord of the lab's own, for hosts without systemd: containers, CI."""

    name = "supervisord"
    ALIVE = ("STARTING", "RUNNING", "STOPPING")
    NOT_RUNNING = 70
    BAD_NAME = 10
    """Faults of supervisord's API. Source: supervisor.xmlrpc.Faults"""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._opening = False

    # talking to it

    def _call(self, method: str, *arguments: Any, timeout: float = 30) -> Any:
        transport = _UnixTransport(self._layout.supervisord_socket, timeout)
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=transport)
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except (xmlrpc.client.ProtocolError, http.client.HTTPException, OSError) as err:
            raise HostError(f"supervisord does not answer {method}: {err}") from err

    def _is_up(self) -> bool:
        if not self._layout.supervisord_socket.exists():
            return False
        try:
            return bool(self._call("getState", timeout=5)["statename"] == "RUNNING")
        except HostError:
            return False

    @staticmethod
    def command() -> list[str]:
        """
        Return how supervisord is run: from this Python, else as the host's own program.

        Raises HostError where there is none.
        """
        spec = importlib.util.find_spec("supervisor")
        if spec is not None and spec.origin is not None:
            command = [sys.executable, "-m", "supervisor.supervisord"]
            place = str(Path(spec.origin).parents[1])
            if place in site.getsitepackages():
                return command
            # What salt-ssh brings (thin_extra_mods) lies where a fresh Python does not look.
            return ["env", f"PYTHONPATH={place}", *command]
        program = host.find_binary("supervisord")
        if program is None:
            hint = f"{sys.executable} -m pip install supervisor"
            raise HostError("supervisord is not installed, and systemd does not run here", "", hint)
        return [program]

    def open(self) -> None:
        """Start the supervisord where none runs; it takes a tenth of a second to answer."""
        if self._is_up():
            return
        layout = self._layout
        for directory in (layout.units, layout.lab_runtime, layout.lab_logs):
            host.make_directory(directory)
        configuration = layout.lab_state / "supervisord.conf"
        pidfile = layout.lab_runtime / "supervisord.pid"
        text = units.supervisord_configuration(
            layout.supervisord_socket, pidfile, self._log, layout.units
        )
        host.write(configuration, text)
        host.remove(layout.supervisord_socket)
        host.launch([*self.command(), "-c", str(configuration)])
        self._opening = True

    @property
    def _log(self) -> Path:
        return self._layout.lab_logs / "supervisord.log"

    def _ensure_up(self) -> None:
        if not self._opening:
            self.open()
        if self._opening and not host.wait_for(self._is_up, START_TIMEOUT):
            raise HostError("supervisord did not come up", host.read(self._log, 2000) or "")
        self._opening = False

    # the interface

    def status(self) -> dict[tuple[str, str], Status]:
        """Return the lab's units; none where its supervisord does not run."""
        return self._answered() or {}

    def _answered(self) -> dict[tuple[str, str], Status] | None:
        """Return the lab's units, ``None`` where no supervisord answers."""
        if not self._layout.supervisord_socket.exists():
            return None
        try:
            processes = self._call("getAllProcessInfo")
        except HostError:
            return None
        found = {}
        for info in processes:
            kind, _, name = info["name"].partition("-")
            state = info["statename"]
            if state in self.ALIVE and info["pid"]:
                status = Status("running", info["pid"], state.lower())
            elif state in ("BACKOFF", "FATAL"):
                status = Status("failed", 0, info["spawnerr"] or state.lower())
            else:
                status = Status("stopped", 0, state.lower())
            found[kind, name] = status
        return found

    def _files(self, kind: str, name: str) -> tuple[Path, Path]:
        directory = self._layout.units
        return directory / f"{kind}-{name}.ini", directory / f"{kind}-{name}.sh"

    def update(self, unit: Unit) -> None:
        """Write the unit's section and wrapper; supervisord takes the section up at a start."""
        section, wrapper = self._files(unit.kind, unit.name)
        log = self._layout.unit_log(unit.kind, unit.name)
        host.make_directory(log.parent)
        text = units.supervisord_wrapper(unit, wrapper)
        host.write(wrapper, text, mode=0o755, durable=False)
        host.write(section, units.supervisord_program(unit, wrapper, log), durable=False)

    def start(self, unit: Unit) -> None:
        """Define a unit and start it."""
        self.update(unit)
        known = self._answered()
        if known is None:
            self._ensure_up()
        alive = {f"{kind}-{name}" for (kind, name), each in (known or {}).items() if each.alive}
        if unit.program in alive:
            return
        if (known or {}).get((unit.kind, unit.name), STOPPED).state == "failed":
            self.stop(unit.kind, unit.name)  # it may be between two tries of supervisord's own
        added, changed, removed = self._call("reloadConfig")[0]
        for group in [*removed, *changed]:
            if group not in alive and group in (*removed, unit.program):
                self._call("removeProcessGroup", group)
        if unit.program in [*added, *changed]:
            self._call("addProcessGroup", unit.program)
        try:
            self._call("startProcess", unit.program, False)
        except xmlrpc.client.Fault as err:
            raise self._refused("start", unit.kind, unit.name, err) from err

    def _alive(self, program: str) -> bool:
        kind, _, name = program.partition("-")
        return self.status().get((kind, name), STOPPED).alive

    def _refused(self, what: str, kind: str, name: str, err: xmlrpc.client.Fault) -> HostError:
        log = self._layout.unit_log(kind, name)
        problem = f"supervisord could not {what} {kind}-{name}: {err.faultString}"
        return HostError(problem, host.read(log, 2000) or "", f"see {log}")

    def log(self, kind: str, name: str, lines: int = 5) -> str:
        """Return the last lines that a unit wrote."""
        text = host.read(self._layout.unit_log(kind, name), 4000) or ""
        return "\n".join(text.splitlines()[-lines:])

    def stop(self, kind: str, name: str, hard: bool = False) -> None:
        """Stop a unit; hard: SIGKILL after supervisord has been told that it is meant."""
        if not self._is_up():
            return
        program = f"{kind}-{name}"
        try:
            if hard:
                self._call("stopProcess", program, False)
                self._call("signalProcess", program, "KILL")
            self._call("stopProcess", program, True, timeout=3700)
        except xmlrpc.client.Fault as err:
            if err.faultCode not in (self.NOT_RUNNING, self.BAD_NAME):
                raise self._refused("stop", kind, name, err) from err
        if not host.wait_for(lambda: not self._alive(program), START_TIMEOUT):
            raise HostError(f"{program} does not end", self.log(kind, name))

    def signal(self, kind: str, name: str, number: signal.Signals) -> None:
        """Signal a unit's main process: supervisord knows which it is."""
        try:
            self._call("signalProcess", f"{kind}-{name}", number.name.removeprefix("SIG"))
        except xmlrpc.client.Fault as err:
            raise self._refused("signal", kind, name, err) from err

    def forget(self, kind: str, name: str) -> None:
        """Remove a unit's files, and its group from a running supervisord."""
        for path in self._files(kind, name):
            host.remove(path)
        if self._is_up():
            self._call("reloadConfig")
            try:
                self._call("removeProcessGroup", f"{kind}-{name}")
            except xmlrpc.client.Fault as err:
                if err.faultCode != self.BAD_NAME:
                    raise self._refused("forget", kind, name, err) from err

    def close(self) -> None:
        """End the supervisord and remove its files."""
        layout = self._layout
        pidfile = layout.lab_runtime / "supervisord.pid"
        if self._is_up():
            pid = int((host.read(pidfile) or "0").strip() or 0)
            self._call("shutdown")
            if not host.wait_for(lambda: not host.process_exists(pid), START_TIMEOUT):
                raise HostError(f"supervisord (process {pid}) does not end")
        for path in (layout.supervisord_socket, pidfile, layout.units):
            host.remove(path)
        host.remove(layout.lab_state / "supervisord.conf")
