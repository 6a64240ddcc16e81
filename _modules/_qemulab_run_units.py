"""
Units: what a supervisor has to know of one process, and how systemd and supervisord are told.

Pure: texts only. ``_qemulab_run_by_systemd`` and ``_qemulab_run_by_supervisord`` put them in place.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

KINDS = ("hub", "dnsmasq", "vm")
DESCRIPTIONS = {
    "hub": "qemulab network hub %i",
    "dnsmasq": "qemulab DHCP and DNS server %i",
    "vm": "qemulab machine %i",
}


def script(comment: str, lines: Sequence[str]) -> str:
    """Return a POSIX shell script that ends at the first line that fails."""
    return "\n".join(["#!/bin/sh", f"# {comment}", "set -e", *lines]) + "\n"


class Unit(NamedTuple):
    """
    One process of a lab.

    kind
        ``hub``, ``dnsmasq`` or ``vm``.

    lab, name
        Whose it is, and which.

    launch
        The script that becomes the process; run as ``user``.

    user
        The system user.

    prepare
        Script that runs as root before each start; none by default.

    runtime
        Directory below ``/run`` that systemd can make in place of ``prepare``; none by default.

    powerdown
        Script that asks the process to end and waits for it; none by default: SIGTERM.

    capabilities
        Linux capabilities it keeps; none by default.

    binds
        (file of the host, where the process sees it), read-only.

    writable
        Directories it may write to.

    devices
        Device nodes it may open.

    always
        Start it again however it ended, not only when it failed. Default ``False``.

    grace
        Seconds it gets to end before SIGKILL. Default 5.

    autostart
        Start it with the host. Default ``False``.

    patient
        Go on trying for good: what it needs of the host may come late. Default ``False``.

    timer
        systemd's timer that is to run as long as it does; none by default.
    """

    kind: str
    lab: str
    name: str
    launch: Path
    user: str
    prepare: Path | None = None
    runtime: Path | None = None
    powerdown: Path | None = None
    capabilities: tuple[str, ...] = ()
    binds: tuple[tuple[str, str], ...] = ()
    writable: tuple[Path, ...] = ()
    devices: tuple[str, ...] = ()
    always: bool = False
    grace: int = 5
    autostart: bool = False
    patient: bool = False
    timer: str = ""

    @property
    def service(self) -> str:
        """What systemd calls it."""
        return service_name(self.kind, self.lab, self.name)

    @property
    def program(self) -> str:
        """What supervisord calls it."""
        return f"{self.kind}-{self.name}"


def service_name(kind: str, lab: str, name: str) -> str:
    """Return what systemd calls a unit."""
    return f"qemulab-{kind}@{lab}:{name}.service"


def parse_service(service: str) -> tuple[str, str, str] | None:
    """Return kind, lab and name of what systemd calls a unit; ``None`` where it is not ours."""
    kind, at, instance = service.removeprefix("qemulab-").partition("@")
    lab, colon, name = instance.removesuffix(".service").partition(":")
    return (kind, lab, name) if at and colon and service.startswith("qemulab-") else None


def template_name(kind: str) -> str:
    """Return the file name of a kind's systemd template."""
    return f"qemulab-{kind}@.service"


PLAIN_PATH = "[A-Za-z0-9_./@:-]+"
"""A path that needs no quotes in a unit file."""

# systemd

HARDENING = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectControlGroups": "yes",
    "ProtectClock": "yes",
    "ProtectHostname": "yes",
    "ProtectProc": "invisible",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "RestrictRealtime": "yes",
    "LockPersonality": "yes",
    "SystemCallArchitectures": "native",
    "UMask": "0077",
    "DevicePolicy": "closed",
}
"""Source: systemd.exec(5). No MemoryDenyWriteExecute: TCG translates into memory it then runs."""

FAMILIES = {
    "hub": "AF_INET AF_UNIX",
    "dnsmasq": "AF_INET AF_INET6 AF_UNIX AF_NETLINK AF_PACKET",
    "vm": "AF_INET AF_INET6 AF_UNIX",
}


