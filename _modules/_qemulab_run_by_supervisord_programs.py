"""
What supervisord is told of the processes of a lab: its configuration, programs, wrappers. Pure.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from _qemulab_run_units import Unit
from _qemulab_run_units import script

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
