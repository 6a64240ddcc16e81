"""
A machine: its declaration -> QEMU's command line. Pure builders that do nothing else.

Whatever comes from the pillar goes to QEMU as JSON, where it can be nothing but a value; the few
options that take no JSON on QEMU 7.2 have their commas doubled by ``comma``.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import NamedTuple

from _qemulab_guest_contents import HANDED
from _qemulab_pillar_keys import USER_NETWORK
from _qemulab_pillar_keys import Disk
from _qemulab_pillar_keys import Forward
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Nic
from _qemulab_pillar_keys import Vm

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
LOOPBACK = "127.0.0.1"
NODE_NAME_LIMIT = 31
"""Characters of a block node's name. Source: QEMU's qapi/block-core.json, node-name"""


class Surroundings(NamedTuple):
    """
    What a machine needs from the host to be started: all that its declaration does not say.

    Paths are as the machine's QEMU sees them. ``hardware`` is the number of what its guest finds.
    """

    qemu: str
    accel: str
    uuid: str
    hardware: int
    qmp: Path
    watch: Path
    serial: Path
    console_log: Path
    vnc: Path
    disks: Mapping[str, Path]
    media: Mapping[str, Path]
    networks: Mapping[str, Network]
    firmware_code: str = ""
    firmware_code_format: str = "raw"
    uefi_variables: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    kernel_arguments: str = ""
    firmware_files: Mapping[str, Path] | None = None


def comma(text: str) -> str:
    """Return a text for an option of QEMU that takes no JSON: commas are doubled there."""
    return text.replace(",", ",,")


def as_json(value: Mapping[str, Any]) -> str:
    """Return a mapping as QEMU's command line takes it: JSON on one line."""
    return json.dumps(value, separators=(",", ":"))


def argv(name: str, vm: Vm, around: Surroundings) -> list[str]:
    """
    Return QEMU's whole command line.

    name
        Name of the machine.

    vm
        Its declaration, complete.

    around
        What the host contributes.
    """
    return [
        around.qemu,
        *identity(name, around),
        *HARDWARE[around.hardware](vm, around),
    ]


def first_hardware(vm: Vm, around: Surroundings) -> list[str]:
    """Return what a guest finds in a machine of the first number, or of none."""
    return [
        *platform(vm, around),
        *firmware(vm, around),
        *storage(vm, around),
        *network_cards(vm, around),
        *screen(vm, around),
    ]


HARDWARE: dict[int, Callable[[Vm, Surroundings], list[str]]] = {1: first_hardware}
"""
What builds the hardware of a machine, by the number that it has kept since it was made.

A number that a release has given out stays as it is: what is installed on a machine knows it by its
devices, and where they sit. Other hardware is the next number, which machines get that are made
from then on.
"""


def identity(name: str, around: Surroundings) -> list[str]:
    """
    Return who the machine is and how it is talked to: name, UUID, QMP, serial console.

    A QMP socket serves one client at a time. So whoever stays has one of their own, and never
    keeps the one that commands come by.
    """
    serial = f"socket,id=serial0,path={comma(str(around.serial))},server=on,wait=off"
    # fmt: off
    return [
        "-name", f"guest={comma(name)}",
        "-uuid", around.uuid,
        "-nodefaults",
        "-no-user-config",
        "-sandbox", SANDBOX,
        "-chardev", f"socket,id=qmp,path={comma(str(around.qmp))},server=on,wait=off",
        "-mon", "chardev=qmp,mode=control",
        "-chardev", f"socket,id=watch,path={comma(str(around.watch))},server=on,wait=off",
        "-mon", "chardev=watch,mode=control",
        "-chardev", f"{serial},logfile={comma(str(around.console_log))},logappend=on",
        "-serial", "chardev:serial0",
        "-fw_cfg", f"name={HANDED}/hostname,string={comma(name)}",
    ]
    # fmt: on


