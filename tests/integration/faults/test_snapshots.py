"""
Snapshots of a machine that runs and of one that is off, and what becomes of those that fail.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import harness
import pytest
import writer
from faultlab import kill
from figures import Figures
from labs import Lab
from labs import tiny
from writer import Console

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "qemu-img", "unshare", "nsenter"),
]

VMS = "/var/lib/qemulab/lab/vms"
VARIABLES = f"{VMS}/u/disks/uefi-variables.qcow2"
SECOND = f"{VMS}/w/disks/hdb.qcow2"
DECLARED: dict[str, Any] = {
    "networks": {},
    "vms": {
        # It has a guest that knows what is in its memory, and rests where there is nothing to do.
        "w": {**writer.DECLARED, "disks": [*writer.DECLARED["disks"], {"size": "1M"}]},
    },
}
UEFI = tiny(firmware="uefi", disks=[{"size": "1M"}], nics=[], on_change="restart")


@pytest.fixture(scope="module", params=harness.HOSTS)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give one lab with the machine running."""
    with harness.HOSTS[request.param](tmp_path_factory.mktemp("snapshots")) as host:
        lab = Lab(host)
        lab.apply(declared=DECLARED)
        yield lab


@pytest.fixture(autouse=True)
def ends_whole(lab: Lab, figures: Figures) -> Iterator[None]:
    """Hold every test to what all promise: the machine runs, once, and every image is whole."""
    yield
    with figures.healing(lab.host.supervisor):
        assert lab.changes(lab.apply(declared=DECLARED)) == {}
    assert pid(lab, "w") and not pid(lab, "u")
    # QEMU keeps some of what is in an image to itself until it is told to stop, or its guest syncs.
    words = '{"execute":"qmp_capabilities"}{"execute":"stop"}{"execute":"cont"}'
    socket = "UNIX-CONNECT:/run/qemulab/lab/vms/w/qmp.sock"
    lab.host.run(["socat", "-t1", "-", socket], stdin=words)
    for image in (writer.IMAGE, SECOND):
        lab.host.run(["qemu-img", "check", "-q", "-U", image])


@pytest.fixture
def uefi(lab: Lab) -> Iterator[dict[str, Any]]:
    """Give, for one test, a second machine that runs, with UEFI variables; returns both of them."""
    declared = {"networks": {}, "vms": {**DECLARED["vms"], "u": UEFI}}
    lab.apply(declared=declared)
    yield declared
    lab.call("vm_remove", "u", "purge=True")


def pid(lab: Lab, name: str) -> str:
    """Return the PID of a machine's QEMU, empty where there is none."""
    pattern = f"^/usr/bin/qemu-system.* guest={name} "
    found = lab.host.run(["pgrep", "-f", pattern], check=False).stdout.split()
    assert len(found) < 2
    return "".join(found)


def tags(lab: Lab, image: str) -> set[str]:
    """Return the snapshots in an image, as qemu-img sees them."""
    lines = lab.host.run(["qemu-img", "snapshot", "-U", "-l", image]).stdout.splitlines()
    return {line.split()[1] for line in lines[2:]}


def fails(lab: Lab, *words: str) -> str:
    """Return in what words a function refuses: a few lines, no traceback."""
    with pytest.raises(harness.HostFailure) as failure:
        lab.call(*words)
    said = failure.value.stderr.strip()
    assert "Traceback" not in said and len(said.splitlines()) <= 3, said
    return said.split(": ", 1)[1]


def say(console: Console, text: str) -> None:
    """Have the guest keep a word in its memory and on its disk."""
    console.run(f"echo {text} >/tmp/word; dd if=/tmp/word of=/dev/vda conv=notrunc,fsync")


def heard(console: Console) -> list[str]:
    """Return the words that the guest has: in its memory, and on its disk."""
    flush = "echo 3 >/proc/sys/vm/drop_caches"
    return console.run(f"{flush}; cat /tmp/word; head -n 1 /dev/vda; uptime >/dev/null").split()


def test_f34_a_running_machine_goes_back_and_a_wrong_tag_leaves_it(lab: Lab) -> None:
    """Memory, disks; with a tag that is not there, or twice, it runs on as it was."""
    console = Console(lab)
    say(console, "before")
    saved = lab.call("vm_snapshot_save", "w", "first")
    assert (saved["memory"], saved["complete"]) == (True, True)
    say(console, "after")
    was = pid(lab, "w")
    assert fails(lab, "vm_snapshot_load", "w", "other") == "w has no snapshot other; it has first"
    assert "w has a snapshot first already" in fails(lab, "vm_snapshot_save", "w", "first")
    assert heard(console) == ["after", "after"]
    assert lab.call("vm_snapshot_load", "w", "first") == {"status": "running"}
    assert heard(console) == ["before", "before"]
    assert pid(lab, "w") == was
    # From off, it is started for it.
    say(console, "later")
    console.close()
    lab.call("vm_stop", "w", "grace=0")
    assert lab.call("vm_snapshot_load", "w", "first") == {"status": "running"}
    console = Console(lab)
    assert heard(console) == ["before", "before"]
    console.close()
    lab.call("vm_snapshot_delete", "w", "first")
    assert tags(lab, writer.IMAGE) == tags(lab, SECOND) == set()
    assert fails(lab, "vm_snapshot_delete", "w", "first") == "w has no snapshot first; it has none"


