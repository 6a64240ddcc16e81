"""
supervisord as the supervisor: one of the lab's own, for hosts without systemd.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import signal
import site
import socket
import sys
import threading
import xmlrpc.client
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _qemulab_host_generated as written
import _qemulab_host_lock as lock
import _qemulab_host_log as log
import _qemulab_host_process as process
import _qemulab_host_seam as host
import _qemulab_run_by_supervisord_programs as programs
import _qemulab_run_log_cutter as consoles
from _qemulab_host_paths import Layout
from _qemulab_host_seam import File
from _qemulab_host_seam import HostError
from _qemulab_plan_status import Status
from _qemulab_run_protocol import STOPPED
from _qemulab_run_protocol import UnitStatus
from _qemulab_run_protocol import last_lines
from _qemulab_run_units import Unit

START_TIMEOUT = 10.0
ANSWER_TIMEOUT = 5.0
"""Seconds that a supervisord gets to say how its programs are; it takes milliseconds."""
LOST_TIMEOUT = 2.0
"""Seconds that one without a socket gets to make it: it may be coming up, which takes 75 ms."""


LOG_END = 4000
"""Bytes of a log that are looked through for its last lines."""


def _extent(path: Path) -> tuple[int, int]:
    """Return a file's inode and size, zeros where there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return 0, 0
    return found.st_ino, found.st_size


