"""
A lab that an earlier release has made goes on: nobody sees a change, and nothing is lost.

Its processes were started by what that release has left on the host, with its command lines. The
tests run in order on one lab: each stands on what the one before has shown.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import labs
import pytest
import releases
from labs import Lab

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "ssh", "unshare", "nsenter", "xz"),
]

VMS = "/var/lib/qemulab/lab/vms"
LIVING = r"disks/.*\.qcow2|.*\.log|.*/dhcp/leases"
"""Files that the lab's own processes write to."""


class Taken(Lab):
    """A lab that was taken over."""

    fixture: Path

    @property
    def declared(self) -> dict[str, Any]:
        """Return the pillar that it was made of."""
        declared: dict[str, Any] = releases.about(self.fixture)["declared"]
        return declared

    def unchanged(self) -> None:
        """Hold that neither the dry run nor the apply has, or leaves for later, anything to do."""
        for test in (True, False):
            states = self.apply(declared=self.declared, test=test)
            assert self.changes(states) == {}
            for name, state in states.items():
                assert state["result"] is True, (name, state)
                assert not state.get("pending") and not state.get("warnings"), (name, state)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((supervisor, fixture), id=f"{supervisor}-{fixture.name}")
        for supervisor in harness.HOSTS
        for fixture in releases.kept()
    ],
)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give a lab of an earlier release, whose processes run."""
    supervisor, fixture = request.param
    with harness.HOSTS[supervisor](tmp_path_factory.mktemp("takeover")) as host:
        lab = Taken(host)
        lab.fixture = fixture
        releases.take(lab, fixture)
        yield lab


def files(lab: Lab) -> dict[str, str]:
    """Return all that the lab has on the disk, with owners, modes and hashes."""
    places = [place for place in releases.KEPT if place != "/srv/lab"]
    find = f"find {' '.join(places)} -regextype posix-extended ! -regex '.*/({LIVING})'"
    shown = lab.host.run(["sh", "-c", f"{find} -printf '%p %u:%g %m %l\\n'"]).stdout
    sums = lab.host.run(["sh", "-c", f"{find} -type f -exec sha256sum {{}} +"]).stdout
    found = dict(line.partition(" ")[::2] for line in shown.splitlines())
    for line in sums.splitlines():
        digest, path = line.split(None, 1)
        found[path] += f" {digest}"
    return {path: what for path, what in found.items() if "qemulab" in path}


def hardware(lab: Lab, name: str) -> list[str]:
    """Return what a machine's guest finds, as its launch script has it for QEMU."""
    words = shlex.split(lab.host.run(["tail", "-n", "1", f"{VMS}/{name}/launch"]).stdout)
    options = ("-machine", "-cpu", "-smp", "-m", "-device", "-vga")
    return [word for i, word in enumerate(words) if words[i - 1] in options]


def test_there_is_a_lab_to_take_over() -> None:
    """Of each release, made by a commit that is named."""
    assert releases.kept()
    for fixture in releases.kept():
        assert releases.about(fixture)["commit"] in (fixture / "README.md").read_text("utf-8")


def test_nothing_changes(lab: Taken) -> None:
    """No change is said or done, none waits; no file is another one, no process was replaced."""
    pids, before = lab.pids(), files(lab)
    assert set(lab.declared["vms"]) | {"hub vmlan", "dnsmasq vmlan"} == set(pids)
    lab.unchanged()
    assert lab.pids() == pids
    assert files(lab) == before
    assert lab.call("vm_list") == dict.fromkeys(lab.declared["vms"], "running")


def test_who_had_a_way_in_has_it_still(lab: Taken) -> None:
    """By the forward, with the lab's key, and the host key is the one that was handed in then."""
    command = lab.call("ssh_config", declared=lab.declared)
    config = lab.host.shared / "lab.ssh"
    config.write_text(command, encoding="utf-8")
    login = ["ssh", "-F", config, "-o", "ConnectTimeout=5", "master", "hostname"]
    said = harness.wait_for(
        lambda: lab.host.run(login, check=False).stdout, labs.LOGIN_TIMEOUT, "SSH on master"
    )
    assert said == "master\n"


def test_snapshots_are_there_and_go_back(lab: Taken) -> None:
    """Those of a machine that was off, and that of one that ran, with its memory."""
    for name, expected in releases.about(lab.fixture)["snapshots"].items():
        found = lab.call("vm_snapshot_list", name)
        assert {tag: shot["memory"] for tag, shot in found.items()} == expected
        assert all(shot["complete"] for shot in found.values())
    # A machine type means other hardware to another QEMU, and memory belongs to its hardware.
    if releases.qemu_version(lab.host) == releases.about(lab.fixture)["qemu"]:
        was = lab.pids()["worker2"]
        assert lab.call("vm_snapshot_load", "worker2", "warm") == {"status": "running"}
        assert lab.pids()["worker2"] == was
        lab.call("vm_stop", "worker2")
        assert lab.call("vm_snapshot_load", "worker2", "warm") == {"status": "running"}
    for name in ("master", "worker2"):
        lab.call("vm_stop", name, "grace=0")
        assert lab.call("vm_snapshot_load", name, "cold") == {"status": "stopped"}
        lab.call("vm_start", name)
    lab.unchanged()


def test_a_restart_is_no_change_either(lab: Taken) -> None:
    """Of the machine that this release has not started yet: it has the hardware that it had."""
    was, had = lab.pids(), hardware(lab, "worker1")
    lab.call("vm_restart", "worker1")
    assert hardware(lab, "worker1") == had
    assert lab.call("vm_info", "worker1")["hardware"] == 1
    lab.unchanged()
    assert {name for name, pid in lab.pids().items() if pid != was[name]} == {"worker1"}


def test_it_is_taken_away_and_comes_back_whole(lab: Taken) -> None:
    """By clean and an apply; what was on its disks is there, its snapshots too."""
    disk = f"{VMS}/worker2/disks/hda.qcow2"
    said = lab.apply("lab.clean", declared=lab.declared, test=True)
    assert lab.changes(lab.apply("lab.clean", declared=lab.declared)) == lab.changes(said)
    assert "processes" not in lab.leftovers()
    before = lab.host.run(["sha256sum", disk]).stdout
    said = lab.apply(declared=lab.declared, test=True)
    assert lab.changes(lab.apply(declared=lab.declared)) == lab.changes(said)
    lab.unchanged()
    lab.call("vm_stop", "worker2")
    assert lab.host.run(["sha256sum", disk]).stdout == before


def test_a_purge_leaves_nothing_of_it(lab: Taken) -> None:
    """Neither what this release writes nor what that one has written."""
    lab.apply("lab.purge", declared=lab.declared)
    left = lab.leftovers()
    found = {path for path in left.pop("files", set()) if not labs.is_guest(path)}
    assert {path for path in found if not path.startswith("/srv/lab")} == set()
    assert left == {}
