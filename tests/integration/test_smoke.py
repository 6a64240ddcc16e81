"""
Whether a lab can run on this machine at all: what ``./test --smoke`` is for.

One network and one machine, which boots the built-in guest through UEFI firmware, under the
supervisor that this machine would use.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import harness
import labs
import pytest
from labs import Lab
from labs import is_guest

pytestmark = [
    pytest.mark.smoke,
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "ssh", "unshare", "nsenter"),
]

ADDRESS = "10.0.3.101"
MAC = "52:54:00:11:11:11"
DECLARED = {
    "networks": {"vmlan": {"reservations": {"master": {"mac": MAC, "address": ADDRESS}}}},
    "vms": {
        "master": {
            "memory": 256,
            "cpus": 1,
            "disks": [{"size": "1G"}],
            "nics": [
                {"network": "vmlan", "mac": MAC},
                {"network": "user", "forwards": [{"host_port": labs.PORTS["master"]}]},
            ],
        }
    },
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give a throw-away host of this machine's kind."""
    systemd = Path("/run/systemd/system").is_dir()
    make = harness.systemd_host if systemd else harness.namespace_host
    with make(tmp_path_factory.mktemp("smoke")) as host:
        yield Lab(host)


def test_apply(lab: Lab) -> None:
    """The dry run and the apply say the same."""
    said = lab.apply(declared=DECLARED, test=True)
    done = lab.apply(declared=DECLARED)
    assert all(state["result"] is True for state in done.values())
    assert lab.changes(done) == lab.changes(said)


def test_guest_answers_ssh(lab: Lab) -> None:
    """With its reserved address, name and disk; over the TAP as well."""
    lab.wait_for_login("master")
    assert lab.ssh("master", "hostname") == "master"
    assert f"inet {ADDRESS}/24" in lab.ssh("master", "ip address show eth0")
    assert "sda" in lab.ssh("master", "cat /proc/partitions")
    lab.ssh("master", "ping -c 1 -W 5 10.0.3.1")


def test_second_apply_changes_nothing(lab: Lab) -> None:
    """The same process is left alone."""
    before = lab.pids()["master"]
    assert lab.changes(lab.apply(declared=DECLARED)) == {}
    assert lab.pids()["master"] == before


def test_purge_leaves_the_guest_alone(lab: Lab) -> None:
    """The guest obeys its button; no file stays but its image, for the host has no network."""
    assert lab.call("vm_stop", "master") == {"how": "acpi"}
    done = lab.apply("lab.purge", declared=DECLARED)
    assert all(state["result"] is True for state in done.values())
    left = lab.leftovers()
    assert set(left) == {"files"}
    assert {path for path in left["files"] if not is_guest(path)} == set()
    again = lab.changes(lab.apply(declared=DECLARED))
    assert "vm_running master" in again and "guest_present lab-guest" not in again
    lab.apply("lab.purge", declared=DECLARED)