def platform(vm: Vm, around: Surroundings) -> list[str]:
    """Return machine type, accelerator, processor and memory."""
    cpu = vm.cpu or ("host" if around.accel == "kvm" else "")
    # fmt: off
    return [
        "-machine", vm.machine,
        "-accel", around.accel,
        *(["-cpu", cpu] if cpu else []),
        "-smp", str(vm.cpus),
        "-m", f"{vm.memory}M",
        "-object", as_json({"qom-type": "rng-random", "id": "rng0", "filename": "/dev/urandom"}),
        "-device", as_json({"driver": "virtio-rng-pci", "rng": "rng0"}),
    ]
    # fmt: on


def firmware(vm: Vm, around: Surroundings) -> list[str]:
    """Return the firmware's two flash chips, and the kernel where one is booted directly."""
    result: list[str] = []
    if vm.firmware == "uefi":
        code = {
            "driver": around.firmware_code_format,
            "node-name": "uefi-code",
            "read-only": True,
            "file": {"driver": "file", "filename": around.firmware_code},
        }
        variables = {
            "driver": "qcow2",
            "node-name": "uefi-variables",
            "file": {"driver": "file", "filename": str(around.uefi_variables)},
        }
        # fmt: off
        result += [
            "-blockdev", as_json(code),
            "-blockdev", as_json(variables),
            "-machine", "pflash0=uefi-code,pflash1=uefi-variables",
        ]
        # fmt: on
    if around.kernel is not None:
        result += ["-kernel", str(around.kernel)]
        if around.initrd is not None:
            result += ["-initrd", str(around.initrd)]
        result += ["-append", around.kernel_arguments]
    for item, path in sorted((around.firmware_files or {}).items()):
        result += ["-fw_cfg", f"name={HANDED}/{item},file={comma(str(path))}"]
    return result


def storage(vm: Vm, around: Surroundings) -> list[str]:
    """
    Return the disks and the CD drive.

    The order of booting is the devices' ``bootindex``: OVMF ignores ``-boot``. It begins at 1,
    since ``-kernel`` takes 0.
    """
    result: list[str] = []
    if any(disk.bus == "scsi" for disk in vm.disks):
        result += ["-device", as_json({"driver": "virtio-scsi-pci", "id": "scsi"})]
    first = 2 if vm.boot == "cdrom" else 1
    slots = [("ide.0", 0), ("ide.0", 1), ("ide.1", 1)]
    ide = 0
    for index, disk in enumerate(vm.disks):
        device: dict[str, Any] = {"id": disk_id(disk), "bootindex": first + index}
        if disk.bus == "ide":
            device |= {"driver": "ide-hd", "bus": slots[ide][0], "unit": slots[ide][1]}
            ide += 1
        elif disk.bus == "scsi":
            device |= {"driver": "scsi-hd", "bus": "scsi.0", "scsi-id": index}
        else:
            device |= {"driver": "virtio-blk-pci"}
        device["drive"] = node_name(disk)
        result += ["-blockdev", as_json(disk_node(disk, around.disks[disk.name], around))]
        result += ["-device", as_json(device)]
    return result + cd_drive(vm, around)


def disk_id(disk: Disk) -> str:
    """Return the name that QEMU knows a disk's device by."""
    return f"disk-{disk.name}"


def node_name(disk: Disk) -> str:
    """
    Return the name that QEMU knows a disk's block node by; a longer one than it takes is cut.

    What takes the end's place is a digest of the whole, so that no two are the same.
    """
    name = f"node-{disk_id(disk)}"
    if len(name) <= NODE_NAME_LIMIT:
        return name
    return f"node-{hashlib.sha256(name.encode()).hexdigest()[: NODE_NAME_LIMIT - len('node-')]}"


def disk_node(disk: Disk, path: Path, around: Surroundings) -> dict[str, Any]:
    """Return a disk's block node; image formats are given, never probed."""
    node: dict[str, Any] = {
        "driver": "qcow2",
        "node-name": node_name(disk),
        "discard": "unmap",
        "file": {"driver": "file", "filename": str(path)},
    }
    if disk.backing:
        node["backing"] = {
            "driver": "qcow2",
            "read-only": True,
            "file": {"driver": "file", "filename": str(around.media[disk.name])},
        }
    return node


