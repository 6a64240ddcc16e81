"""The packages of each distribution."""

from __future__ import annotations

import re
from pathlib import Path

import _qemulab_host_distribution as distribution
import pytest

DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n'
UBUNTU = 'PRETTY_NAME="Ubuntu 24.04.2 LTS"\nID=ubuntu\nID_LIKE=debian\n'
MINT = 'NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\n'
LEAP = 'NAME="openSUSE Leap"\nID="opensuse-leap"\nID_LIKE="suse opensuse"\n'
TUMBLEWEED = 'ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n'
FEDORA = 'NAME="Fedora Linux"\nID=fedora\n# a comment = x\nDAMAGED=\'\n'
ROCKY = 'PRETTY_NAME="Rocky Linux 9.4"\nID="rocky"\nID_LIKE="rhel centos fedora"\n'


@pytest.mark.parametrize(
    ("os_release", "expected"),
    [
        (DEBIAN, "debian"),
        (UBUNTU, "ubuntu"),
        (MINT, "ubuntu"),
        (LEAP, "suse"),
        (TUMBLEWEED, "suse"),
        (FEDORA, "fedora"),
    ],
)
def test_families(os_release: str, expected: str) -> None:
    assert distribution.family(os_release) == expected


def test_a_distribution_without_a_table_is_named() -> None:
    with pytest.raises(ValueError) as raised:
        distribution.family('PRETTY_NAME="Alpine Linux v3.20"\nID=alpine\n')
    assert str(raised.value) == (
        "the packages of Alpine Linux v3.20 are not known (known: debian, fedora, suse, ubuntu):"
        " install QEMU, OVMF, socat and dnsmasq by hand"
    )


def test_a_distribution_without_the_program_is_named() -> None:
    with pytest.raises(ValueError) as raised:
        distribution.family(ROCKY)
    assert str(raised.value) == (
        "Rocky Linux 9.4 has no package with qemu-system-x86_64: install QEMU by hand"
    )


def test_debians_packages() -> None:
    table = distribution.TABLE[distribution.family(DEBIAN)]
    assert {purpose: each.name for purpose, each in table.items()} == {
        "qemu-system-x86_64": "qemu-system-x86",
        "qemu-img": "qemu-utils",
        "firmware": "ovmf",
        "socat": "socat",
        "dnsmasq": "dnsmasq-base",
        "dhcp_release": "dnsmasq-utils",
        "ip": "iproute2",
        "ss": "iproute2",
        "ssh": "openssh-client",
        "ssh-keygen": "openssh-client",
        "busybox": "busybox-static",
        "depmod": "kmod",
        "mount": "mount",
        "nsenter": "util-linux",
        "setpriv": "util-linux",
        "unshare": "util-linux",
    }


def test_every_family_has_every_purpose() -> None:
    for name, table in distribution.TABLE.items():
        assert set(table) == set(distribution.TABLE["debian"])
        aside = distribution.ASIDE[name]
        assert set(aside) >= {"kernel", "sshd", "rsync"}
        assert not set(table) & set(aside)


def test_a_name_has_a_source_or_is_listed_as_known_from_use_only(repo: Path) -> None:
    """The page for readers says which names were held against nothing: all of them, no other."""
    text = (repo / "docs/platforms.md").read_text(encoding="utf-8")
    _, _, table = text.partition("| table | names known from use only |\n|---|---|\n")
    listed = {}
    for line in table.partition("\n\n")[0].splitlines():
        title, names = line.strip("| ").split(" | ")
        listed[title] = set(re.findall("`([^`]+)`", names))
    titles = {"debian": "Debian", "ubuntu": "Ubuntu", "suse": "openSUSE", "fedora": "Fedora"}
    for family, title in titles.items():
        packages = [
            *distribution.TABLE[family].values(),
            *distribution.ASIDE[family].values(),
        ]
        assert {each.checked for each in packages} <= {"", "installed", "files", "spec"}
        assert {each.name for each in packages if not each.checked} == listed.pop(title)
    assert listed == {"`tests/packages.txt`, for zypper and dnf": set()}
    assert titles.keys() == distribution.TABLE.keys() == distribution.ASIDE.keys()


def test_no_debian_package_starts_a_service() -> None:
    starters = {"dnsmasq", "supervisor", "openssh-server"}
    for name in ("debian", "ubuntu"):
        assert not starters & {each.name for each in distribution.TABLE[name].values()}


def test_package_of() -> None:
    assert distribution.package_of("dnsmasq", "debian") == "dnsmasq-base"
    assert distribution.package_of("firmware", "suse") == "qemu-ovmf-x86_64"
    assert distribution.package_of("qemu-system-x86_64", "fedora") == "qemu-system-x86-core"
    with pytest.raises(ValueError, match="no package is known that brings vim"):
        distribution.package_of("vim", "debian")
    with pytest.raises(ValueError, match="arch is no family of distributions"):
        distribution.package_of("socat", "arch")


def test_what_is_only_unpacked_aside_is_never_installed() -> None:
    """A kernel would be booted by the host, and an SSH server would listen."""
    for name, table in distribution.TABLE.items():
        aside = {each.name for each in distribution.ASIDE[name].values()}
        assert not aside & {each.name for each in table.values()}
        for what in ("kernel", "sshd"):
            with pytest.raises(ValueError, match=f"no package is known that brings {what}"):
                distribution.package_of(what, name)


@pytest.mark.parametrize(
    ("family", "program", "package"),
    [
        # From the distributions' build recipes and file lists: see docs/platforms.md.
        ("suse", "qemu-img", "qemu-tools"),
        ("suse", "dhcp_release", "dnsmasq-utils"),
        ("suse", "ssh-keygen", "openssh-common"),
        ("suse", "setpriv", "util-linux"),
        ("fedora", "setpriv", "util-linux"),
        ("fedora", "unshare", "util-linux-core"),
        ("fedora", "nsenter", "util-linux-core"),
        ("fedora", "ss", "iproute"),
        ("suse", "busybox", "busybox"),
        ("ubuntu", "dnsmasq", "dnsmasq-base"),
        ("ubuntu", "busybox", "busybox-static"),
    ],
)
def test_packages_of_others(family: str, program: str, package: str) -> None:
    assert distribution.package_of(program, family) == package


def test_missing_is_sorted_and_without_repetition() -> None:
    needed = ("ssh", "ssh-keygen", "socat", "dnsmasq", "ip", "ss")
    present = {"socat"}
    found = distribution.missing(needed, present.__contains__, "debian")
    assert found == ["dnsmasq-base", "iproute2", "openssh-client"]
    assert distribution.missing(needed, lambda _: True, "no such family") == []