class _Silent(HostError):
    """A supervisord has its socket open and says nothing: it is stopped, and not to be doubled."""


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
        self._started_at: dict[Path, tuple[int, int]] = {}
        """How far a log went when this run has started its unit: the file's inode, its size."""
        self._only_one = contextlib.ExitStack()
        self._starts = threading.Lock()  # a network's start and its machines' come by two threads

    # talking to it

    def _proxy(self, timeout: float) -> Any:
        transport = _UnixTransport(self._layout.supervisord_socket, timeout)
        return xmlrpc.client.ServerProxy("http://localhost", transport=transport)

    def _call(self, method: str, *arguments: Any, timeout: float = 30) -> Any:
        words = log.step("supervisord", lambda: f"{method}{arguments}")
        with self._reached(method), words as ended:
            answer = getattr(self._proxy(timeout).supervisor, method)(*arguments)
            ended(answer)
            return answer

    @contextlib.contextmanager
    def _reached(self, method: str) -> Iterator[None]:
        """Turn a failed connection into a HostError."""
        try:
            yield
        except (TimeoutError, BlockingIOError) as err:
            # Linux says EAGAIN at once where the queue of those who wait to be heard is full.
            pids = ", ".join(map(str, self._processes())) or "unknown"
            hint = f"it may be stopped: kill -CONT {pids}"
            problem = f"the lab's supervisord (process {pids}) does not answer {method}"
            raise _Silent(problem, hint=hint) from err
        except (xmlrpc.client.ProtocolError, http.client.HTTPException, OSError) as err:
            raise HostError(f"supervisord does not answer {method}: {err}") from err

    def _call_all(self, orders: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the answers to several calls, done in one go; a fault is a mapping."""
        proxy = self._proxy(30)
        calls = [
            {"methodName": f"supervisor.{method}", "params": list(arguments)}
            for method, *arguments in orders
        ]
        with self._reached("multicall"), log.step("supervisord", lambda: f"{orders}") as ended:
            answers: list[Any] = proxy.system.multicall(calls)
            ended(answers)
            return answers

    def _is_up(self) -> bool:
        if not self._layout.supervisord_socket.exists():
            return False
        try:
            state = self._call("getState", timeout=ANSWER_TIMEOUT)["statename"]
        except _Silent:
            raise
        except HostError:
            return False
        return bool(state == "RUNNING")

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

    def check(self) -> None:
        """Raise HostError where no supervisord is installed."""
        self.command()

    def open(self) -> None:
        """
        Start the supervisord where none runs; it takes a tenth of a second to answer.

        Until it does, nobody else can begin to: a lock is kept for as long.

        Raises HostError where one runs that does not answer.
        """
        if self._is_up():
            return
        layout = self._layout
        with contextlib.ExitStack() as held:
            held.enter_context(lock.hold(layout.lock("lab", "supervisord")))
            if self._is_up() or self._lost_is_back():
                return
            for directory in (layout.units, layout.lab_runtime, layout.lab_logs):
                host.make_directory(directory)
            self._configure()
            # It would write through whatever somebody has put in the place of its PID file.
            for path in (layout.supervisord_socket, self._pidfile):
                host.remove(path)
            host.launch([*self.command(), "-c", str(self._configuration)])
            self._only_one = held.pop_all()
        self._opening = True

    def end_lost(self) -> None:
        """End a supervisord that has lost its socket: it starts again what has ended."""
        if not self._opening and not self._is_up() and self._processes():
            with lock.hold(self._layout.lock("lab", "supervisord")):
                self._lost_is_back()

    def _configure(self) -> None:
        """Write its configuration, which it reads again whenever a unit is new."""
        layout = self._layout
        text = programs.supervisord_configuration(
            layout.supervisord_socket, self._pidfile, self._log, layout.units.name
        )
        written.write(layout.lab_written, [File(self._configuration, text)])

    def _lost_is_back(self) -> bool:
        """
        Wait for a supervisord that runs without being heard, and end one that has lost its socket.

        Nobody can reach that one any more, and a second one beside it would start twins when it
        starts its programs again. What it ran goes on without it. Returns whether one answers.
        """
        word = str(self._configuration)
        for pid in self._processes():
            if host.wait_for(self._is_up, LOST_TIMEOUT):
                return True
            with process.watched(pid) as ended:
                if process.send(pid, signal.SIGKILL, word) and not host.wait_for(ended, 5):
                    raise HostError(f"the lost supervisord (process {pid}) does not end")
        return False

    def _processes(self) -> list[int]:
        """Return the lab's supervisord as the kernel knows it; no file is asked."""
        return process.find(str(self._configuration), "root")

    @property
    def _configuration(self) -> Path:
        return self._layout.lab_state / "supervisord.conf"

    @property
    def _pidfile(self) -> Path:
        return self._layout.lab_runtime / "supervisord.pid"

    @property
    def _log(self) -> Path:
        return self._layout.lab_logs / "supervisord.log"

    def _ensure_up(self) -> None:
        if not self._opening:
            self.open()
        with self._only_one:
            # Machines wait for this; until its socket is there, the question is a look at a file.
            if self._opening and not host.wait_for(self._is_up, START_TIMEOUT, slowest=0.005):
                raise HostError("supervisord did not come up", host.read(self._log, 2000) or "")
        self._opening = False

    # the interface

    def status(self) -> dict[tuple[str, str], UnitStatus]:
        """Return the lab's units; none where its supervisord does not run."""
        return self._answered() or {}

    def _answered(self) -> dict[tuple[str, str], UnitStatus] | None:
        """Return the lab's units, ``None`` where no supervisord answers."""
        if not self._layout.supervisord_socket.exists():
            return None
        try:
            processes = self._call("getAllProcessInfo", timeout=ANSWER_TIMEOUT)
        except _Silent:
            raise
        except HostError:
            return None
        found = {}
        for info in processes:
            kind, _, name = info["name"].partition("-")
            state = info["statename"]
            if state in self.ALIVE and info["pid"]:
                status = UnitStatus(Status.RUNNING, info["pid"])
            elif state in ("BACKOFF", "FATAL"):
                status = UnitStatus(Status.FAILED)
            else:
                status = STOPPED
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
        text = programs.supervisord_wrapper(unit, wrapper)
        program = programs.supervisord_program(unit, wrapper, log)
        files = [File(wrapper, text, 0o755, durable=False), File(section, program, durable=False)]
        written.write(self._layout.unit_written(unit.kind, unit.name), files)
        if unit.kind == "vm":
            written.write(self._layout.lab_written, self._cutting(unit.user))

    def _cutting(self, user: str) -> list[File]:
        """Return the files that keep the machines' console logs small."""
        layout = self._layout
        listener = consoles.supervisord_listener(layout, user)
        return [
            File(layout.units / f"{consoles.NAME}.ini", listener, durable=False),
            File(layout.console_cutter, consoles.cut_script(layout.consoles), durable=False),
        ]

    def mend(self) -> None:
        """Write those files anew that belong to no single unit, and that somebody has been at."""
        bad = written.changed(self._layout.lab_written)
        if self._configuration in bad:
            self._configure()
        cutting = [file for file in self._cutting(host.USER) if file.path in bad]
        written.write(self._layout.lab_written, cutting)

    def start(self, wanted: Sequence[Unit]) -> None:
        """Define units and start those that do not run."""
        for unit in wanted:
            self.update(unit)
        with self._starts:
            self._start(wanted)

    def _start(self, wanted: Sequence[Unit]) -> None:
        """Start those units that do not run; their sections are there."""
        for unit in wanted:
            self.mark(unit.kind, unit.name)
        known = self._answered()
        if known is None:
            self._ensure_up()
        states = {(u.kind, u.name): (known or {}).get((u.kind, u.name), STOPPED) for u in wanted}
        for (kind, name), status in states.items():
            if status.status is Status.FAILED:
                self.stop(kind, name)  # it may be between two tries of supervisord's own
        stopped = [unit for unit in wanted if not states[unit.kind, unit.name].alive]
        if stopped:
            self._start_stopped({unit.program: unit for unit in stopped}, known or {})

    def _start_stopped(
        self, programs: Mapping[str, Unit], known: Mapping[tuple[str, str], UnitStatus]
    ) -> None:
        """Have supervisord take up the sections of programs that do not run, and start them."""
        alive = {f"{kind}-{name}" for (kind, name), each in known.items() if each.alive}
        self._configure()
        added, changed, removed = self._reread()
        orders: list[tuple[Any, ...]] = [
            ("removeProcessGroup", group)
            for group in [*removed, *changed]
            if group not in alive and group in (*removed, *programs)
        ]
        if consoles.NAME in added:
            orders.append(("addProcessGroup", consoles.NAME))
        for program in programs:
            if program in (*added, *changed):
                orders.append(("addProcessGroup", program))
            orders.append(("startProcess", program, False))
        for order, answer in zip(orders, self._call_all(orders), strict=True):
            if isinstance(answer, dict) and "faultString" in answer and order[0] == "startProcess":
                unit = programs[order[1]]
                raise self._refused("start", unit.kind, unit.name, str(answer["faultString"]))

    def _reread(self) -> list[list[str]]:
        """Have supervisord read its sections; returns which are new, changed, and gone."""
        try:
            found: list[list[str]] = self._call("reloadConfig")[0]
        except xmlrpc.client.Fault as err:
            hint = f"remove what is damaged in {self._layout.units} and apply again"
            raise HostError("supervisord cannot read its units", err.faultString, hint) from err
        return found

    def has(self, kind: str, name: str) -> bool:
        """Return whether a unit's section and wrapper are there."""
        return all(path.is_file() for path in self._files(kind, name))

    def _alive(self, program: str) -> bool:
        kind, _, name = program.partition("-")
        return self.status().get((kind, name), STOPPED).alive

    def _refused(self, what: str, kind: str, name: str, reason: str) -> HostError:
        problem = f"supervisord could not {what} {kind}-{name}: {reason}"
        hint = f"see {self._layout.unit_log(kind, name)}"
        return HostError(problem, self.log(kind, name), hint)

    def mark(self, kind: str, name: str) -> None:
        """Have ``log`` begin here: a unit is about to be started."""
        path = self._layout.unit_log(kind, name)
        self._started_at[path] = _extent(path)

    def log(self, kind: str, name: str, lines: int = 5) -> str:
        """Return the last lines that a unit wrote, since this run has started it if it has."""
        path = self._layout.unit_log(kind, name)
        inode, size = _extent(path)
        before, already = self._started_at.get(path, (inode, 0))
        # After a rotation the whole file is newer.
        new = size - already if inode == before and size >= already else size
        return last_lines(host.read(path, min(new, LOG_END)) or "", lines)

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
                raise self._refused("stop", kind, name, err.faultString) from err
        if not host.wait_for(lambda: not self._alive(program), START_TIMEOUT):
            raise HostError(f"{program} does not end", self.log(kind, name))

    def forget(self, kind: str, name: str) -> None:
        """Remove a unit's files, and its group from a running supervisord."""
        for path in self._files(kind, name):
            host.remove(path)
        if self._is_up():
            if self._configuration.exists():
                self._reread()
            try:
                self._call("removeProcessGroup", f"{kind}-{name}")
            except xmlrpc.client.Fault as err:
                if err.faultCode != self.BAD_NAME:
                    raise self._refused("forget", kind, name, err.faultString) from err

    def remains(self) -> bool:
        """Return whether the supervisord runs."""
        return bool(self._processes())

    def close(self) -> None:
        """End the supervisord and remove its files."""
        layout = self._layout
        if self._is_up():
            pid = self._call("getPID")
            with process.watched(pid) as ended:
                self._call("shutdown")
                if not host.wait_for(ended, START_TIMEOUT):
                    raise HostError(f"supervisord (process {pid}) does not end")
        for pid in self._processes():  # one that nobody hears any more
            process.end(pid, str(self._configuration), START_TIMEOUT)
        for path in (layout.supervisord_socket, self._pidfile, layout.units, self._configuration):
            host.remove(path)
        host.remove(layout.console_cutter)
