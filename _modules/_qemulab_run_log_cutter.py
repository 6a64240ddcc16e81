"""
Console logs that stay small: QEMU writes them itself and without end, a guest decides how much.

Pure: the script that cuts them, and what has it run every few seconds: a timer of systemd's, or
supervisord's own tick. QEMU is not asked, and nothing of qemulab runs in between: under supervisord
a shell waits for the tick.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import _qemulab_run_by_supervisord_programs as programs
import _qemulab_run_by_systemd_units as systemd_units
from _qemulab_host_paths import Layout
from _qemulab_run_units import script

LIMIT = 4 * 2**20
"""Bytes that a log may have on the disk until it is cut."""
KEPT = 2**20
"""Bytes of its end that are kept, and what is cut is whole pieces of: no block is larger."""
INTERVAL = 5
"""Seconds between two looks: of supervisord's ticks the shortest. Measured: a built-in guest under
TCG that does nothing but print makes 80 kB a second on a busy host."""
NAME = "consoles"
"""What supervisord calls the listener."""


def cut_script(directory: Path) -> str:
    """
    Return the script that cuts the logs of a directory; with the word ``listen`` at each tick of a
    supervisord.

    The beginning of a file is taken away under its writer, who appends: where the file system can,
    as ext4 and xfs can, the file gets shorter, on others it gets a hole. No byte of the end is lost
    by either. Source: fallocate(2). Where neither can be had the whole log goes.
    """
    logs = f"{shlex.quote(str(directory))}/*.log"
    cut = '--offset 0 --length "$cut" "$log" 2>/dev/null'
    return script(
        "Cuts console logs that have grown too large.",
        [
            "cut() {",
            f"    stat -c '%b %s %n' {logs} 2>/dev/null | while read -r blocks size log; do",
            f'        [ "$blocks" -gt {LIMIT // 512} ] || continue',
            f"        cut=$(((size - {KEPT}) / {KEPT} * {KEPT}))",
            '        [ "$cut" -gt 0 ] || continue',
            f"        fallocate --collapse-range {cut} ||",
            f'            fallocate --punch-hole {cut} || : > "$log"',
            "    done",
            "}",
            '[ "$1" = listen ] || { cut; exit; }',
            "# Source: supervisord.org/events.html",
            "printf 'READY\\n'",
            "while read -r header; do",
            '    head -c "${header##*len:}" >/dev/null',
            "    cut",
            "    printf 'RESULT 2\\nOKREADY\\n'",
            "done",
        ],
    )


def timer_name(lab: str) -> str:
    """Return what systemd calls the timer that has a lab's logs cut."""
    return f"qemulab-consoles@{lab}.timer"


def service_name(lab: str) -> str:
    """Return what systemd calls the service that cuts a lab's logs."""
    return f"qemulab-consoles@{lab}.service"


def timer() -> str:
    """Return the timer: it runs as long as a machine wants it."""
    lines = [
        "# Made by qemulab; removed with the lab.",
        "[Unit]",
        "Description=qemulab console logs of %i, timer",
        "StopWhenUnneeded=yes",
        "",
        "[Timer]",
        f"OnActiveSec={INTERVAL}",
        f"OnUnitInactiveSec={INTERVAL}",
        "AccuracySec=1",
    ]
    return "\n".join(lines) + "\n"


def service(layout: Layout, user: str) -> str:
    """
    Return the service; that it has run is no news for the journal.

    It has no ``/tmp`` of its own, which would be two directories on the host's disk, made and
    removed every few seconds. Nor does it fail, where somebody has removed the script: that would
    stay in systemd's list of failed units when the lab is gone.
    """
    lines = [
        "# Made by qemulab; removed with the lab.",
        "[Unit]",
        "Description=qemulab console logs of %i",
        "",
        "[Service]",
        "Type=oneshot",
        f"User={user}",
        f"Group={user}",
        *(
            f"{name}={value}"
            for name, value in systemd_units.HARDENING.items()
            if name != "PrivateTmp"
        ),
        "CapabilityBoundingSet=",
        "RestrictAddressFamilies=none",
        "LogLevelMax=warning",
        f"ReadWritePaths={systemd_units.systemd_path(f'-{layout.consoles}')}",
        f"ExecStart=-{systemd_units.systemd_command(layout.console_cutter)}",
    ]
    return "\n".join(lines) + "\n"


def supervisord_listener(layout: Layout, user: str) -> str:
    """Return supervisord's section for the shell that waits for its tick."""
    path = programs.supervisord_value(shlex.quote(str(layout.console_cutter)))
    drop = (
        f"--reuid={user} --regid={user} --init-groups --no-new-privs "
        "--bounding-set=-all --inh-caps=-all"
    )
    lines = [
        f"[eventlistener:{NAME}]",
        f"command=setpriv {drop} /bin/sh {path} listen",
        f"events=TICK_{INTERVAL}",
        "autostart=true",
        "startsecs=0",
        "directory=/",
        "stdout_logfile=NONE",
        "stderr_logfile=NONE",
    ]
    return "\n".join(lines) + "\n"
