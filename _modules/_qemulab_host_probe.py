"""
What the host offers: programs, firmware, accelerator, free ports, readable files, firewall.

Asks through the seam and lets the pure modules decide.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

import _qemulab_host_accel
import _qemulab_host_conflicts
import _qemulab_host_distribution as distribution
import _qemulab_host_firewall
import _qemulab_host_firmware
import _qemulab_host_net as host_net
import _qemulab_host_process as process
import _qemulab_host_qcow2 as qcow2
import _qemulab_host_seam as host
from _qemulab_host_accel import Accel
from _qemulab_host_firewall import Blocked
from _qemulab_host_firmware import Firmware
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Lab
from _qemulab_pillar_keys import Network

OLDEST_QEMU = (7, 2)
"""What a lab is tested with; no option of it was looked for in an older one."""

CAP_NET_ADMIN = 12
"""Bit of the capability that makes interfaces. Source: capability.h"""

FIRST_STEPS_TIMEOUT = 3.0
"""Seconds after which a guest that is two dozen instructions long hangs."""

INSTALLERS = {
    "debian": "apt-get install",
    "ubuntu": "apt-get install",
    "suse": "zypper install",
    "fedora": "dnf install",
}


def os_release() -> str:
    """Return what the distribution says of itself."""
    return host.read(os.path.realpath("/etc/os-release")) or ""


def distribution_name() -> str | None:
    """Return what the distribution calls itself, ``None`` where it does not say."""
    return distribution.read_os_release(os_release()).get("PRETTY_NAME")


def family() -> str:
    """Return the family of this distribution. Raises HostError where it is none that is known."""
    try:
        return distribution.family(os_release())
    except ValueError as err:
        raise HostError(str(err)) from err


def install_hint(what: str) -> str:
    """
    Return the command that installs a program (or ``firmware``).

    Where the distribution has no package with it, what to do instead; empty where nothing is known.
    """
    try:
        name = distribution.family(os_release())
    except ValueError:
        return ""
    try:
        return f"{INSTALLERS[name]} {distribution.package_of(what, name)}"
    except ValueError as err:
        return str(err)


def aside_packages() -> dict[str, str]:
    """
    Return the packages of the built-in guest that are never installed, by what they bring.

    A distribution that is not known has none.
    """
    try:
        table = distribution.ASIDE[distribution.family(os_release())]
    except ValueError:
        return {}
    return {what: package.name for what, package in table.items()}


def binary(name: str) -> str:
    """Return the path of a program. Raises HostError with the package where it is missing."""
    found = host.find_binary(name)
    if found is None:
        raise HostError(f"{name} is not installed", hint=install_hint(name))
    return found


def needed(lab: Lab) -> list[str]:
    """Return what a lab needs of the distribution: names of programs, and ``firmware``."""
    wanted = []
    if lab.networks or lab.vms:
        wanted += ["ip", "setpriv", "unshare", "mount", "ssh-keygen"]
    if lab.networks:
        wanted += ["socat", "dnsmasq", "dhcp_release"]
    if lab.vms:
        wanted += ["qemu-system-x86_64", "qemu-img", "socat", "ssh"]
    if any(vm.firmware == "uefi" for vm in lab.vms.values()):
        wanted.append(distribution.FIRMWARE)
    if any(vm.boot == "guest" for vm in lab.vms.values()):
        wanted += ["busybox", "depmod"]
    return wanted


def missing_packages(wanted: Iterable[str]) -> list[str]:
    """
    Return the packages that bring what is wanted and not there.

    Looking costs no more than a search of PATH. Raises HostError where something is missing and
    the distribution is not known.
    """

    def has(what: str) -> bool:
        if what == distribution.FIRMWARE:
            return find_firmware("pc") is not None
        return host.find_binary(what) is not None

    wanted = list(wanted)
    if all(has(what) for what in wanted):
        return []
    try:
        return distribution.missing(wanted, has, family())
    except ValueError as err:
        raise HostError(str(err)) from err


def find_firmware(machine: str) -> Firmware | None:
    """Return the UEFI firmware for a machine type, ``None`` where the host has none."""
    descriptors = {}
    for directory in _qemulab_host_firmware.DIRECTORIES:
        for name in host.list_directory(Path(directory)):
            path = os.path.join(directory, name)
            descriptors[path] = host.read(os.path.realpath(path)) or ""
    return _qemulab_host_firmware.find(descriptors, machine, os.path.exists)


def firmware(machine: str) -> Firmware:
    """Return the UEFI firmware for a machine type. Raises HostError where the host has none."""
    found = find_firmware(machine)
    if found is None:
        hint = install_hint(distribution.FIRMWARE)
        raise HostError(f"no UEFI firmware for machine type {machine} is installed", hint=hint)
    return found


def accel(wanted: str) -> Accel:
    """Return the accelerator to use, and why. Raises HostError where a demanded one is no use."""
    modules = {name for name in host.list_directory(Path("/sys/module")) if name.startswith("kvm")}
    try:
        return _qemulab_host_accel.choose(
            wanted,
            cpuinfo=host.read("/proc/cpuinfo") or "",
            kvm_module_names=frozenset(modules),
            kvm_exists=os.path.exists("/dev/kvm"),
            kvm_accessible=accessible("/dev/kvm", 0o6),
        )
    except ValueError as err:
        raise HostError(str(err)) from err


def guest_problem(accel: str) -> str:
    """
    Return in words why no guest runs on an accelerator, empty where one does: it is tried.

    accel
        ``kvm`` or ``tcg``. Takes 0.2 s, and ``FIRST_STEPS_TIMEOUT`` where guests hang.
    """
    with tempfile.NamedTemporaryFile(prefix="qemulab-", suffix=".rom") as rom:
        rom.write(_qemulab_host_accel.first_steps())
        rom.flush()
        argv = [binary("qemu-system-x86_64"), "-nodefaults", "-no-user-config", "-display", "none"]
        argv += ["-accel", accel, "-machine", "pc", "-m", "16", "-bios", rom.name]
        argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
        argv += ["-cpu", "host"] if accel == "kvm" else []  # as the machines have it
        try:
            done = host.run(argv, check=False, timeout=FIRST_STEPS_TIMEOUT)
        except HostError:
            return "guests hang"
    if done.status == _qemulab_host_accel.FIRST_STEPS_DONE:
        return ""
    said = [line for line in done.stderr.strip().splitlines() if "warning:" not in line]
    return (said or ["no guest runs"])[0]


def accessible(path: str, wanted: int) -> bool:
    """
    Return whether a file's own mode lets the user ``qemulab`` at it.

    wanted
        Permission bits of one class: 4 to read, 6 to read and write.
    """
    try:
        found = os.stat(path)
    except OSError:
        return False
    uid, groups = host.user_groups(host.USER) if host.has_user() else (-1, host.future_groups())
    if found.st_uid == uid:
        shift = 6
    elif found.st_gid in groups:
        shift = 3
    else:
        shift = 0
    return (found.st_mode >> shift) & wanted == wanted


def unreadable(path: str) -> str:
    """Return in words why a machine could not read a file of the host; empty where it could."""
    try:
        found = os.stat(path)
    except OSError as err:
        return f"cannot be used: {err.strerror}"
    if not stat.S_ISREG(found.st_mode):
        return "is not a file"
    if not accessible(path, 0o4):
        return f"is not readable by the user {host.USER}: chmod o+r"
    return ""


def unusable(item: str, path: str) -> str:
    """
    Return in words why a machine could not use a file of the host; empty where it could.

    item
        What the file is to it: ``cdrom``, or the name of a disk that begins as its copy.
    """
    problem = unreadable(path)
    if problem or item != "cdrom":
        return problem or qcow2.no_backing(path)
    return "" if is_disc(path) else "is no image of a CD or DVD (ISO 9660 or UDF)"


def is_disc(path: str) -> bool:
    """
    Return whether a file has the file system of a CD or DVD.

    Its sixteenth sector (2048 bytes each) says so. Source: ECMA-119, 8.1; ECMA-167, 2/9.1
    """
    try:
        with open(path, "rb") as image:
            image.seek(16 * 2048 + 1)
            return image.read(5) in (b"CD001", b"BEA01")
    except OSError:
        return False


def no_tap() -> tuple[str, str, str] | None:
    """
    Return why no TAP can be made on this host, ``None`` where it can.

    In words: what stands in the way, how it is, what to do about it. Who is not root may not make
    one in any case, and is not told of that.
    """
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as err:
        if host.is_root() or isinstance(err, FileNotFoundError):
            do = "modprobe tun; in a container, hand the device over"
            return "/dev/net/tun", err.strerror or str(err), do
    if host.is_root() and not process.has_capability(CAP_NET_ADMIN):
        do = "in a container, hand it over (--cap-add=NET_ADMIN)"
        return "CAP_NET_ADMIN", "root lacks it here, and can make no interface", do
    return None


def taken_server_port(name: str, network: Network) -> tuple[str, str] | None:
    """
    Return in words which port a network's DHCP and DNS server could not have, and what to do.

    One of them, as whoever has one mostly has all; ``None`` where it could have them. It shares a
    port with servers that keep to their own interfaces, as libvirt's does.
    """
    address = str(ipaddress.IPv4Interface(network.address).ip)
    for where, port, protocol in ((address, 53, "tcp"), (address, 53, "udp"), ("", 67, "udp")):
        if host_net.port_is_free(where, port, protocol, shared=True):
            continue
        owner = port_owner(port, protocol)
        what = "DHCP" if port == 67 else "DNS"
        problem = f"lab:networks:{name}: port {port}/{protocol}, for {what}, is taken by {owner}"
        do = "have that keep to its own interfaces (dnsmasq: bind-interfaces), or stop it"
        return problem, do
    return None


def port_owner(port: int, protocol: str) -> str:
    """Return who listens on a port of this host."""
    flag = "-t" if protocol == "tcp" else "-u"
    listed = host.run(["ss", "-H", "-lnp", flag], check=False).stdout
    return _qemulab_host_conflicts.port_owner(listed, port) or "somebody"


def blocked(network: Network) -> list[Blocked]:
    """Return what the host's firewall would drop of a network's DHCP and DNS."""
    if host.find_binary("nft") is None:
        return []
    listed = host.run(["nft", "-j", "list", "ruleset"], check=False)
    if listed.status != 0 or not listed.stdout.strip():
        return []
    address = ipaddress.IPv4Interface(network.address)
    return _qemulab_host_firewall.blocks(json.loads(listed.stdout), network.interface, address)


def old_qemu() -> str:
    """Return in words, with the package, that QEMU is older than it has to be; empty where not."""
    found = said_version("qemu-system-x86_64", "--version") or ""
    version = tuple(int(part) for part in re.findall("[0-9]+", found)[:2])
    if not version or version >= OLDEST_QEMU:
        return ""
    oldest = ".".join(str(part) for part in OLDEST_QEMU)
    return f"QEMU {found} is too old, {oldest} or newer is needed: " + (
        install_hint("qemu-system-x86_64") or "install that"
    )


def said_version(program: str, option: str) -> str | None:
    """Return the version that a program says it has, ``None`` where it is not installed."""
    if host.find_binary(program) is None:
        return None
    said = host.run([program, option], check=False).stdout
    words = said.replace(",", " ").split()
    return next((w for w in words if w[:1].isdigit() and "." in w), None)
