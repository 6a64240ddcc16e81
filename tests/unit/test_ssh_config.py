"""
How ssh is told to reach the machines: what it makes of the configuration is asked of ssh itself.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import _qemulab_host_seam as host
import _qemulab_vm_access as access
import pytest
from _qemulab_pillar_keys import Forward
from _qemulab_pillar_keys import Nic
from _qemulab_pillar_keys import Vm
from _qemulab_run_site import Site

pytestmark = pytest.mark.needs("ssh")

NICS = (Nic(network="user", forwards=(Forward(host_port=10022),)),)
GUEST, DISK = Vm(nics=NICS, boot="guest"), Vm(nics=NICS, boot="disk")


@pytest.fixture(params=["plain", "a b", "it's", 'say "x"', "50%d", "back\\\\slash", "#"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    """Give a lab below a directory of any name, with one machine that has a host key."""
    found = Site("lab", str(tmp_path / request.param))
    host.write(found.layout.known_hosts, "master ssh-ed25519 AAAA\n")
    host.write(found.layout.ssh_key, "key")
    return found


def understood(config: str, name: str, tmp_path: Path) -> dict[str, list[str]]:
    """Return what ssh takes from a configuration for a host: each option's values."""
    path = tmp_path / "config"
    path.write_text(config, encoding="utf-8")
    command = ["ssh", "-G", "-F", path, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    return found


def test_ssh_config_reads_as_it_is_meant(site: Site, tmp_path: Path) -> None:
    """Whatever the lab's directory is called; the key is root's, and is named to root alone."""
    text = access.ssh_config(site, {"master": GUEST, "other": DISK})
    found = understood(text, "master", tmp_path)
    assert found["port"] == ["10022"]
    assert found["hostkeyalias"] == ["master"]
    assert found["stricthostkeychecking"] == ["true"]
    assert found["identityfile"][0] == str(site.layout.ssh_key).replace("%", "%%")
    other = understood(text, "other", tmp_path)
    assert other["stricthostkeychecking"] == ["false"]
    assert other["userknownhostsfile"] == ["/dev/null"]
    assert understood(text, "elsewhere", tmp_path)["identityfile"][0] != found["identityfile"][0]
    site.layout.ssh_key.unlink()
    assert str(site.layout.ssh_key) not in understood(text, "master", tmp_path)["identityfile"]


def test_options_are_those_of_what_runs(tmp_path: Path) -> None:
    """A host key is held against the built-in guest alone, and only where the lab has made it."""
    site = Site("lab", str(tmp_path))
    assert access.options(site, "master", GUEST) == access.UNKNOWN
    host.write(site.layout.known_hosts, "master ssh-ed25519 AAAA\nmaster2 ssh-ed25519 AAAA\n")
    assert access.options(site, "master", GUEST)["StrictHostKeyChecking"] == "yes"
    assert access.options(site, "mast", GUEST) == access.UNKNOWN
    assert access.options(site, "master", DISK) == access.UNKNOWN
    # A change of what it boots waits for a restart.
    site.store.keep_vm("master", DISK, GUEST)
    assert access.options(site, "master", DISK)["StrictHostKeyChecking"] == "yes"


def test_known_hosts_are_those_that_have_a_key(tmp_path: Path) -> None:
    """A private key says that its machine has it; one that is purged is known no more."""
    site = Site("lab", str(tmp_path))
    for name in ("master", "worker"):
        host.write(site.layout.host_key(name), "secret")
        host.write(access.public_key(site.layout.host_key(name)), f"ssh-ed25519 {name}= comment\n")
    access.write_known_hosts(site)
    known = site.layout.known_hosts
    assert known.read_text("utf-8") == "master ssh-ed25519 master=\nworker ssh-ed25519 worker=\n"
    host.remove(site.layout.vm("master"))
    access.write_known_hosts(site)
    assert known.read_text("utf-8") == "worker ssh-ed25519 worker=\n"


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ([], []),
        (["id_rsa", "id_rsa.pub"], []),
        (["id_rsa", "id_rsa.pub", "work", "work.pub", "other.pub", "config"], ["work"]),
    ],
)
def test_private_keys_that_ssh_would_not_find(
    files: list[str], named: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once one is named, ssh tries no other: so the usual ones are named with it."""
    for name in files:
        host.write(tmp_path / ".ssh" / name, "")
    monkeypatch.setattr(access, "users_directory", lambda: tmp_path / ".ssh")
    usual = ["~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"] if named else []
    assert access.private_keys() == [*usual, *(f"~/.ssh/{name}" for name in named)]
