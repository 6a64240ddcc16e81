"""
A machine's images: its disks and its UEFI variables, made once and never replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import _qemulab_host_new_files as once
import _qemulab_host_probe as probe
import _qemulab_host_qcow2 as qcow2
import _qemulab_host_seam as host
import _qemulab_vm_hardware as hardware
from _qemulab_host_paths import Layout
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Disk
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_kinds import size_bytes
from _qemulab_pillar_kinds import size_text
from _qemulab_run_site import Site

AT_ONCE = 16
"""Images that are made at once, at the most."""


def image_size(path: Path) -> int | None:
    """Return the size in bytes of the disk that an image holds; ``None`` where there is no file."""
    found = qcow2.header(path)
    return None if found is None else found.size


def disk_sizes(site: Site, name: str, strict: bool = True) -> dict[str, int]:
    """
    Return the size of every disk image that a machine has, by the disk's name.

    strict
        Raise HostError where one is no image, or another machine's. Default ``True``; otherwise its
        size is 0.
    """
    found = {}
    for file in host.list_directory(site.layout.disks(name)):
        path = site.layout.disks(name) / file
        if path.suffix == ".qcow2" and path != site.layout.uefi_variables(name):
            try:
                size = image_size(path)
                if size is not None:
                    need_own(site, path)
            except HostError:
                if strict:
                    raise
                size = 0
            if size is not None:
                found[path.stem] = size
    return found


def need_own(site: Site, path: Path) -> None:
    """Raise HostError where an image is another disk's or machine's as well, by a hard link."""
    found = os.lstat(path)
    if found.st_nlink == 1:
        return
    for other in site.layout.state.glob("*/vms/*/disks/*.qcow2"):
        with contextlib.suppress(FileNotFoundError):
            if other != path and os.path.samestat(os.lstat(other), found):
                problem = f"{path} and {other} are one file: two disks would be written into it"
                raise HostError(problem, hint="move one away, or make it a copy (cp)")


def is_a_machines(layout: Layout, path: str) -> bool:
    """Return whether a file of the host is a disk that a machine of some lab writes to."""
    real = Path(os.path.realpath(path))
    return real.match(f"{os.path.realpath(layout.state)}/*/vms/*/disks/*")


def make_disk(site: Site, path: Path, disk: Disk) -> None:
    """Make a disk's image: empty, or over a backing image."""
    if not disk.backing:
        once.copy(blank(site, disk).path, path)
        return
    with once.unfinished(path) as temporary:
        # The format is given, not probed: whoever wrote the image could otherwise choose it.
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", disk.backing]
        qemu_img([*command, str(temporary), disk.size])
        once.publish(temporary, path)


class Template(NamedTuple):
    """An image that others are copies of: where it is, and what makes it when a path is added."""

    path: Path
    command: tuple[str, ...]
    size: str = ""


def blank(site: Site, disk: Disk) -> Template:
    """Return the template of an empty disk: ``qemu-img`` runs once a size and not once a disk."""
    path = site.layout.templates / f"blank-{size_bytes(disk.size)}.qcow2"
    return Template(path, ("qemu-img", "create", "-q", "-f", "qcow2"), disk.size)


def variables(site: Site, machine_type: str) -> Template:
    """Return the template of the UEFI variables, as qcow2: raw ones refuse snapshots."""
    found = site.firmware(machine_type)
    stamp = os.stat(found.vars)
    version = hashlib.sha256(f"{found.vars} {stamp.st_mtime_ns} {stamp.st_size}".encode())
    path = site.layout.templates / f"uefi-{version.hexdigest()[:16]}.qcow2"
    convert = ("qemu-img", "convert", "-f", found.vars_format, "-O", "qcow2", found.vars)
    return Template(path, convert)


