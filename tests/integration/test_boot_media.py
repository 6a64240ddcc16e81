"""
A UEFI ISO is booted from a machine's CD drive, whatever its disk holds; it lies where it lies.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import harness
import labs
import pytest
import uefi_iso
from labs import Lab

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", *uefi_iso.NEEDS),
]

BOOT_TIMEOUT = 120.0
NAMES = ("empty", "installed")


def machine(iso: Path, index: int, **more: Any) -> dict[str, Any]:
    """Return a UEFI machine with a disc in its drive."""
    return {
        "memory": 512,
        "cpus": 1,
        "cdrom": str(iso),
        "disks": [{"size": "256M"}],
        "nics": [{"network": "user", "forwards": [{"host_port": 10030 + index}]}],
        "stop_grace": 1,
        **more,
    }


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Make an ISO and a bootable disk, each of which says what it is."""
    folder = tmp_path_factory.mktemp("images")
    vmlinuz = labs.built_guest() / "vmlinuz"
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    arguments = {"vmlinuz": vmlinuz, "busybox": busybox, "ending": "stay"}
    return {
        "iso": uefi_iso.bootable_iso(folder / "image.iso", "BOOTED-FROM-ISO", **arguments),
        "disk": uefi_iso.bootable_disk(folder / "disk.qcow2", "BOOTED-FROM-DISK", **arguments),
    }


def test_iso_first_then_disk(host: harness.Host, images: dict[str, Path]) -> None:
    """From a home that only its owner may enter; then without the disc from the disk."""
    lab = Lab(host)
    home = "/home/user with, odd:name"
    host.run(["mkdir", "-p", "-m", "0700", home])
    shutil.copy(images["iso"], host.shared / "image.iso")
    shutil.copy(images["disk"], host.shared / "disk.qcow2")
    iso = Path(home) / "image.iso"
    host.run(["cp", host.shared / "image.iso", iso])
    host.run(["chmod", "0644", iso])
    declared = {"vms": {name: machine(iso, index) for index, name in enumerate(NAMES)}}
    # The second machine's disk is one that somebody has installed a system on.
    disk = "/var/lib/qemulab/lab/vms/installed/disks/hda.qcow2"
    host.run(["mkdir", "-p", "-m", "0700", Path(disk).parent])
    host.run(["cp", host.shared / "disk.qcow2", disk])
    host.run(["qemu-img", "resize", "-q", "-f", "qcow2", disk, "256M"])

    done = lab.apply(declared=declared)
    assert "disks:hda:size" not in done["vm_running installed"]["changes"]
    for name in NAMES:
        harness.wait_for(
            lambda name=name: "BOOTED-FROM-ISO" in lab.console(name), BOOT_TIMEOUT, name
        )
        assert "BOOTED-FROM-DISK" not in lab.console(name)
    # It was not copied: what the lab has written is small.
    written = host.run(["du", "-sm", "/var/lib/qemulab/lab", "/run/qemulab"]).stdout.split()
    assert int(written[0]) < 5 + images["disk"].stat().st_size // 2**20

    # The installation is over: the disc goes out live, the boot order waits for the next start.
    declared["vms"]["installed"] = machine(iso, 1, cdrom=None, boot="disk")
    state = lab.apply(declared=declared)["vm_running installed"]
    assert state["changes"]["cdrom"] == {"old": str(iso), "new": None, "effect": "live"}
    assert state["pending"] == {"boot": {"old": "cdrom", "new": "disk", "effect": "restart"}}
    lab.call("vm_restart", "installed")
    harness.wait_for(
        lambda: "BOOTED-FROM-DISK" in lab.console("installed"), BOOT_TIMEOUT, "the disk"
    )
    assert lab.changes(lab.apply(declared=declared)) == {}


@pytest.mark.parametrize(
    ("mode", "problem"),
    [("0600", "is not readable by the user qemulab: chmod o+r"), (None, "No such file")],
)
def test_b12_unreadable_iso_is_a_fault_before_anything_is_made(
    namespace_host: harness.Host, mode: str | None, problem: str
) -> None:
    """With the path in the pillar; and other faults of the pillar beside it."""
    lab = Lab(namespace_host)
    iso = namespace_host.shared / "image.iso"
    if mode:
        iso.write_bytes(bytes(2048))
        namespace_host.run(["chmod", mode, iso])
    declared = {"vms": {"a": machine(iso, 0), "b": {"memmory": 5}}}
    for test in (True, False):
        states = lab.apply(declared=declared, test=test, check=False)
        assert list(states) == ["declared lab-declared"]
        comment = states["declared lab-declared"]["comment"]
        assert f"lab:vms:a:cdrom: {iso}" in comment and problem in comment
        assert "lab:vms:b:memmory: unknown key; did you mean memory?" in comment
    left = lab.leftovers()
    assert set(left) <= {"files"}
    assert not any("/lab/" in path or "/etc/systemd" in path for path in left.get("files", set()))
