"""
Files of the host that a machine reads where they lie (ISO and backing images): what is wrong with
them is said before anything is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import _qemulab_host_probe as probe
import _qemulab_host_qcow2 as qcow2
import _qemulab_vm_disks as disks
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Disk
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_kinds import size_bytes
from _qemulab_pillar_kinds import size_text
from _qemulab_run_site import Site


def media(vm: Vm) -> dict[str, str]:
    """Return the files of the host that a machine reads where they lie, by what they are to it."""
    found = {disk.name: disk.backing for disk in vm.disks if disk.backing}
    if vm.cdrom:
        found["cdrom"] = vm.cdrom
    return found


def media_paths(site: Site, name: str, vm: Vm) -> dict[str, Path]:
    """Return where QEMU sees those files: under names of ours in its own mount namespace."""
    return {item: site.layout.media(name) / item for item in media(vm)}


def problems(site: Site, name: str, vm: Vm, running: Vm | None = None) -> Iterator[tuple[str, str]]:
    """
    Yield what is wrong with the files that a machine is to read: the key below it, and in words.

    running
        What it runs as: the files of that are open already. Default: it does not run.
    """
    keys = {disk.name: f"disks:{index}:backing" for index, disk in enumerate(vm.disks)}
    opened = media(running) if running else {}
    for item, path in media(vm).items():
        if opened.get(item) == path:
            continue
        problem = probe.unusable(item, path)
        if disks.is_a_machines(site.layout, path):
            problem = "is a machine's own disk, which it writes to: declare a copy of it"
        if problem:
            yield keys.get(item, item), f"{path} {problem}"
    for index, disk in enumerate(vm.disks):
        if not site.layout.disk(name, disk.name).exists():
            problem = cut_off(disk)
            if problem:
                yield f"disks:{index}:size", problem


def cut_off(disk: Disk) -> str:
    """
    Return in words that a disk would end before its backing image does; empty where it does not.

    ``qemu-img create`` makes such a disk without a word, and its guest finds a damaged partition.
    """
    found = None
    if disk.backing and not probe.unreadable(disk.backing):
        try:
            found = qcow2.header(Path(disk.backing), follow=True)
        except HostError:
            pass  # that it is no image is told by itself
    if found is None or found.size <= size_bytes(disk.size):
        return ""
    whole = size_text(found.size)
    return f"{disk.size} would cut off {disk.backing}, which has {whole}: declare size: {whole}"


def check(site: Site, name: str, vm: Vm, running: Vm | None = None) -> None:
    """Raise HostError for the first of ``problems``."""
    for key, problem in problems(site, name, vm, running):
        raise HostError(f"lab:vms:{name}:{key}: {problem}")
