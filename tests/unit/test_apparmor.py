"""AppArmor's profile of dnsmasq: whether it is enforced, and what lets a lab's at its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _qemulab_check_doctor as doctor
import _qemulab_host_apparmor as apparmor
import _qemulab_lan_dnsmasq_files as dnsmasq
import _qemulab_pillar_spec as spec
import pytest
from _qemulab_host_paths import Layout
from _qemulab_run_protocol import STOPPED
from _qemulab_run_protocol import UnitStatus

# /sys/kernel/security/apparmor/profiles, with the names of Debian's and of older profiles.
LOADED = """\
dnsmasq ({mode})
dnsmasq//libvirt_leaseshelper (enforce)
/usr/bin/man (enforce)
man_groff (enforce)
libvirtd (enforce)
snap.not-dnsmasq-tools (enforce)
"""


@pytest.mark.parametrize(
    ("loaded", "enforced"),
    [
        (LOADED.format(mode="enforce"), True),
        (LOADED.format(mode="kill"), True),
        (LOADED.format(mode="complain"), False),
        (LOADED.format(mode="unconfined"), False),
        ("/usr/sbin/dnsmasq (enforce)\n", True),
        ("/usr/{bin,sbin}/dnsmasq (enforce)\n", True),
        ("/usr/sbin/dnsmasq (complain)\n", False),
        ("", False),
    ],
)
def test_a_profile_counts_where_it_is_enforced(loaded: str, enforced: bool) -> None:
    """By its name or its program's path; one within it is another's."""
    assert apparmor.is_enforced(loaded) is enforced


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a host's /etc/apparmor.d, and a kernel that enforces the profile."""
    for name in ("LOADED", "PROFILE", "LOCAL"):
        monkeypatch.setattr(apparmor, name, tmp_path / name.lower())
    monkeypatch.setattr(apparmor, "FOLDER", tmp_path)
    (tmp_path / "loaded").write_text(LOADED.format(mode="enforce"), encoding="utf-8")
    (tmp_path / "profile").write_text("profile dnsmasq {}\n", encoding="utf-8")
    return tmp_path


def test_what_is_enforced_is_told_with_the_lines_to_add(folder: Path) -> None:
    """Until they are there; not a word where there is no AppArmor."""
    layout = Layout("lab")
    says, do = apparmor.problem(layout) or ("", "")
    assert says == "the profile of dnsmasq is enforced, and keeps it from /var/lib/qemulab"
    assert do == (
        "printf '%s\\n' "
        "'\"/var/lib/qemulab/*/networks/*/{dnsmasq.conf,hosts,reservations}\" r,' "
        "'\"/var/lib/qemulab/*/networks/*/dhcp/leases\" rw,' "
        f">> {folder}/local && apparmor_parser -r {folder}/profile"
    )
    (folder / "abstractions").mkdir()
    (folder / "abstractions/qemulab-dnsmasq").touch()
    says, do = apparmor.problem(layout) or ("", "")
    assert do.startswith("printf '%s\\n' 'include <abstractions/qemulab-dnsmasq>' >> ")
    (folder / "local").write_text("\n".join(apparmor.lines(layout)), encoding="utf-8")
    assert apparmor.problem(layout) is None
    (folder / "local").unlink()
    (folder / "loaded").unlink()
    assert apparmor.problem(layout) is None


OTHERS = (
    *("multicast", "memory", "disk_space", "network_managers"),
    *("accelerator", "uefi_variables", "in_the_way"),
)


class Off:
    """A lab of which nothing runs."""

    layout = Layout("lab")

    def status(self, _kind: str, _name: str) -> UnitStatus:
        """Return that nothing does."""
        return STOPPED


def test_the_doctor_and_the_apply_tell_of_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the kernel's file to what a person reads; for a lab with a network alone."""
    for name in OTHERS:
        monkeypatch.setattr(doctor, name, lambda *_: [])
    site: Any = Off()
    says, do = apparmor.problem(site.layout) or ("", "")
    with_network = spec.from_pillar({"networks": {"n": {}}}).lab
    (told,) = doctor.before_start(with_network, site)[1]
    assert str(told) == f"fail  AppArmor: {says}; {do}"
    assert doctor.examine(with_network, site, [doctor.confinement]) == [told]
    assert doctor.confinement in doctor.CHECKS
    without = spec.from_pillar({"networks": {}, "vms": {"a": {"nics": []}}}).lab
    assert doctor.before_start(without, site) == ([], [])
    (folder / "loaded").write_text(LOADED.format(mode="complain"), encoding="utf-8")
    assert doctor.before_start(with_network, site) == ([], [])
    (folder / "loaded").write_text(LOADED.format(mode="enforce"), encoding="utf-8")
    (folder / "local").write_text(f"include <{apparmor.ABSTRACTION}>\n", encoding="utf-8")
    assert doctor.before_start(with_network, site) == ([], [])


def test_the_lines_that_packages_bring_name_all_that_dnsmasq_opens(repo: Path) -> None:
    """The very lines that are printed, and every file of ours in its configuration."""
    shipped = (repo / "conf/apparmor/qemulab-dnsmasq").read_text(encoding="utf-8")
    rules = [line for line in shipped.splitlines() if line and not line.startswith("#")]
    layout = Layout("lab")
    assert rules == apparmor.lines(layout)
    files = dnsmasq.Files(layout.network("vmlan"))
    assert files.directory.match("/var/lib/qemulab/*/networks/*")
    names = {path.name for path in (files.configuration, files.hosts, files.reservations)}
    assert rules[0].partition("{")[2].partition("}")[0].split(",") == sorted(names)
    assert files.leases.relative_to(files.directory) == Path("dhcp/leases")
