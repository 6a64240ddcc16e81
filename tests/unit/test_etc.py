"""What QEMU sees as /etc: the host's, entry by entry, but for the resolver configuration."""

from __future__ import annotations

import os
from pathlib import Path

import _qemulab_host_seam as host
import _qemulab_host_symlinks as host_links
import _qemulab_lan_resolver as etc
import _qemulab_pillar_spec as spec
import pytest
from _qemulab_pillar_keys import Nic
from _qemulab_pillar_keys import Vm
from _qemulab_plan_status import Status
from _qemulab_run_protocol import UnitStatus
from _qemulab_run_site import Site

NETWORK = spec.network_from("vmlan", {}, "lab")
ON_VMLAN = Vm(nics=(Nic(network="user"), Nic(network="vmlan"), Nic(network="other")))


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a host's /etc with all kinds of entries."""
    found = tmp_path / "hosts-etc"
    (found / "ssl").mkdir(parents=True)
    for name in ("passwd", ".pwd.lock", "with space"):
        (found / name).write_text(name, encoding="utf-8")
    links = {"localtime": "/usr/share/zoneinfo/UTC", "os-release": "../usr/lib/os-release"}
    links |= {"resolv.conf": "../run/systemd/resolve/stub-resolv.conf", "dangling": "/none"}
    for name, target in links.items():
        os.symlink(target, found / name)
    monkeypatch.setattr(etc, "ETC", found)
    return found


def test_every_entry_leads_to_the_hosts_but_one(hosts: Path, tmp_path: Path) -> None:
    """Made again, it follows what has come and gone; a link that is relative stays what it is."""
    site = Site("lab", str(tmp_path))
    etc.make(site, "vmlan", NETWORK)
    made = site.layout.etc("vmlan")
    elsewhere = str(site.layout.host_etc)
    entries = {path.name: os.readlink(path) for path in made.iterdir() if path.is_symlink()}
    names = ("ssl", "passwd", ".pwd.lock", "with space", "localtime", "dangling")
    assert entries == {
        **{name: f"{elsewhere}/{name}" for name in names},
        "os-release": "../usr/lib/os-release",
    }
    assert not (made / "resolv.conf").is_symlink()
    assert (made / "resolv.conf").read_text(encoding="utf-8").startswith("nameserver 10.0.3.1\n")
    (hosts / "passwd").unlink()
    (hosts / "group").touch()
    (hosts / "os-release").unlink()
    (hosts / "os-release").touch()
    etc.make(site, "vmlan", NETWORK)
    assert not os.path.lexists(made / "passwd")
    assert os.readlink(made / "group") == f"{elsewhere}/group"
    assert os.readlink(made / "os-release") == f"{elsewhere}/os-release"
    assert (made / "resolv.conf").is_file()


def test_a_machine_sees_it_where_it_is_on_a_network() -> None:
    """The first one's; the host's own before it is covered, for a shell mounts one by one."""
    site = Site("lab")
    assert etc.binds(site, ON_VMLAN) == [
        ("/etc", "/run/qemulab/lab/etc"),
        ("/var/lib/qemulab/lab/networks/vmlan/etc", "/etc"),
    ]
    assert etc.binds(site, Vm(nics=(Nic(network="user"),))) == []


def test_links_that_another_apply_is_at_are_made_by_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there first with one, and took another away."""
    make, names = os.symlink, os.listdir

    def too_late(target: str, path: Path) -> None:
        make(target, path)
        make(target, path)

    def gone_since(directory: Path) -> list[str]:
        found = names(directory)
        (directory / "old").unlink(missing_ok=True)
        return found

    make("/none", tmp_path / "old")
    monkeypatch.setattr(os, "symlink", too_late)
    monkeypatch.setattr(os, "listdir", gone_since)
    monkeypatch.setattr(Path, "is_symlink", lambda _path: True)
    host_links.make(tmp_path, {"new": "/etc/new"})
    assert {each: os.readlink(tmp_path / each) for each in names(tmp_path)} == {"new": "/etc/new"}


@pytest.mark.parametrize("absolute", [False, True])
def test_a_machine_of_an_older_version_is_looked_at_behind_the_hosts_link(
    hosts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool
) -> None:
    """That one mounted a file over what ``/etc/resolv.conf`` leads to: that counts."""
    site = Site("lab", str(tmp_path / "root"))
    host.write_all([site.store.network_as_file("vmlan", NETWORK)])
    monkeypatch.setattr(site, "status", lambda *_: UnitStatus(Status.RUNNING, os.getpid()))
    behind = tmp_path / "run/systemd/resolve/stub-resolv.conf"
    behind.parent.mkdir(parents=True)
    behind.write_text("nameserver 10.0.3.1\n", encoding="utf-8")
    if absolute:
        (hosts / "resolv.conf").unlink()
        (hosts / "resolv.conf").symlink_to(behind)
    assert etc.astray(site, "a", ON_VMLAN) == ""
    behind.write_text("nameserver 127.0.0.53\n", encoding="utf-8")
    assert "knows no name of the lab" in etc.astray(site, "a", ON_VMLAN)
    behind.unlink()
    assert "knows no name of the lab" in etc.astray(site, "a", ON_VMLAN)
