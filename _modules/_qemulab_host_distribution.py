"""
Name the packages that bring what a lab needs, distribution by distribution.

Pure: takes the text of ``/etc/os-release`` and a question "does the host have this?".

Nothing here may start a service when it is installed. That is why Debian's table says
``dnsmasq-base`` (``dnsmasq`` starts a DNS server), and why OpenSSH's server is only unpacked aside
(``ASIDE``); Fedora and openSUSE leave the unit of ``dnsmasq`` disabled. It is also why supervisord
is not in the table: Debian's ``supervisor`` starts it.

Debian's ``qemu-system-x86`` without its recommended packages runs a machine without a screen of
its own: what it leaves out are ``qemu-system-gui`` (windows), ``qemu-block-extra`` (remote disks),
and ``qemu-utils`` and ``ovmf``, which the table names. ``ipxe-qemu`` is a hard dependency of it:
without its ROM, ``-device virtio-net-pci`` refuses to start unless it says ``romfile=`` (measured,
QEMU 7.2: ``failed to find romfile "efi-virtio.rom"``).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import NamedTuple


class Package(NamedTuple):
    """
    A package's name in one distribution, and how the name was checked.

    name
        As the distribution's package manager wants it.

    checked
        ``installed`` (its binary was looked up on a running host), ``files`` (the distribution's
        published file list or package page, or a published list of what a host of it has), ``spec``
        (its published build recipe), or empty: known from use only. ``docs/platforms.md`` names the
        sources, and each name that has none.
    """

    name: str
    checked: str = ""


#: Purposes that are files or kernels, not programs: ``has`` is asked about them by these names.
FIRMWARE = "firmware"
KERNEL = "kernel"

_DEBIAN = {
    "qemu-system-x86_64": Package("qemu-system-x86", "installed"),
    "qemu-img": Package("qemu-utils", "installed"),
    FIRMWARE: Package("ovmf", "installed"),
    "socat": Package("socat", "installed"),
    "dnsmasq": Package("dnsmasq-base", "installed"),
    "dhcp_release": Package("dnsmasq-utils", "installed"),
    "ip": Package("iproute2", "installed"),
    "ss": Package("iproute2", "installed"),
    "ssh": Package("openssh-client", "installed"),
    "ssh-keygen": Package("openssh-client", "installed"),
    "busybox": Package("busybox-static", "installed"),
    "depmod": Package("kmod", "files"),
    "mount": Package("mount", "installed"),
    "nsenter": Package("util-linux", "installed"),
    "setpriv": Package("util-linux", "installed"),
    "unshare": Package("util-linux", "installed"),
}

_UBUNTU = {
    # Debian's names: it is made from Debian's source packages.
    "qemu-system-x86_64": Package("qemu-system-x86"),
    "qemu-img": Package("qemu-utils"),
    FIRMWARE: Package("ovmf", "files"),
    "socat": Package("socat", "files"),
    "dnsmasq": Package("dnsmasq-base"),
    "dhcp_release": Package("dnsmasq-utils", "files"),
    "ip": Package("iproute2", "files"),
    "ss": Package("iproute2", "files"),
    "ssh": Package("openssh-client", "files"),
    "ssh-keygen": Package("openssh-client", "files"),
    "busybox": Package("busybox-static", "files"),
    "depmod": Package("kmod"),
    "mount": Package("mount", "files"),
    "nsenter": Package("util-linux", "files"),
    "setpriv": Package("util-linux", "files"),
    "unshare": Package("util-linux", "files"),
}

_SUSE = {
    "qemu-system-x86_64": Package("qemu-x86", "spec"),
    # Later releases have a qemu-img of its own, which qemu-tools pulls in; Leap 15.5 has not.
    "qemu-img": Package("qemu-tools", "spec"),
    FIRMWARE: Package("qemu-ovmf-x86_64", "spec"),
    "socat": Package("socat", "spec"),
    "dnsmasq": Package("dnsmasq", "spec"),
    "dhcp_release": Package("dnsmasq-utils", "spec"),
    "ip": Package("iproute2", "spec"),
    "ss": Package("iproute2", "spec"),
    "ssh": Package("openssh-clients", "spec"),
    "ssh-keygen": Package("openssh-common", "spec"),
    # Linked with libraries, unlike busybox-static, which has no udhcpc.
    "busybox": Package("busybox", "spec"),
    "depmod": Package("kmod", "spec"),
    "mount": Package("util-linux", "spec"),
    "nsenter": Package("util-linux", "spec"),
    "setpriv": Package("util-linux", "spec"),
    "unshare": Package("util-linux", "spec"),
}

_FEDORA = {
    "qemu-system-x86_64": Package("qemu-system-x86-core", "spec"),
    "qemu-img": Package("qemu-img", "spec"),
    FIRMWARE: Package("edk2-ovmf", "spec"),
    "socat": Package("socat", "spec"),
    "dnsmasq": Package("dnsmasq", "spec"),
    "dhcp_release": Package("dnsmasq-utils", "spec"),
    "ip": Package("iproute", "spec"),
    "ss": Package("iproute", "spec"),
    "ssh": Package("openssh-clients", "spec"),
    "ssh-keygen": Package("openssh", "spec"),
    # Fedora's busybox is the static one.
    "busybox": Package("busybox", "spec"),
    "depmod": Package("kmod", "spec"),
    "mount": Package("util-linux-core", "spec"),
    "nsenter": Package("util-linux-core", "spec"),
    "setpriv": Package("util-linux", "spec"),
    "unshare": Package("util-linux-core", "spec"),
}

#: Every family's packages by purpose: a program's name, or ``firmware``.
TABLE: Mapping[str, Mapping[str, Package]] = {
    "debian": _DEBIAN,
    "ubuntu": _UBUNTU,
    "suse": _SUSE,
    "fedora": _FEDORA,
}

#: What the built-in guest is made of and the host is not to have: to be unpacked aside, never
#: installed. A kernel would be booted by the host, an SSH server would listen.
ASIDE: Mapping[str, Mapping[str, Package]] = {
    "debian": {
        KERNEL: Package("linux-image-cloud-amd64", "installed"),
        "sshd": Package("openssh-server", "installed"),
        "rsync": Package("rsync", "installed"),
    },
    "ubuntu": {
        # Ubuntu has no cloud flavour of Debian's kind; this is its kernel without firmware blobs.
        KERNEL: Package("linux-image-virtual", "files"),
        "sshd": Package("openssh-server"),
        "rsync": Package("rsync", "files"),
        "zstd": Package("zstd"),
    },
    "suse": {
        # The kernel of kernel-default with the modules that virtual machines need.
        KERNEL: Package("kernel-default-base", "spec"),
        "sshd": Package("openssh-server", "spec"),
        "rsync": Package("rsync", "spec"),
        "zstd": Package("zstd", "spec"),
    },
    "fedora": {
        # It requires kernel-modules-core, which has the modules.
        KERNEL: Package("kernel-core", "files"),
        "sshd": Package("openssh-server", "spec"),
        "rsync": Package("rsync"),
    },
}

#: Which family a distribution belongs to by its ``ID``, or by a word of its ``ID_LIKE``.
_FAMILIES = {
    "debian": "debian",
    "ubuntu": "ubuntu",
    "opensuse": "suse",
    "opensuse-leap": "suse",
    "opensuse-tumbleweed": "suse",
    "sles": "suse",
    "suse": "suse",
    "fedora": "fedora",
}

#: They call themselves like Fedora, but ship no qemu-system-x86_64, only a cut-down qemu-kvm.
_REFUSED = frozenset({"rhel", "centos", "rocky", "almalinux", "ol"})


def read_os_release(text: str) -> dict[str, str]:
    """
    Return the variables of ``/etc/os-release``.

    text
        The file. Lines that are no assignment are passed over.

    Source: os-release(5): shell-like assignments, values quoted where they need it.
    """
    values = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if not equals or key.startswith("#"):
            continue
        try:
            words = shlex.split(value)
        except ValueError:
            continue
        values[key] = words[0] if words else ""
    return values


def family(os_release: str) -> str:
    """
    Return the family of a distribution: ``debian``, ``ubuntu``, ``suse`` or ``fedora``.

    os_release
        The text of ``/etc/os-release``.

    A derivative is taken by the first family in its ``ID_LIKE``. Raises ValueError, in words,
    for any other distribution.
    """
    values = read_os_release(os_release)
    own = values.get("ID", "linux")
    name = values.get("PRETTY_NAME", own)
    if own in _REFUSED:
        raise ValueError(f"{name} has no package with qemu-system-x86_64: install QEMU by hand")
    for word in (own, *values.get("ID_LIKE", "").split()):
        if word in _FAMILIES:
            return _FAMILIES[word]
    known = ", ".join(sorted(TABLE))
    raise ValueError(
        f"the packages of {name} are not known (known: {known}): install QEMU, OVMF, socat and"
        " dnsmasq by hand"
    )


def package_of(binary: str, family: str) -> str:
    """
    Return the package that brings a program (or ``firmware``) in a family.

    binary
        The program's name, or another purpose of ``TABLE``.

    family
        As ``family()`` returned it.

    Raises ValueError where the table has no such family or no such purpose.
    """
    if family not in TABLE:
        raise ValueError(f"{family} is no family of distributions: {', '.join(sorted(TABLE))}")
    if binary not in TABLE[family]:
        raise ValueError(f"no package is known that brings {binary}")
    return TABLE[family][binary].name


def missing(needed: Iterable[str], has: Callable[[str], bool], family: str) -> list[str]:
    """
    Return the packages to install, sorted, each once.

    needed
        Purposes: names of programs, ``firmware``.

    has
        Says whether the host has one already; asked once for each purpose.

    family
        As ``family()`` returned it.

    Raises ValueError as ``package_of`` does, but only for what is missing: a host of an unknown
    distribution that has everything needs no package.
    """
    return sorted({package_of(each, family) for each in needed if not has(each)})