def cd_drive(vm: Vm, around: Surroundings) -> list[str]:
    """
    Return the CD drive: always there, so that a disc can be changed while the machine runs.

    On machine type ``pc`` it is the master of the second IDE channel, as with ``-cdrom``.
    """
    device: dict[str, Any] = {"driver": "ide-cd", "id": "cdrom", "bus": "ide.1"}
    if vm.machine == "pc":
        device["unit"] = 0
    device["bootindex"] = 1 if vm.boot == "cdrom" else len(vm.disks) + 1
    result = []
    if vm.cdrom:
        device["drive"] = "node-cdrom"
        node = {
            "driver": "raw",
            "node-name": "node-cdrom",
            "read-only": True,
            "file": {"driver": "file", "filename": str(around.media["cdrom"])},
        }
        result += ["-blockdev", as_json(node)]
    return [*result, "-device", as_json(device)]


def network_cards(vm: Vm, around: Surroundings) -> list[str]:
    """Return the network cards with what each is plugged into."""
    result = []
    for index, nic in enumerate(vm.nics):
        device = {
            "driver": nic.model,
            "id": f"nic{index}",
            "netdev": f"net{index}",
            "mac": nic.mac,
            "bootindex": len(vm.disks) + 2 + index,
        }
        result += ["-netdev", as_json(netdev(nic, index, around.networks))]
        result += ["-device", as_json(device)]
    return result


def netdev(nic: Nic, index: int, networks: Mapping[str, Network]) -> dict[str, Any]:
    """
    Return what a network card is plugged into.

    ``localaddr`` binds QEMU's side of the hub to the loopback interface. Without it every frame
    leaves on whatever interface has the default route, and a host without one cannot start.
    """
    result: dict[str, Any] = {"id": f"net{index}"}
    if nic.network != USER_NETWORK:
        group = networks[nic.network].multicast
        return {"type": "socket", **result, "mcast": group, "localaddr": LOOPBACK}
    result = {"type": "user", **result}
    if nic.restrict:
        result["restrict"] = True
    if nic.forwards:
        result["hostfwd"] = [{"str": forward_rule(forward)} for forward in nic.forwards]
    return result


def forward_rule(forward: Forward) -> str:
    """Return a forwarded port as QEMU's ``hostfwd`` takes it."""
    host = f"{forward.host_address}:{forward.host_port}"
    return f"{forward.protocol}:{host}-:{forward.guest_port}"


def screen(vm: Vm, around: Surroundings) -> list[str]:
    """Return the screen: none, or VGA with keyboard and tablet on VNC, never off the host."""
    if vm.display == "none":
        return ["-display", "none", "-vga", "none"]
    if vm.vnc_port:
        # QEMU's display N listens on TCP port 5900 + N. Source: qemu-system-x86_64(1), -vnc
        vnc = f"{LOOPBACK}:{vm.vnc_port - 5900}"
    else:
        vnc = f"unix:{comma(str(around.vnc))}"
    # fmt: off
    return [
        "-vga", "std",
        "-device", as_json({"driver": "qemu-xhci", "id": "usb"}),
        "-device", as_json({"driver": "usb-kbd", "bus": "usb.0"}),
        "-device", as_json({"driver": "usb-tablet", "bus": "usb.0"}),
        "-vnc", vnc,
    ]
    # fmt: on


def launch_script(
    name: str, command: list[str], images: Sequence[Path] = (), in_use: Path | None = None
) -> str:
    """
    Return the script that becomes QEMU: what a supervisor runs, a person can run.

    images
        The machine's own disks and variables. Where QEMU was killed, clusters may be left in them
        that belong to nothing; they are freed before it runs again. Default: none.

    in_use
        The file that says so: made by a start, removed after an end in good order.
    """
    lines = [f"# {name}: started by its supervisor, as the user qemulab."]
    if images and in_use is not None:
        mark = shlex.quote(str(in_use))
        lines += [
            f"if [ -e {mark} ]; then",
            f"    for image in {shlex.join(str(path) for path in images)}; do",
            '        qemu-img check -q -f qcow2 -r leaks "$image" || :',
            "    done",
            "else",
            f"    : > {mark}",
            "fi",
        ]
    return "\n".join(["#!/bin/sh", *lines, f"exec {shlex.join(command)}"]) + "\n"