def systemd_template(kind: str, user: str) -> str:
    """Return the template unit of a kind: what all its instances have in common."""
    lines = [
        "# Made by qemulab; removed with the last lab.",
        "[Unit]",
        f"Description={DESCRIPTIONS[kind]}",
        "StartLimitIntervalSec=60",
        "StartLimitBurst=5" if kind == "vm" else "StartLimitBurst=30",
        # The hub's first script makes the interface that the DHCP socket is bound to.
        *(["After=qemulab-hub@%i.service"] if kind == "dnsmasq" else []),
        "",
        "[Service]",
        "Type=exec",
        f"User={user}",
        f"Group={user}",
        *(f"{name}={value}" for name, value in HARDENING.items()),
        f"RestrictAddressFamilies={FAMILIES[kind]}",
        "OOMPolicy=continue",
        "KillMode=mixed",
        "RestartSec=1" if kind == "vm" else "RestartSec=200ms",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def systemd_value(text: str) -> str:
    """Return a value quoted for a unit file: no specifier, no variable, one word."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def systemd_command(script_path: Path) -> str:
    """Return the command line that runs a script: no specifier and no variable in its path."""
    return f"/bin/sh {systemd_path(script_path).replace('$', '$$')}"


def systemd_path(path: Path | str) -> str:
    """Return a path for a unit file, in quotes only where it needs them."""
    text = str(path)
    return text if re.fullmatch(PLAIN_PATH, text) else systemd_value(text)


def systemd_drop_in(unit: Unit) -> str:
    """Return what is one unit's own: its scripts, files, devices and capabilities."""
    capabilities = " ".join(f"CAP_{name.upper()}" for name in unit.capabilities)
    lines = ["# Made by qemulab; removed with the unit."]
    own = [f"Wants={unit.timer}"] if unit.timer else []
    own += ["StartLimitIntervalSec=0"] if unit.patient else []
    lines += ["[Unit]", *own] if own else []
    lines.append("[Service]")
    if unit.patient:
        lines.append("RestartSec=5")
    if unit.runtime is not None:
        # systemd makes it, and that is all that there is to prepare: no process more.
        lines += [
            f"RuntimeDirectory={unit.runtime.relative_to('/run')}",
            "RuntimeDirectoryMode=0700",
        ]
    elif unit.prepare is not None:
        # "+": as root and outside the sandbox, as the interface and the sockets' directory need.
        lines.append(f"ExecStartPre=+{systemd_command(unit.prepare)}")
    lines.append(f"ExecStart={systemd_command(unit.launch)}")
    if unit.powerdown is not None:
        lines.append(f"ExecStop={systemd_command(unit.powerdown)}")
    lines += [
        f"Restart={'always' if unit.always else 'on-failure'}",
        f"TimeoutStopSec={unit.grace}",
        f"CapabilityBoundingSet={capabilities}",
        f"AmbientCapabilities={capabilities}",
        # m: the script before the start may have to make the node; the process itself cannot.
        *(f"DeviceAllow={device} rwm" for device in unit.devices),
        # "-": the first script makes some of them, and systemd applies these to it as well.
        *(f"ReadWritePaths={systemd_path(f'-{path}')}" for path in unit.writable),
        *(
            # Each side has quotes of its own: only between them does a colon separate.
            f"BindReadOnlyPaths={systemd_value(source)}:{systemd_value(destination)}"
            for source, destination in unit.binds
        ),
    ]
    return "\n".join(lines) + "\n"


# supervisord

TRIES = 10
"""Starts that fail one after another before it gives up: each waits a second longer for its turn.

Source: supervisor.process, ``Subprocess.change_state`` and ``transition``.
"""
TRIES_OF_PATIENT = 1_000_000
"""As good as for ever: after a night they are four minutes apart."""


def supervisord_value(text: Path | str) -> str:
    """Return a value for supervisord's configuration, where ``%`` begins an expression."""
    return str(text).replace("%", "%%")


def supervisord_program(unit: Unit, wrapper: Path, log: Path) -> str:
    """
    Return supervisord's section for a unit.

    ``autostart`` is off: a supervisord that is started again must not start what may still run.
    """
    lines = [
        f"[program:{unit.program}]",
        f"command=/bin/sh {supervisord_value(shlex.quote(str(wrapper)))}",
        "autostart=false",
        f"autorestart={'true' if unit.always else 'unexpected'}",
        "exitcodes=0",
        "startsecs=1",
        f"startretries={TRIES_OF_PATIENT if unit.patient else TRIES}",
        "stopsignal=TERM",
        f"stopwaitsecs={unit.grace}",
        "killasgroup=true",
        "directory=/",
        "redirect_stderr=true",
        # supervisord works the expressions of this one out twice.
        f"stdout_logfile={supervisord_value(supervisord_value(log))}",
        "stdout_logfile_maxbytes=1MB",
        "stdout_logfile_backups=1",
    ]
    return "\n".join(lines) + "\n"


def supervisord_configuration(socket: Path, pidfile: Path, log: Path, units: str) -> str:
    """
    Return the configuration of a lab's own supervisord.

    socket, pidfile, log
        Where it listens, and what it writes.

    units
        Name of the directory, beside the configuration, that has the programs' sections. A path
        would be split at its spaces.
    """
    lines = [
        "; Made by qemulab.",
        "[supervisord]",
        f"logfile={supervisord_value(log)}",
        "logfile_maxbytes=1MB",
        "logfile_backups=1",
        f"pidfile={supervisord_value(pidfile)}",
        "directory=/",
        "umask=022",
        "user=root",
        "[unix_http_server]",
        f"file={supervisord_value(socket)}",
        "chmod=0700",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        "[include]",
        f"files={units}/*.ini",
    ]
    return "\n".join(lines) + "\n"


def supervisord_wrapper(unit: Unit, path: Path) -> str:
    """
    Return the script that supervisord runs for a unit: as root it prepares, then becomes the unit.

    It does what systemd does by settings: a mount namespace of its own with the read-only binds,
    another user, no capability beyond those named. One process from beginning to end: its PID is
    the one that supervisord knows.
    """
    prepare = [] if unit.prepare is None else [f". {shlex.quote(str(unit.prepare))}"]
    lines = prepare
    if unit.binds:
        # Each program that is not started is a millisecond less until the machine runs.
        inside = (
            f"exec unshare --mount --propagation private /bin/sh {shlex.quote(str(path))} inside"
        )
        lines = [
            'if [ "$1" != inside ]; then',
            *(f"    {line}" for line in [*prepare, inside]),
            "fi",
        ]
        lines += [
            f"mount -o rbind,ro {shlex.quote(source)} {shlex.quote(destination)}"
            for source, destination in unit.binds
        ]
    keep = ",".join(["-all", *(f"+{name}" for name in unit.capabilities)])
    drop = [
        f"--reuid={unit.user} --regid={unit.user} --init-groups --no-new-privs",
        f"--bounding-set={keep} --inh-caps={keep} --ambient-caps={keep}",
    ]
    lines.append("umask 0077")
    lines.append(f"exec setpriv {' '.join(drop)} /bin/sh {shlex.quote(str(unit.launch))}")
    return script(f"Becomes the unit {unit.program} of the lab {unit.lab}.", lines)
