"""
What a pillar accepts as a disk's name, and what QEMU does.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import _qemulab_pillar_spec as spec
import _qemulab_vm_command as command
import _qemulab_vm_media as vm_media
import pytest
from _qemulab_host_paths import Layout
from _qemulab_pillar_kinds import SpecError
from _qemulab_vm_command import Surroundings
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

pytestmark = [pytest.mark.needs_root, pytest.mark.needs("qemu-system-x86_64", "qemu-img")]

WORDS = [
    *(
        "cdrom",
        "uefi-variables",
        "uefi-code",
        "scsi",
        "usb",
        "rng0",
        "nic0",
        "net0",
        "qmp",
        "watch",
        "disk",
    ),
    *("hda", "hdb", "a" * 21, "a" * 22, "a" * 31 + "b", "a" * 32, "0", "node", "serial0", "disk-0"),
]
NAMES = st.sampled_from(WORDS) | st.from_regex(
    "[a-z0-9]([a-z0-9-]{18,30}[a-z0-9])?", fullmatch=True
)


def command_line(disks: list[str]) -> list[str] | None:
    """Return QEMU's command line for a machine with these disks, ``None`` where it is refused."""
    keys: dict[str, Any] = {"boot": "guest", "cdrom": "/srv/a.iso", "nics": []}
    keys["disks"] = [{"name": name, "bus": "virtio", "backing": "/srv/b"} for name in disks]
    try:
        vm = spec.vm_from("a", keys, "lab", {})
    except SpecError:
        return None
    layout = Layout("lab")
    around = Surroundings(
        qemu="qemu-system-x86_64",
        accel="tcg",
        uuid=spec.vm_uuid("lab", "a"),
        hardware=1,
        qmp=layout.qmp("a"),
        watch=layout.watch("a"),
        serial=layout.serial("a"),
        console_log=layout.console("a"),
        vnc=layout.vnc("a"),
        disks={disk.name: layout.disk("a", disk.name) for disk in vm.disks},
        media={item: layout.media("a") / item for item in vm_media.media(vm)},
        networks={},
        uefi_variables=layout.uefi_variables("a"),
    )
    return command.argv("a", vm, around)


def values(argv: list[str], option: str) -> list[dict[str, Any]]:
    """Return what an option is given, wherever that is JSON."""
    pairs = zip(argv, argv[1:], strict=False)
    return [json.loads(value) for word, value in pairs if word == option and value.startswith("{")]


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_every_disk_name_that_is_accepted_gives_names_of_its_own(disks: list[str]) -> None:
    """To QEMU, by device and by block node, and to the files; short enough for QEMU."""
    argv = command_line(disks)
    if argv is None:
        assert {"cdrom", "uefi-variables"} & set(disks)
        return
    nodes = values(argv, "-blockdev")
    names = [node["node-name"] for node in nodes]
    devices = [device["id"] for device in values(argv, "-device") if "id" in device]
    files = [node["file"]["filename"] for node in nodes]
    files += [node["backing"]["file"]["filename"] for node in nodes if "backing" in node]
    for each in (names, devices, files):
        assert len(set(each)) == len(each)
    assert all(len(name) <= 31 for name in names)
    drives = [device["drive"] for device in values(argv, "-device") if "drive" in device]
    assert len(drives) == len(disks) + 1 and set(drives) <= set(names)


def test_qemu_takes_the_names_of_disks(tmp_path: Path) -> None:
    """All at once: QEMU makes a node and a device of each, and says nothing."""
    found: dict[str, str] = {}

    @settings(max_examples=100)
    @given(NAMES)
    def collect(name: str) -> None:
        argv = command_line([name])
        if argv is not None:
            (node,) = [n for n in values(argv, "-blockdev") if n["driver"] == "qcow2"][-1:]
            (device,) = [d for d in values(argv, "-device") if d["driver"] == "virtio-blk-pci"]
            found[node["node-name"]] = device["id"]

    collect()
    assert len(found) > 30 and any(len(name) == 31 for name in found)
    words: list[str] = []
    for name, device in found.items():
        words += ["-blockdev", json.dumps({"driver": "null-co", "node-name": name})]
        words += ["-device", json.dumps({"driver": "scsi-hd", "drive": name, "id": device})]
    base = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-S", "-accel", "tcg"]
    base += ["-device", "virtio-scsi-pci", "-monitor", "stdio"]
    done = subprocess.run(
        [*base, *words], input="quit\n", capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
