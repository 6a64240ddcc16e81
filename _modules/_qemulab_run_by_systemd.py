"""
systemd as the supervisor: template units on disk, one drop-in for each instance.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

import _qemulab_host_generated as written
import _qemulab_host_seam as host
import _qemulab_run_by_systemd_units as systemd_units
import _qemulab_run_log_cutter as consoles
import _qemulab_run_units as units
from _qemulab_host_paths import Layout
from _qemulab_host_seam import File
from _qemulab_host_seam import HostError
from _qemulab_plan_status import Status
from _qemulab_run_protocol import STOPPED
from _qemulab_run_protocol import UnitStatus
from _qemulab_run_protocol import last_lines
from _qemulab_run_units import Unit

SYSTEMD_DIRECTORY = Path("/etc/systemd/system")
SYSTEM_SLICE = Path("/sys/fs/cgroup/system.slice")
TRIES = 10
"""Starts of one unit whose lines are looked through at the most, for the last ones."""
ANSWER_TIMEOUT = 10.0
"""Seconds that systemd gets to say how units are; it takes milliseconds."""


def _slice(kind: str) -> Path:
    """Return the control group that has those of a kind's units as its members."""
    return SYSTEM_SLICE / f"system-qemulab\\x2d{kind}.slice"


def instances(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """
    Return kind, lab and name of every unit that has a drop-in of its own.

    names
        What lies in systemd's directory.
    """
    found = [units.parse_service(name.removesuffix(".d")) for name in names if name.endswith(".d")]
    return [each for each in found if each is not None]


class Systemd:
    """systemd as PID 1: template units on disk, one drop-in for each instance."""

    name = "systemd"

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._started_at: dict[str, float] = {}
        """When a unit was last started by this run, by what systemd calls it."""

    def check(self) -> None:
        """Do nothing: it is up."""

    def end_lost(self) -> None:
        """Do nothing: it can be reached."""

    def open(self) -> None:
        """Do nothing: it is up."""

    def status(self) -> dict[tuple[str, str], UnitStatus]:
        """Return the lab's units, those that do not run only as far as systemd remembers them."""
        found = self._all_running()
        return self._shown() if found is None else found

    def _all_running(self) -> dict[tuple[str, str], UnitStatus] | None:
        """
        Return the lab's units where each one has exactly one process; ``None`` where one has not.

        Read from the units' control groups, which none but systemd fills: ``systemctl show`` takes
        20 ms and more while guests boot. Nor is anything found on a host that has them elsewhere.
        Source: systemd.unit(5) and systemd.slice(5) for where a template's instances are.
        """
        found = {}
        services = {name.removesuffix(".d") for name in host.list_directory(SYSTEMD_DIRECTORY)}
        # A unit may run although somebody has removed its files.
        for kind in units.KINDS:
            services.update(host.list_directory(_slice(kind)))
        for service in services:
            kind, lab, name = units.parse_service(service) or ("", "", "")
            if lab != self._layout.lab:
                continue
            processes = (host.read(_slice(kind) / service / "cgroup.procs") or "").split()
            if len(processes) != 1:
                return None
            found[kind, name] = UnitStatus(Status.RUNNING, int(processes[0]))
        return found

    def _shown(self) -> dict[tuple[str, str], UnitStatus]:
        """Return the lab's loaded units; systemd forgets stopped ones by itself."""
        lab = self._layout.lab
        wanted = "Id,ActiveState,MainPID"
        show = ["systemctl", "show", "--all", f"--property={wanted}"]
        shown = host.run([*show, f"qemulab-*@{lab}:*.service"], timeout=ANSWER_TIMEOUT)
        found = {}
        for block in shown.stdout.split("\n\n"):
            values = dict(line.partition("=")[::2] for line in block.splitlines())
            kind, owner, name = units.parse_service(values.get("Id", "")) or ("", "", "")
            if owner == lab:
                found[kind, name] = self._status(values)
        return found

    @staticmethod
    def _status(values: dict[str, str]) -> UnitStatus:
        active = values["ActiveState"]
        pid = int(values["MainPID"])
        if active in ("active", "deactivating") and pid:
            return UnitStatus(Status.RUNNING, pid)
        if active == "activating":
            return UnitStatus(Status.STARTING, pid)
        if active == "failed":
            return UnitStatus(Status.FAILED)
        return STOPPED

    def _drop_in(self, service: str) -> Path:
        return SYSTEMD_DIRECTORY / f"{service}.d" / "qemulab.conf"

    def update(self, unit: Unit) -> None:
        """Write template and drop-in."""
        self._define([unit])

    def _define(self, wanted: Sequence[Unit]) -> None:
        """
        Write templates and drop-ins.

        systemd reads what it has not loaded yet by itself; only a unit that it holds in memory
        needs a reload, and it says so.
        """
        layout = self._layout
        files: dict[Path, dict[Path, str]] = {}
        for unit in wanted:
            record = layout.unit_written(unit.kind, unit.name)
            drop_in = {self._drop_in(unit.service): systemd_units.systemd_drop_in(unit)}
            files.setdefault(record, {}).update(drop_in)
            files.setdefault(layout.host_written, {}).update(self._template(unit.kind, unit.user))
            if unit.timer:
                files[layout.lab_written] = self._cutting(unit.user)
        before = {path for several in files.values() for path in several if path.exists()}
        orphans = [u for u in wanted if not self.has(u.kind, u.name) and self._in_memory(u)]
        if before & self._write(files) or orphans:
            services = [unit.service for unit in wanted]
            shown = host.run(["systemctl", "show", "-P", "NeedDaemonReload", *services])
            # One whose files were gone at the last reload does not always say so.
            if orphans or "yes" in shown.stdout.split():
                host.run(["systemctl", "daemon-reload"])
        for unit in wanted:
            link = SYSTEMD_DIRECTORY / "multi-user.target.wants" / unit.service
            if unit.autostart != os.path.lexists(link):
                verb = "enable" if unit.autostart else "disable"
                host.run(["systemctl", "--no-reload", "--quiet", verb, unit.service])

    @staticmethod
    def _write(files: Mapping[Path, Mapping[Path, str]]) -> set[Path]:
        """Write files, given by the record that they are kept in; return which had to be."""
        done: set[Path] = set()
        for record, texts in files.items():
            done |= written.write(record, [File(path, text) for path, text in texts.items()])
        return done

    def mend(self) -> None:
        """Write those files anew that belong to no single unit, and that somebody has been at."""
        layout = self._layout
        texts = {
            layout.lab_written: self._cutting(host.USER),
            layout.host_written: {
                path: text
                for kind in units.KINDS
                for path, text in self._template(kind, host.USER).items()
            },
        }
        files: dict[Path, dict[Path, str]] = {}
        for record, several in texts.items():
            bad = written.changed(record)
            files[record] = {path: text for path, text in several.items() if path in bad}
        if self._write(files):
            host.run(["systemctl", "daemon-reload"])

    @staticmethod
    def _template(kind: str, user: str) -> dict[Path, str]:
        """Return the template of a kind of units."""
        path = SYSTEMD_DIRECTORY / units.template_name(kind)
        return {path: systemd_units.systemd_template(kind, user)}

    def _cutting(self, user: str) -> dict[Path, str]:
        """Return the files that keep the machines' console logs small."""
        layout = self._layout
        return {
            layout.console_cutter: consoles.cut_script(layout.consoles),
            SYSTEMD_DIRECTORY / consoles.timer_name(layout.lab): consoles.timer(),
            SYSTEMD_DIRECTORY / consoles.service_name(layout.lab): consoles.service(layout, user),
        }

    def has(self, kind: str, name: str) -> bool:
        """Return whether a unit's template and drop-in are there."""
        service = units.service_name(kind, self._layout.lab, name)
        template = SYSTEMD_DIRECTORY / units.template_name(kind)
        return template.is_file() and self._drop_in(service).is_file()

    def _in_memory(self, unit: Unit) -> bool:
        """Return whether a unit runs, whatever is left of its files."""
        return (_slice(unit.kind) / unit.service).is_dir()

    def start(self, wanted: Sequence[Unit]) -> None:
        """Define units and start those that do not run."""
        self._define(wanted)
        services = [unit.service for unit in wanted]
        self._started_at.update(dict.fromkeys(services, time.time()))
        start = ["systemctl", "start", *services]
        started = host.run(start, check=False)
        if started.status != 0:
            # systemd refuses a unit that failed too often lately, until that is forgotten.
            host.run(["systemctl", "reset-failed", *services], check=False)
            started = host.run(start, check=False)
        if started.status == 0:
            return
        known = self.status()
        for unit in wanted:
            if not known.get((unit.kind, unit.name), STOPPED).alive:
                log = self.log(unit.kind, unit.name)
                problem = f"systemd could not start {unit.service}"
                raise HostError(problem, log or started.stderr, f"journalctl -u {unit.service}")

    def log(self, kind: str, name: str, lines: int = 5) -> str:
        """Return the last lines that a unit wrote to the journal, since this run has started it."""
        service = units.service_name(kind, self._layout.lab, name)
        host.run(["journalctl", "--sync"], check=False)
        argv = ["journalctl", "-q", "-o", "cat", "-n", str(lines * TRIES), "-u", service]
        if service in self._started_at:
            argv.append(f"--since=@{self._started_at[service]:.6f}")
        return last_lines(host.run(argv, check=False).stdout, lines)

    def stop(self, kind: str, name: str, hard: bool = False) -> None:
        """Stop a unit; hard: leave it no time, and do not let it come back."""
        service = units.service_name(kind, self._layout.lab, name)
        if hard:
            host.run(["systemctl", "stop", "--no-block", service])
            kill = ["systemctl", "kill", "--signal=KILL", "--kill-whom=main", service]
            host.run(kill, check=False)
        host.run(["systemctl", "stop", service], timeout=3700)
        host.run(["systemctl", "reset-failed", service], check=False)

    def forget(self, kind: str, name: str) -> None:
        """Remove a unit's drop-in and its start at boot."""
        service = units.service_name(kind, self._layout.lab, name)
        wanted = SYSTEMD_DIRECTORY / "multi-user.target.wants" / service
        if os.path.lexists(wanted):
            host.remove(wanted)
        host.remove(self._drop_in(service).parent)

    def remains(self) -> bool:
        """Return whether a timer of its own is there, or templates that no other lab uses."""
        names = host.list_directory(SYSTEMD_DIRECTORY)
        lab = self._layout.lab
        if {consoles.timer_name(lab), consoles.service_name(lab)} & set(names):
            return True
        others = any(each != lab for _, each, _ in instances(names))
        return not others and any(units.template_name(kind) in names for kind in units.KINDS)

    def close(self) -> None:
        """Remove what is the lab's, and the templates where no lab has an instance left."""
        for path in self._cutting(host.USER):
            host.remove(path)
        # Those of machines whose files somebody has removed are still there.
        for kind, lab, name in instances(host.list_directory(SYSTEMD_DIRECTORY)):
            if lab == self._layout.lab:
                self.forget(kind, name)
        if instances(host.list_directory(SYSTEMD_DIRECTORY)):
            return
        removed = [host.remove(SYSTEMD_DIRECTORY / units.template_name(k)) for k in units.KINDS]
        host.remove(self._layout.host_written)
        if any(removed):
            host.run(["systemctl", "daemon-reload"])
