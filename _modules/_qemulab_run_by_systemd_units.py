"""
What systemd is told of the processes of a lab: template units, and a drop-in for each. Pure.
"""

from __future__ import annotations

import re
from pathlib import Path

from _qemulab_run_units import DESCRIPTIONS
from _qemulab_run_units import Unit

PLAIN_PATH = "[A-Za-z0-9_./@:-]+"
"""A path that needs no quotes in a unit file."""

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
