"""
What of a lab's directories is qemulab's own, by its name: a purge removes that and nothing else.

People and file systems keep things there as well: notes, ``.snapshots``, ``lost+found``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from collections.abc import Iterable
from pathlib import Path

import _qemulab_host_seam as host
from _qemulab_host_paths import Layout

SCRIPTS = {"supervisord.conf", "cut-consoles"}
LAB = {"lab.json", "written.json", *SCRIPTS, "networks", "vms", "units", "ssh", "templates"}
"""In a lab's directory."""
HOST_KEY = {"ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", ".new", ".new.pub"}
"""In a machine's directory: its host key, and one that is just being made."""
KEPT = {"vm.json", "hardware", "written.json", "snapshots.json"}
MACHINE = {*KEPT, "launch", "prepare", "powerdown", *HOST_KEY}
"""In a machine's directory, beside its disks."""
PROCESSES = {"link", "hub", "dnsmasq", "dnsmasq.conf", "reservations", "hosts", "dhcp", "etc"}
NETWORK = {"network.json", "written.json", *PROCESSES, "resolv.conf"}
"""In a network's directory; the last by earlier versions."""
SSH = {"id_ed25519", "id_ed25519.pub", "authorized_keys", "known_hosts", ".new", ".new.pub"}
"""In a lab's directory of keys."""
LOG = re.compile(r"(supervisord|(hub|dnsmasq|vm)-.+)\.log(\.[0-9]+)?")
CONSOLE = re.compile(r".+\.log(\.[0-9]+)?")
IMAGE = re.compile(r".+\.qcow2|\.in-use|\..+\.new")


def unfinished(name: str, of: Iterable[str]) -> bool:
    """Return whether a name is what an apply that was killed has left beside one of some files."""
    return any(re.fullmatch(rf"\.{re.escape(each)}\.[a-z0-9_]{{8}}", name) for each in of)


def named(directory: Path, is_ours: Callable[[str], object]) -> list[Path]:
    """Return what of a directory is ours by its name."""
    return [directory / name for name in host.list_directory(directory, True) if is_ours(name)]


def is_lab(directory: Path) -> bool:
    """Return whether a directory is a lab's: it has something that a lab has."""
    return any((directory / name).exists() for name in LAB)


def machine(layout: Layout, name: str) -> list[Path]:
    """Return the files of a machine: what it is, its disks, its UEFI variables."""
    found = named(layout.vm(name), lambda each: each in MACHINE or unfinished(each, MACHINE))
    return found + named(layout.disks(name), IMAGE.fullmatch)


def remove_machine(layout: Layout, name: str) -> None:
    """Remove all files of a machine, and its directories where nothing else is in them."""
    for path in machine(layout, name):
        host.remove(path)
    for directory in (layout.disks(name), layout.vm(name), layout.vms):
        host.remove_empty(directory)


def remove_network(layout: Layout, name: str) -> None:
    """Remove all files of a network, and its directories where nothing else is in them."""
    directory = layout.network(name)
    for path in named(directory, lambda each: each in NETWORK or unfinished(each, NETWORK)):
        host.remove(path)
    for each in (directory, layout.networks):
        host.remove_empty(each)


def logs(layout: Layout) -> list[Path]:
    """Return the log files of a lab."""
    return named(layout.lab_logs, LOG.fullmatch) + named(layout.consoles, CONSOLE.fullmatch)


def has_logs(layout: Layout) -> bool:
    """Return whether a purge of a lab removes logs, or the directory that they were in."""
    found = logs(layout)
    mine = [path for path in found if path.parent == layout.consoles]
    whole = layout.consoles.is_dir() and len(mine) == len(
        host.list_directory(layout.consoles, True)
    )
    return bool(found) or (whole and not os.path.ismount(layout.consoles))


def remove_lab(layout: Layout) -> None:
    """
    Remove what is left of a lab whose machines and networks are gone, and its logs.

    Of a network, an apply that was killed may have left files that nobody calls one.
    """
    for name in host.list_directory(layout.networks):
        remove_network(layout, name)
    keys = layout.ssh_key.parent
    for path in named(keys, lambda each: each in SSH or unfinished(each, SSH)):
        host.remove(path)
    for directory in (layout.vms, layout.networks, keys):
        host.remove_empty(directory)
    whole = LAB - {layout.vms.name, layout.networks.name, keys.name}
    for path in named(layout.lab_state, lambda each: each in whole or unfinished(each, LAB)):
        host.remove(path)
    for path in logs(layout):
        host.remove(path)
    for directory in (layout.lab_state, layout.consoles, layout.lab_logs):
        host.remove_empty(directory)
