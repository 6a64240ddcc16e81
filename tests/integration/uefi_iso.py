"""
Small images that boot under UEFI and say so: what a user's own ISO or disk is to a lab.

The boot loader is a unified kernel image: systemd's stub, a kernel and an initial RAM disk in one
EFI executable. Its /init prints a marker on the serial console. No loop device, no mount, no root.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
BOOTLOADER = "::/EFI/BOOT/BOOTX64.EFI"
MIB = 1024 * 1024

#: The programs that this file runs, for a test's ``needs`` marker.
NEEDS = ("objcopy", "mformat", "mmd", "mcopy", "xorriso", "sfdisk", "qemu-img")

#: What a guest does once it has printed its marker.
ENDINGS = {
    "poweroff": "poweroff -f",
    "stay": "while true; do sleep 3600; done",
}


def bootable_iso(
    path: Path, marker: str, vmlinuz: Path, busybox: Path, ending: str = "poweroff"
) -> Path:
    """
    Make an ISO 9660 image that UEFI firmware boots from a CD drive.

    marker
        A line that the guest prints on ttyS0.

    vmlinuz, busybox
        A kernel with the serial console, devtmpfs and ACPI built in, and a static busybox.

    ending
        What it does then: ``poweroff`` (default) or ``stay``.

    Returns the path.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        esp_image(tree / "efi.img", marker, vmlinuz, busybox, ending)
        argv = [
            "xorriso", "-as", "mkisofs",
            "-quiet",
            "-V", "QEMULAB_TEST",
            "-e", "efi.img", "-no-emul-boot",
            "-o", os.fspath(path),
            folder,
        ]  # fmt: skip
        run(argv)
    return path


def bootable_disk(
    path: Path,
    marker: str,
    vmlinuz: Path,
    busybox: Path,
    image_format: str = "qcow2",
    ending: str = "poweroff",
) -> Path:
    """
    Make a disk image with one EFI system partition, that UEFI firmware boots.

    image_format
        ``qcow2`` (default) or ``raw``.

    The other arguments are those of ``bootable_iso``. Returns the path.
    """
    with tempfile.TemporaryDirectory() as folder:
        esp = Path(folder) / "esp.img"
        esp_image(esp, marker, vmlinuz, busybox, ending)
        raw = Path(folder) / "disk.img"
        with raw.open("wb") as disk:
            # One MiB in front for the partition table, one behind for its copy.
            disk.truncate(esp.stat().st_size + 2 * MIB)
            disk.seek(MIB)
            disk.write(esp.read_bytes())
        layout = f"label: gpt\nstart=1MiB, size={esp.stat().st_size // MIB}MiB, type=uefi\n"
        run(["sfdisk", "--quiet", os.fspath(raw)], layout)
        run(["qemu-img", "convert", "-O", image_format, os.fspath(raw), os.fspath(path)])
    return path


def esp_image(path: Path, marker: str, vmlinuz: Path, busybox: Path, ending: str) -> None:
    """Make a FAT file system that holds a boot loader where firmware looks for one."""
    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder) / "kernel.efi"
        unified_kernel(kernel, vmlinuz, initrd(marker, busybox, ending))
        esp_with(path, kernel)


def esp_with(path: Path, kernel: Path) -> None:
    """Make a FAT file system that holds an EFI executable where firmware looks for one."""
    # FAT needs some room of its own; whole MiB keep partitions aligned.
    size = kernel.stat().st_size // MIB + 4
    with path.open("wb") as image:
        image.truncate(size * MIB)
    image_of = ["-i", os.fspath(path)]
    run(["mformat", *image_of, "-T", str(size * MIB // 512), "-v", "ESP", "::"])
    run(["mmd", *image_of, "::/EFI", "::/EFI/BOOT"])
    run(["mcopy", *image_of, os.fspath(kernel), BOOTLOADER])


def unified_kernel(
    path: Path,
    vmlinuz: Path,
    ramdisk: bytes,
    arguments: str = "console=ttyS0 quiet panic=-1 no_timer_check",
) -> None:
    """Make one EFI executable of systemd's stub, a kernel, its command line and a RAM disk."""
    sections = {
        ".osrel": b"ID=qemulab-test\nNAME=qemulab-test\nVERSION_ID=1\n",
        ".cmdline": arguments.encode() + b"\0",
        ".linux": vmlinuz.read_bytes(),
        ".initrd": ramdisk,
    }
    argv = ["objcopy"]
    # Behind all of the stub's own sections, one after another, none on the page of the one before.
    address = 0x2000000
    with tempfile.TemporaryDirectory() as folder:
        for name, data in sections.items():
            part = Path(folder) / name[1:]
            part.write_bytes(data)
            argv += [f"--add-section={name}={part}", f"--change-section-vma={name}={address:#x}"]
            address += (len(data) + 0xFFFF) & ~0xFFFF
        run([*argv, os.fspath(STUB), os.fspath(path)])


def initrd(marker: str, busybox: Path, ending: str) -> bytes:
    """Return a RAM disk whose /init prints the marker on the serial console, then ends."""
    script = f"""#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
echo '{marker}' > /dev/ttyS0
{ENDINGS[ending]}
"""
    return archive(script, busybox, {})


def archive(script: str, busybox: Path, files: Mapping[str, bytes]) -> bytes:
    """Return a RAM disk with an /init, busybox, and further files in its top directory."""
    members = [
        archive_member("bin", stat.S_IFDIR | 0o755),
        archive_member("dev", stat.S_IFDIR | 0o755),
        archive_member("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()),
        archive_member("init", stat.S_IFREG | 0o755, script.encode()),
        *(archive_member(name, stat.S_IFREG | 0o644, data) for name, data in files.items()),
        archive_member("TRAILER!!!", 0),
    ]
    packed = b"".join(members)
    return packed + bytes(-len(packed) % 512)


def archive_member(name: str, mode: int, data: bytes = b"") -> bytes:
    """Return one member of a cpio archive, in the format that the kernel unpacks (newc)."""
    encoded = name.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device (2), node (2), name's length, checksum
    fields = [0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
    header = b"070701" + b"".join(b"%08X" % value for value in fields) + encoded
    padded = header + bytes(-len(header) % 4)
    return padded + data + bytes(-len(data) % 4)


def run(argv: list[str], stdin: str = "") -> None:
    """Run a command to its end; what it said is the error where it fails."""
    # sfdisk, mformat and others are where a user's PATH does not look.
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    environment = os.environ | {"PATH": path, "MTOOLS_SKIP_CHECK": "1"}
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"