def variables_problem(site: Site, name: str, vm: Vm) -> str:
    """
    Return in words that a machine's UEFI variables are another firmware's; empty where they fit.

    Measured with Debian's OVMF for flash of 2 MB and of 4 MB: the larger one boots with the smaller
    one's variables and has forgotten at the next start what was set; the smaller one dies on the
    larger one's.
    """
    if vm.firmware != "uefi":
        return ""
    own = image_size(site.layout.uefi_variables(name))
    found = site.firmware(vm.machine)
    if found.vars_format == "qcow2":
        header = qcow2.header(Path(found.vars), follow=True)
        wanted = header.size if header else None
    else:
        wanted = os.stat(found.vars).st_size
    if own is None or own == wanted:
        return ""
    says = (
        f"its UEFI variables of {size_text(own)} were made for another firmware than {found.code}"
    )
    if wanted is not None and own > wanted:
        return f"{says}, which does not boot with them"
    return f"{says}, which boots with them and keeps no change of them"


def make_templates(site: Site, vms: Mapping[str, Vm]) -> None:
    """Make, all at once, the templates that are missing and that images are about to come from."""
    wanted: dict[Path, Template] = {}
    for name, vm in vms.items():
        missing = [each for each in vm.disks if not site.layout.disk(name, each.name).exists()]
        found = [blank(site, disk) for disk in missing if not disk.backing]
        if vm.firmware == "uefi" and not site.layout.uefi_variables(name).exists():
            found.append(variables(site, vm.machine))
        wanted |= {each.path: each for each in found if not each.path.exists()}
    if wanted:
        host.make_directory(site.layout.templates)
        # Others may want the same ones, and have made them when the lock is free.
        with site.lock("lab", "templates"):
            once.remove_unfinished(site.layout.templates)
            with ThreadPoolExecutor(len(wanted)) as pool:
                list(pool.map(make_template, wanted.values()))


def make_template(template: Template) -> None:
    """Make a template where it is missing: under a temporary name, then given its own."""
    if template.path.exists():
        return
    with once.unfinished(template.path) as temporary:
        size = [template.size] if template.size else []
        qemu_img([*template.command, str(temporary), *size])
        once.rename(temporary, template.path)


def qemu_img(command: list[str]) -> None:
    """Run ``qemu-img``; raises HostError where it fails or is missing."""
    probe.binary(command[0])
    host.run(command)


def make_images(site: Site, vms: Mapping[str, Vm]) -> None:
    """
    Make the disks and variables that machines lack, let others grow; the machines are off.

    What is installed on them knows the hardware that they were made for: with them that is chosen.
    Several at once, since most of it is waiting for the host's disk: what is synced together costs
    little more than one.
    """
    make_templates(site, vms)
    # Before the first image: a disk without a number is one that 0.1.0 has made.
    new = [name for name in vms if not site.layout.hardware_file(name).exists()]
    hardware.keep(site, {name: hardware.find(site, name) for name in new})
    work: list[Callable[[], None]] = []
    for name, vm in vms.items():
        host.make_directory(site.layout.disks(name), mode=0o700, owner=host.USER)
        once.remove_unfinished(site.layout.disks(name))
        for disk in vm.disks:
            work.append(partial(make_or_grow, site, site.layout.disk(name, disk.name), disk))
        own = site.layout.uefi_variables(name)
        if vm.firmware == "uefi" and image_size(own) is None:
            work.append(partial(once.copy, variables(site, vm.machine).path, own))
    if work:
        with ThreadPoolExecutor(min(len(work), AT_ONCE)) as pool:
            list(pool.map(lambda each: each(), work))


def make_or_grow(site: Site, path: Path, disk: Disk) -> None:
    """Make a disk's image where there is none, and let a smaller one grow."""
    size = image_size(path)
    if size is None:
        make_disk(site, path, disk)
        return
    host.give(path)
    if size < size_bytes(disk.size):
        qemu_img(["qemu-img", "resize", "-q", "-f", "qcow2", str(path), disk.size])
