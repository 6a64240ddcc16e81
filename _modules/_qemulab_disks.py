"""
A machine's images: its disks and its UEFI variables, made once and never replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import _qemulab_host as host
import _qemulab_probe as probe
from _qemulab_host import HostError
from _qemulab_keys import Disk
from _qemulab_keys import Vm
from _qemulab_kinds import size_bytes
from _qemulab_site import Site

QCOW2_MAGIC = b"QFI\xfb"


def image_size(path: Path) -> int | None:
    """
    Return the size in bytes of the disk that a qcow2 image holds; ``None`` where there is no file.

    Read from the image's header (magic, then at byte 24 the size) and not by ``qemu-img info``,
    which takes 10 ms a disk and is refused while the machine runs. Source: QEMU's
    docs/interop/qcow2.txt
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as stream:
            header = stream.read(32)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise HostError(f"{path}: {err.strerror}") from err
    if len(header) < 32 or header[:4] != QCOW2_MAGIC:
        raise HostError(f"{path} is not a qcow2 image", hint="move it away and apply again")
    return int(struct.unpack(">Q", header[24:32])[0])


def disk_sizes(site: Site, name: str) -> dict[str, int]:
    """Return the size of every disk image that a machine has, by the disk's name."""
    found = {}
    for file in host.list_directory(site.layout.disks(name)):
        path = site.layout.disks(name) / file
        if path.suffix == ".qcow2" and path != site.layout.uefi_variables(name):
            size = image_size(path)
            if size is not None:
                found[path.stem] = size
    return found


def publish(temporary: Path, path: Path) -> None:
    """Give a finished image its name; one that has appeared meanwhile is never replaced."""
    try:
        os.chmod(temporary, 0o600)
        os.chown(temporary, *host.user_ids(host.USER))
        os.link(temporary, path)
    except FileExistsError as err:
        raise HostError(f"{path} has just been made by somebody else") from err
    except OSError as err:
        raise HostError(f"{path} could not be made: {err.strerror}") from err
    host.sync_directory(path.parent)


def make_disk(path: Path, disk: Disk) -> None:
    """Make a disk's image under a temporary name, then give it its own."""
    command = ["qemu-img", "create", "-q", "-f", "qcow2"]
    if disk.backing:
        # The format is given, not probed: whoever wrote the image could otherwise choose it.
        command += ["-F", "qcow2", "-b", disk.backing]
    with unfinished(path) as temporary:
        host.run([*command, str(temporary), disk.size], hint=probe.install_hint("qemu-img"))
        publish(temporary, path)


def make_variables(site: Site, path: Path, machine_type: str) -> None:
    """
    Make a machine's copy of the UEFI variables, as qcow2: raw ones refuse snapshots.

    The firmware's own are converted once for a lab and copied for each machine.
    """
    found = probe.firmware(machine_type)
    stamp = os.stat(found.vars)
    version = hashlib.sha256(f"{found.vars} {stamp.st_mtime_ns} {stamp.st_size}".encode())
    template = site.layout.uefi_templates / f"{version.hexdigest()[:16]}.qcow2"
    if not template.exists():
        host.make_directory(template.parent)
        convert = ["qemu-img", "convert", "-f", found.vars_format, "-O", "qcow2"]
        with unfinished(template) as temporary:
            command = [*convert, found.vars, str(temporary)]
            host.run(command, hint=probe.install_hint("qemu-img"))
            os.rename(temporary, template)
    with unfinished(path) as temporary:
        shutil.copyfile(template, temporary)
        publish(temporary, path)


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Give a name beside an image's own to make it under; nothing of it is left in the end."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        host.remove(temporary)
        yield temporary
    finally:
        host.remove(temporary)


def make_images(site: Site, name: str, vm: Vm) -> None:
    """Make the disks and variables that a machine lacks, and let those it has grow; it is off."""
    layout = site.layout
    host.make_directory(layout.disks(name), mode=0o700, owner=host.USER)
    for disk in vm.disks:
        path = layout.disk(name, disk.name)
        size = image_size(path)
        if size is None:
            make_disk(path, disk)
            continue
        host.give(path)
        if size < size_bytes(disk.size):
            host.run(["qemu-img", "resize", "-q", "-f", "qcow2", str(path), disk.size])
    variables = layout.uefi_variables(name)
    if vm.firmware == "uefi" and not variables.exists():
        make_variables(site, variables, vm.machine)
