"""
Debian guests: what a user's own machines are to a lab, made once and shared by the tests.

There are two, by what asks for their addresses and names: ``dhclient`` (ifupdown, as Debian's
installer sets it up) and ``networkd`` (with systemd-resolved, as on cloud images and most other
distributions). Each is a disk of Debian 12 that boots under UEFI and lets in, over SSH, whom the
lab lets in: the keys come from QEMU's ``-fw_cfg``, as the built-in guest's do. NICs are ``eth0``
and on. Each calls itself ``debian``.

    declared = {"vms": {"one": debian_guests.machine("dhclient")}}

``machine`` builds what is missing: it asks package indexes, so call it outside the namespaces that
tests run in. That takes about a minute; the images are then kept with the tests' caches, for every
process of a run and for the next one.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import harness
import uefi_iso
from _qemulab_guest_modules import load_order
from uefi_iso import MIB

HOME = harness.REPO / ".venv/var/tests/debian-guests"
RELEASE = "bookworm"
KERNEL = "linux-image-cloud-amd64"

NEEDS = ("mmdebstrap", "mke2fs", "depmod", "busybox", *uefi_iso.NEEDS)
"""The programs that this file runs, for a test's ``needs`` marker."""

BOOT_TIMEOUT = 240.0
"""Seconds until a guest must let us in; under TCG two at once take about 60 on two idle cores."""

#: Beside what is essential. Names are looked up with getent, dig is not needed.
PACKAGES = (
    "dbus",
    "ifupdown",
    "iproute2",
    "iputils-ping",
    "isc-dhcp-client",
    "kmod",
    "libnss-resolve",
    "openssh-server",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
)

#: Nobody reads them there.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/lib/udev/hwdb.d/*")

#: The kernel is unpacked and not installed: its package wants an initial RAM disk to be made.
UNPACK_KERNEL = f"""
set -e
cd "$1/tmp"
name=$(apt-cache depends --important {KERNEL} | sed -n 's/^ *Depends: //p' | head -n 1)
apt-get -qq download "$name" >&2
dpkg-deb -x "$name"_*.deb "$1/tmp/kernel"
mv "$1"/tmp/kernel/boot/vmlinuz-* "$1/boot/vmlinuz"
mv "$1"/tmp/kernel/lib/modules "$1/usr/lib/modules"
rm -r "$1"/tmp/*
"""

#: To find the root; what else is there, udev loads.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")
MODULES = (
    *BOOT_MODULES,
    *("virtio_net", "virtio_rng", "virtio_scsi", "sd_mod", "sr_mod", "ata_piix", "isofs"),
    *("qemu_fw_cfg", "button", "evdev", "autofs4", "af_packet", "loop", "vfat"),
    *("nls_cp437", "nls_ascii"),
)
ARGUMENTS = "console=ttyS0 net.ifnames=0 panic=-1 no_timer_check mitigations=off loglevel=4"

INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod "/$module"; done < /modules
until [ -b /dev/vda2 ]; do /bin/busybox usleep 20000; done
/bin/busybox mkdir /root
/bin/busybox mount -t ext4 /dev/vda2 /root
exec /bin/busybox switch_root /root /sbin/init
"""

KEYS_UNIT = """[Unit]
Description=Let in whom the lab lets in
Before=ssh.service
[Service]
Type=oneshot
ExecStart=/sbin/modprobe qemu_fw_cfg
ExecStart=/bin/sh -c 'umask 077; mkdir -p /root/.ssh; \\
    cat /sys/firmware/qemu_fw_cfg/by_name/opt/qemulab/authorized_keys/raw \\
    > /root/.ssh/authorized_keys'