def started_anew(lab: Lab, name: str, edits: str) -> None:
    """Change a machine's launch script by hand, and have the supervisor start it with that."""
    lab.host.run(["sed", "-i", edits, f"{VMS}/{name}/launch"])
    was = pid(lab, name)
    kill(lab, int(was))
    harness.wait_for(lambda: pid(lab, name) not in ("", was), 10, "the machine")
    harness.wait_for(lambda: lab.call("vm_list")[name] == "running", 10, "the machine")


def test_f34_a_slow_disk_is_waited_for(lab: Lab) -> None:
    """A snapshot with 90 MB of memory is deleted at 8 MB/s; QEMU answers nobody meanwhile."""
    limits = '{"qom-type":"throttle-group","id":"slow","limits":{"bps-write":8000000}}'
    file = f'{{"driver":"file","filename":"{writer.IMAGE}"}}'
    throttle = f'{{"driver":"throttle","throttle-group":"slow","file":{file}}}'
    edits = f"s|{file}|{throttle}|; s| -name | -object '{limits}' -name |"
    started_anew(lab, "w", edits)
    Console(lab).close()  # its guest has booted
    lab.call("vm_snapshot_save", "w", "slow")  # at full speed: QEMU has no limits while it saves
    assert tags(lab, writer.IMAGE) == tags(lab, SECOND) == {"slow"}
    begin = time.monotonic()
    lab.call("vm_snapshot_delete", "w", "slow")
    assert time.monotonic() - begin > 10 and tags(lab, writer.IMAGE) == set()
    lab.call("vm_restart", "w")


@pytest.mark.needs("strace")
def test_f34_qemu_killed_while_it_saves(lab: Lab) -> None:
    """It is said in one line, the supervisor has the machine back, and no snapshot is left."""
    Console(lab).close()  # its guest has booted
    before = lab.host.run(["sha256sum", SECOND]).stdout
    was = pid(lab, "w")
    writes = "pwrite64,pwritev"
    trace = ["-e", f"trace={writes}", "-e", f"inject={writes}:signal=SIGKILL:when=20"]
    killer = lab.host.spawn(["strace", "-f", "-o", "/dev/null", *trace, "-p", was])
    traced = ["grep", "-q", "^TracerPid:.*[1-9]", f"/proc/{was}/task/{was}/status"]
    harness.wait_for(lambda: not lab.host.run(traced, check=False).returncode, 10, "strace")
    said = fails(lab, "vm_snapshot_save", "w", "cut")
    assert "QEMU closed the connection" in said and len(said.splitlines()) == 1
    killer.communicate(timeout=10)
    assert tags(lab, writer.IMAGE) == tags(lab, SECOND) == set()
    assert lab.host.run(["sha256sum", SECOND]).stdout == before
    harness.wait_for(lambda: lab.call("vm_list") == {"w": "running"}, 10, "the machine")
    Console(lab).close()
    lab.call("vm_snapshot_save", "w", "cut")
    assert tags(lab, writer.IMAGE) == tags(lab, SECOND) == {"cut"}
    lab.call("vm_snapshot_delete", "w", "cut")


def test_f34_raw_variables_refuse_a_snapshot(lab: Lab, uefi: dict[str, Any]) -> None:
    """While it runs, with its launch script changed by hand, and while it is off."""
    raw = f"qemu-img convert -U -O raw {VARIABLES} /srv/raw && chown qemulab: /srv/raw"
    lab.host.run(["sh", "-c", f"{raw} && cp -a {VARIABLES} /srv/kept && mv /srv/raw {VARIABLES}"])
    edit = 's/"driver":"qcow2","node-name":"uefi-var/"driver":"raw","node-name":"uefi-var/'
    started_anew(lab, "u", edit)
    said = fails(lab, "vm_snapshot_save", "u", "one")
    assert said.startswith(f"{VARIABLES} is raw\n") and "qemu-img convert -O qcow2" in said
    lab.call("vm_stop", "u")
    said = fails(lab, "vm_snapshot_save", "u", "one")
    assert said.startswith(f"{VARIABLES} is not a qcow2 image\n") and "qemu-img convert" in said
    lab.host.run(["mv", "/srv/kept", VARIABLES])


