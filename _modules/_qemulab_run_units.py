"""
Units: what a supervisor has to know of one process, and how systemd and supervisord are told.

Pure: texts only. ``_qemulab_run_by_systemd`` and ``_qemulab_run_by_supervisord`` put them in place.
"""

from __future__ import annotations

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