[Install]
WantedBy=multi-user.target
"""

COMMON = {
    "etc/hostname": "debian\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 debian\n",
    "etc/fstab": "/dev/vda2 / ext4 defaults 0 0\n",
    "etc/systemd/system/lab-keys.service": KEYS_UNIT,
}
MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer"),
    *("e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer"),
    *("serial-getty@.service", "getty@.service", "systemd-hwdb-update.service"),
)

#: By variant: files, units that are masked beside the others, units that are enabled.
VARIANTS: dict[str, tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]] = {
    "dhclient": (
        {
            "etc/network/interfaces": "auto lo\niface lo inet loopback\n"
            "auto eth0\niface eth0 inet dhcp\nallow-hotplug eth1\niface eth1 inet dhcp\n",
            "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
            "etc/resolv.conf": "",
        },
        ("systemd-resolved.service", "systemd-networkd.service", "systemd-networkd.socket"),
        ("networking.service",),
    ),
    "networkd": (
        {
            "etc/systemd/network/lan.network": "[Match]\nName=eth*\n[Network]\nDHCP=ipv4\n"
            "[DHCPv4]\nUseDomains=yes\n",
        },
        ("networking.service", "systemd-networkd-wait-online.service"),
        ("systemd-networkd.service", "systemd-resolved.service"),
    ),
}


def machine(variant: str, **more: Any) -> dict[str, Any]:
    """
    Return the declaration of a machine that runs a Debian guest from a disk of its own.

    variant
        ``dhclient`` or ``networkd``.

    more
        Keys of ``lab:vms:NAME`` beside, or in place of, those of such a machine.
    """
    disk = {"backing": os.fspath(images()[variant]), "bus": "virtio", "size": "2G"}
    return {"memory": 384, "cpus": 1, "boot": "disk", "disks": [disk], "stop_grace": 60, **more}


@functools.cache
def images() -> dict[str, Path]:
    """Return the image of each variant, and make what is missing, one process for all."""
    texts = [Path(file).read_bytes() for file in (__file__, uefi_iso.__file__)]
    folder = HOME / hashlib.sha256(b"".join(texts)).hexdigest()[:16]
    HOME.mkdir(parents=True, exist_ok=True)
    with open(HOME / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            for old in [path for path in HOME.iterdir() if path.is_dir()]:
                shutil.rmtree(old)
            unfinished = HOME / "unfinished"
            unfinished.mkdir()
            build(unfinished)
            unfinished.rename(folder)
    return {variant: folder / f"{variant}.qcow2" for variant in VARIANTS}


def build(folder: Path) -> None:
    """Make the image of each variant in a directory."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        tree = Path(work) / "tree"
        flags = ["--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io"]
        flags += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
        flags += [f"--include={','.join(PACKAGES)}", "--aptopt=Acquire::Languages none"]
        hook = Path(work) / "unpack-kernel"
        hook.write_text(f"#!/bin/sh{UNPACK_KERNEL}", encoding="utf-8")
        hook.chmod(0o755)
        flags.append(f'--customize-hook=APT_CONFIG=$MMDEBSTRAP_APT_CONFIG {hook} "$1"')
        uefi_iso.run(["mmdebstrap", *flags, RELEASE, os.fspath(tree)])
        kernel = Path(work) / "kernel.efi"
        boot_loader(kernel, tree)
        for path in ("boot/vmlinuz", "var/lib/apt/lists", "var/cache/apt"):
            uefi_iso.run(["rm", "-r", os.fspath(tree / path)])
        configure(tree, COMMON, MASKED, ("ssh.service", "lab-keys.service"))
        for variant, (files, masked, enabled) in VARIANTS.items():
            own = Path(work) / variant
            subprocess.run(["cp", "-a", "--reflink=auto", tree, own], check=True)
            configure(own, files, masked, enabled)
            disk_image(folder / f"{variant}.qcow2", kernel, own, Path(work))


def boot_loader(kernel: Path, tree: Path) -> None:
    """Make the EFI executable that boots a tree; of its modules, only ours are kept there."""
    (modules,) = (tree / "usr/lib/modules").iterdir()
    depmod = ["depmod", "-b", os.fspath(tree), modules.name]
    uefi_iso.run(depmod)
    table = (modules / "modules.dep").read_text(encoding="utf-8")
    files = {name: (modules / name).read_bytes() for name in load_order(table, BOOT_MODULES)}
    kept = set(load_order(table, MODULES))
    for path in modules.glob("kernel/**/*.ko"):
        if os.fspath(path.relative_to(modules)) not in kept:
            path.unlink()
    uefi_iso.run(depmod)
    flat = {Path(name).name: data for name, data in files.items()}
    listed = "".join(f"{name}\n" for name in flat)
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    ramdisk = uefi_iso.archive(INIT, busybox, {**flat, "modules": listed.encode()})
    uefi_iso.unified_kernel(kernel, tree / "boot/vmlinuz", ramdisk, ARGUMENTS)


def configure(
    tree: Path, files: dict[str, str], masked: tuple[str, ...], enabled: tuple[str, ...]
) -> None:
    """Write a tree's files, and set its units."""
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")
    systemctl = ["systemctl", f"--root={tree}", "--quiet"]
    uefi_iso.run([*systemctl, "mask", *masked])
    uefi_iso.run([*systemctl, "enable", *enabled])


def disk_image(path: Path, kernel: Path, tree: Path, work: Path) -> None:
    """Make a disk of a boot loader's partition and one that holds a tree."""
    esp, root, disk = work / "esp.img", work / "root.img", work / "disk.img"
    uefi_iso.esp_with(esp, kernel)
    root.unlink(missing_ok=True)
    used = subprocess.run(["du", "-sm", tree], capture_output=True, text=True, check=True).stdout
    size = int(used.split()[0]) * 5 // 4 + 128
    uefi_iso.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-d", os.fspath(tree),
                  os.fspath(root), f"{size}M"])  # fmt: skip
    first = 1 + esp.stat().st_size // MIB
    with disk.open("wb") as whole:
        whole.truncate((first + size + 1) * MIB)
    for part, start in ((esp, 1), (root, first)):
        uefi_iso.run(["dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={start}",
                      "conv=notrunc,sparse", "status=none"])  # fmt: skip
    layout = f"label: gpt\nstart=1MiB, size={first - 1}MiB, type=uefi\nstart={first}MiB, "
    uefi_iso.run(["sfdisk", "--quiet", os.fspath(disk)], f"{layout}size={size}MiB, type=linux\n")
    uefi_iso.run(["qemu-img", "convert", "-O", "qcow2", os.fspath(disk), os.fspath(path)])
    disk.unlink()