def test_f34_no_room_for_the_memory(lab: Lab, uefi: dict[str, Any]) -> None:
    """The machine runs on as it was, and has no snapshot; with room it has one, variables too."""
    lab.call("vm_stop", "u")
    disks = f"{VMS}/u/disks"
    lab.host.run(["cp", "-a", disks, "/srv/disks"])
    lab.host.run(["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", disks])
    lab.host.run(["cp", "-a", "/srv/disks/.", disks])
    lab.call("vm_start", "u")
    was = pid(lab, "u")
    assert fails(lab, "vm_snapshot_save", "u", "big").startswith("QEMU's snapshot-save failed: ")
    assert lab.call("vm_list")["u"] == "running" and pid(lab, "u") == was
    assert tags(lab, f"{disks}/hda.qcow2") == tags(lab, VARIABLES) == set()
    lab.host.run(["mount", "-o", "remount,size=90M", disks])
    assert lab.call("vm_snapshot_save", "u", "big")["complete"] is True
    # The memory is in the disk, not in the variables.
    assert tags(lab, VARIABLES) == {"big"}
    assert int(lab.host.run(["stat", "-c", "%s", VARIABLES]).stdout) < 4 * 2**20
    lab.call("vm_stop", "u")
    lab.host.run(["umount", disks])


def test_f34_another_machine_than_it_was(lab: Lab, uefi: dict[str, Any]) -> None:
    """Memory that does not fit is refused before the disks are touched; they alone can be had."""
    lab.call("vm_snapshot_save", "u", "small")
    uefi["vms"]["u"] = {**UEFI, "memory": 48}
    lab.apply(declared=uefi)
    was = pid(lab, "u")
    said = fails(lab, "vm_snapshot_load", "u", "small")
    assert said.startswith("u is another machine than in small: memory 32 -> 48\n")
    assert pid(lab, "u") == was
    # A snapshot of which nothing is known but what QEMU says: too late to leave it as it was.
    lab.host.run(["rm", f"{VMS}/u/snapshots.json"])
    said = fails(lab, "vm_snapshot_load", "u", "small")
    assert said.startswith("u was powered off, its disks are those of small: QEMU's snapshot-load")
    assert pid(lab, "u") == ""
    loaded = lab.call("vm_snapshot_load", "u", "small", "memory=False")
    assert loaded == {"status": "stopped"}


def test_f34_a_machine_that_is_off_all_images_or_none(lab: Lab) -> None:
    """Where one image has no room, the other has no snapshot either, and none is put back."""
    lab.call("vm_stop", "w", "grace=0")
    lab.host.run(["qemu-io", "-c", "write -P 1 0 64k", writer.IMAGE])
    assert lab.call("vm_snapshot_save", "w", "cold")["memory"] is False
    lab.host.run(["qemu-io", "-c", "write -P 2 0 64k", writer.IMAGE])
    # The second image lies on a file system without room.
    lab.host.run(["mkdir", "/srv/full"])
    lab.host.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", "/srv/full"])
    lab.host.run(["cp", "-a", SECOND, "/srv/full/hdb"])
    lab.host.run(["dd", "if=/dev/zero", "of=/srv/full/filler", "bs=4k"], check=False)
    lab.host.run(["mount", "--bind", "/srv/full/hdb", SECOND])
    for words in (("vm_snapshot_save", "w", "warm"), ("vm_snapshot_load", "w", "cold")):
        assert "No space left on device" in fails(lab, *words)
        assert tags(lab, writer.IMAGE) == tags(lab, SECOND) == {"cold"}
        assert begins_with(lab, 2)
        lab.host.run(["qemu-img", "check", "-q", SECOND])
    lab.host.run(["umount", SECOND, "/srv/full"])
    assert lab.call("vm_snapshot_load", "w", "cold") == {"status": "stopped"}
    assert begins_with(lab, 1)
    # One whose saving was interrupted is told, and can only be deleted.
    lab.host.run(["qemu-img", "snapshot", "-c", "half", writer.IMAGE])
    lab.call("vm_start", "w")
    known = lab.call("vm_snapshot_list", "w")
    assert {tag: known[tag]["complete"] for tag in known} == {"cold": True, "half": False}
    assert "half is not whole" in fails(lab, "vm_snapshot_load", "w", "half")
    assert "unfinished part of a snapshot half" in fails(lab, "vm_snapshot_save", "w", "half")
    lab.call("vm_snapshot_delete", "w", "half")
    assert "was taken while w was off" in fails(lab, "vm_snapshot_load", "w", "cold")
    lab.call("vm_snapshot_delete", "w", "cold")
    assert tags(lab, writer.IMAGE) == tags(lab, SECOND) == set()


def begins_with(lab: Lab, pattern: int) -> bool:
    """Return whether the first disk begins with a byte, over and over."""
    read = ["qemu-io", "-r", "-c", f"read -P {pattern} 0 64k", writer.IMAGE]
    said = lab.host.run(read, check=False).stdout
    assert "read 65536/65536 bytes" in said
    return "verification failed" not in said
