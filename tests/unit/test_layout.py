"""Where a lab lies: three trees, moved by one option, with sockets that the kernel can open."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from _qemulab_host_paths import SOCKET_LIMIT
from _qemulab_host_paths import Layout

LAB = Layout("lab")
MOVED = Layout("lab", Path("/tmp/x"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (LAB.guest, "/var/lib/qemulab/guest"),
        (LAB.lab_file, "/var/lib/qemulab/lab/lab.json"),
        (LAB.ssh_key, "/var/lib/qemulab/lab/ssh/id_ed25519"),
        (LAB.authorized_keys, "/var/lib/qemulab/lab/ssh/authorized_keys"),
        (LAB.units, "/var/lib/qemulab/lab/units"),
        (LAB.network_file("vmlan"), "/var/lib/qemulab/lab/networks/vmlan/network.json"),
        (LAB.leases("vmlan"), "/var/lib/qemulab/lab/networks/vmlan/dhcp/leases"),
        (LAB.etc("vmlan"), "/var/lib/qemulab/lab/networks/vmlan/etc"),
        (LAB.host_etc, "/run/qemulab/lab/etc"),
        (LAB.vm_file("master"), "/var/lib/qemulab/lab/vms/master/vm.json"),
        (LAB.snapshots_file("master"), "/var/lib/qemulab/lab/vms/master/snapshots.json"),
        (LAB.launch("master"), "/var/lib/qemulab/lab/vms/master/launch"),
        (LAB.disk("master", "hda"), "/var/lib/qemulab/lab/vms/master/disks/hda.qcow2"),
        (
            LAB.uefi_variables("master"),
            "/var/lib/qemulab/lab/vms/master/disks/uefi-variables.qcow2",
        ),
        (LAB.supervisord_socket, "/run/qemulab/lab/supervisord.sock"),
        (LAB.lock("vm", "master"), "/run/qemulab/lab/locks/vm-master"),
        (LAB.qmp("master"), "/run/qemulab/lab/vms/master/qmp.sock"),
        (LAB.watch("master"), "/run/qemulab/lab/vms/master/watch.sock"),
        (LAB.serial("master"), "/run/qemulab/lab/vms/master/serial.sock"),
        (LAB.vnc("master"), "/run/qemulab/lab/vms/master/vnc.sock"),
        (LAB.media("master"), "/run/qemulab/lab/vms/master/media"),
        (LAB.console("master"), "/var/log/qemulab/lab/consoles/master.log"),
        (LAB.unit_log("vm", "master"), "/var/log/qemulab/lab/vm-master.log"),
        (MOVED.lab_state, "/tmp/x/var/lib/qemulab/lab"),
        (MOVED.lab_runtime, "/tmp/x/run/qemulab/lab"),
        (MOVED.lab_logs, "/tmp/x/var/log/qemulab/lab"),
    ],
)
def test_everything_has_its_place(path: Path, expected: str) -> None:
    """What is kept, what is gone at reboot, and what was said: a tree each."""
    assert str(path) == expected


def test_two_labs_share_nothing_but_the_guest() -> None:
    """Their names are in every other path."""
    other = Layout("lab2")
    assert LAB.guest == other.guest
    for path in (LAB.lab_state, LAB.lab_runtime, LAB.lab_logs):
        assert path.name == "lab"
    assert LAB.disk("a", "hda") != other.disk("a", "hda")


def rooted(length: int) -> Layout:
    """Return a layout under a root so long that a machine's longest socket path has a length."""
    shortest = len(str(Layout("lab", Path("/")).serial("master")))
    return Layout("lab", Path("/" + "x" * (length - shortest - 1)))


def test_a_socket_may_have_107_bytes_and_no_more() -> None:
    """The longest of a machine's; counted in bytes."""
    assert rooted(107).socket_too_long("master") is None
    too_long = rooted(108)
    assert too_long.socket_too_long("master") == too_long.serial("master")
    assert len(str(too_long.serial("master"))) == 108
    assert Layout("lab", Path("/" + "é" * 40)).socket_too_long("master") is not None
    sockets = (LAB.qmp("a"), LAB.watch("a"), LAB.serial("a"), LAB.vnc("a"))
    longest = max(sockets, key=lambda path: len(str(path)))
    assert longest == LAB.serial("a")


def test_names_as_long_as_they_may_be_fit_where_a_lab_usually_lies() -> None:
    """Lab and machine of 32 characters each."""
    assert Layout("l" * 32).socket_too_long("m" * 32) is None


def test_the_limit_is_the_kernels() -> None:
    """Its own answer to one byte more is that the path is too long."""
    with socket.socket(socket.AF_UNIX) as probe:
        for length, problem in ((SOCKET_LIMIT, FileNotFoundError), (SOCKET_LIMIT + 1, OSError)):
            with pytest.raises(problem) as caught:
                probe.connect("/" + "x" * (length - 1))
            assert (str(caught.value) == "AF_UNIX path too long") == (length > SOCKET_LIMIT)
