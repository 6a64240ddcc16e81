"""
What becomes of the disks: on a full host, when QEMU is killed, where something else is in the way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import harness
import pytest
import writer
from faultlab import forgive
from faultlab import qemus
from figures import Figures
from labs import Lab
from labs import tiny
from writer import Console

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "qemu-img", "unshare", "nsenter"),
]

VMS = "/var/lib/qemulab/lab/vms"
TEMPLATES = "/var/lib/qemulab/lab/templates"
NO_ROOM = "No space left on device"
WRITING: dict[str, Any] = {"networks": {}, "vms": {writer.NAME: writer.DECLARED}}


@pytest.fixture(scope="module", params=harness.HOSTS)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give a host; each test declares what it needs and takes it away."""
    with harness.HOSTS[request.param](tmp_path_factory.mktemp("storage")) as host:
        yield Lab(host)


@pytest.fixture(autouse=True)
def ends_whole(lab: Lab) -> Iterator[None]:
    """Leave nothing to the next test; what each one promises of its disks, it says itself."""
    yield
    if qemus(lab):
        lab.host.salt_call("state.apply", "lab.clean")
    for directory in reversed(mounts(lab)):
        lab.host.run(["umount", "-l", directory])
    lab.host.run(["rm", "-rf", VMS, TEMPLATES])
    assert not qemus(lab)


def mounts(lab: Lab) -> list[str]:
    """Return the small file systems that a test has made."""
    found = [line.split()[1] for line in lab.host.run(["cat", "/proc/mounts"]).stdout.splitlines()]
    return [directory for directory in found if "qemulab/" in directory]


def small(lab: Lab, directory: str, size: str) -> None:
    """Give a directory a file system of its own that is soon full; or give it another size."""
    remount = "remount," if directory in mounts(lab) else ""
    lab.host.run(["mkdir", "-p", directory])
    lab.host.run(["mount", "-t", "tmpfs", "-o", f"{remount}size={size}", "tmpfs", directory])


def fill(lab: Lab, directory: str) -> None:
    """Leave no room in a file system."""
    lab.host.run(["dd", "if=/dev/zero", f"of={directory}/filler", "bs=4k"], check=False)


def refused(lab: Lab, state: str, declared: Any) -> str:
    """Return why a state fails, which the dry run and the apply say alike."""
    said = []
    for test in (True, False):
        answer = lab.apply(declared=declared, test=test, check=False)[state]
        assert answer["result"] is False and answer["changes"] == {}
        assert "Traceback" not in answer["comment"]
        said.append(answer["comment"])
    assert said[0] == said[1]
    return said[0]


LEAKS = 3
"""How ``qemu-img check`` ends where clusters belong to nothing, and nothing else is wrong."""


def checked(lab: Lab, path: str = writer.IMAGE, *options: str) -> int:
    """Return how ``qemu-img check`` ends: 0 where it finds nothing wrong with an image."""
    return lab.host.run(["qemu-img", "check", "-q", *options, path], check=False).returncode


def lost(lab: Lab, image: str, acknowledged: int) -> int:
    """Return how many bytes of acknowledged records are not in an image."""
    raw = lab.host.shared / "disk.raw"
    lab.host.run(["qemu-img", "convert", "-O", "raw", image, str(raw)])
    data = raw.read_bytes()
    found = 0
    for number in range(1, acknowledged + 1):
        begin = number * writer.STRIDE
        if data[begin : begin + writer.RECORD] != writer.record(number):
            found += writer.RECORD
    return found


def test_f16_a_full_host_stops_a_writing_machine_and_it_goes_on(lab: Lab, figures: Figures) -> None:
    """It shows ``io-error``, hangs nobody, and runs on once there is room; nothing is lost."""
    small(lab, writer.DISKS, "24M")
    lab.apply(declared=WRITING)
    console = Console(lab)
    console.send(f"{writer.FILL.format(count=500)} & {writer.RECORDS.format(most=60)}")
    begin = time.monotonic()
    harness.wait_for(lambda: lab.call("vm_list") == {"w": "io-error"}, 30, "io-error")
    assert lab.call("vm_info", "w")["status"] == "io-error"
    with pytest.raises(harness.HostFailure, match="there is no room left"):
        lab.call("vm_start", "w")
    # Full as it is, the apply says why it cannot help, and the dry run what there is to do.
    said = lab.apply(declared=WRITING, test=True)["vm_running w"]
    assert said["result"] is None
    resumed = {"running": {"old": "io-error", "new": True, "effect": "live"}}
    assert said["changes"] == resumed
    state = lab.apply(declared=WRITING, check=False)["vm_running w"]
    assert state["result"] is False
    assert "there is no room left" in state["comment"] and "Traceback" not in state["comment"]
    assert time.monotonic() - begin < 40
    small(lab, writer.DISKS, "200M")
    with figures.healing(lab.host.supervisor):
        assert lab.apply(declared=WRITING)["vm_running w"]["changes"] == resumed
    assert lab.changes(lab.apply(declared=WRITING)) == {}
    console.wait(r"ack 60\.", 60)
    console.close()
    lab.call("vm_stop", "w", "grace=0")
    assert checked(lab) == 0
    assert lost(lab, writer.IMAGE, 60) == 0


def one_round(lab: Lab, console: Console) -> tuple[int, int, int]:
    """
    Kill QEMU while its guest writes.

    Returns how many bytes of records were acknowledged, how many of these are not in the image that
    the kill left, and how qemu-img ends that checks that image.
    """
    fill = f"while :; do {writer.FILL.format(count=100)}; sleep 0.2; done"
    console.send(f"{fill} & {writer.RECORDS.format(most=writer.MOST)}")
    console.wait(r"ack \d+\.")
    until = time.monotonic() + random.uniform(0, 1.5)
    while time.monotonic() < until:
        assert console.listen(0.05)
    copy = lab.host.shared / "killed.qcow2"
    # In one go: the supervisor has QEMU back within a second.
    take = 'kill -9 "$1" && while [ -e "/proc/$1" ]; do :; done; cp --sparse=always "$2" "$3"'
    lab.host.run(["sh", "-c", take, "kill", pid_of_qemu(lab), writer.IMAGE, str(copy)])
    while console.listen(1):
        pass  # what QEMU had passed on by then was acknowledged
    acknowledged = console.acknowledged()
    console.close()
    return (
        acknowledged * writer.RECORD,
        lost(lab, str(copy), acknowledged),
        checked(lab, str(copy)),
    )


def pid_of_qemu(lab: Lab) -> str:
    """Return the PID of the one QEMU that runs, without Salt's start in the time."""
    return lab.host.run(["pgrep", "-f", "^/usr/bin/qemu-system"], check=False).stdout.strip()


@pytest.mark.parametrize("rounds", [2, pytest.param(100, marks=pytest.mark.full)])
def test_f18_what_a_guest_has_synced_survives_the_kill_of_qemu(
    lab: Lab, figures: Figures, rounds: int
) -> None:
    """
    Every record that it was told is on its disk is there; the image is not damaged.

    Again and again: the supervisor starts QEMU, the guest boots anew. What the kills have left in
    the image that belongs to nothing is freed.
    """
    lab.apply(declared=WRITING)
    on = lab.host.supervisor
    console = Console(lab)
    for _ in range(rounds):
        forgive(lab)
        acknowledged, missing, status = one_round(lab, console)
        figures.count("acknowledged bytes lost in kill -9 during writes", missing, acknowledged, on)
        figures.count("images damaged by kill -9 during writes", status not in (0, LEAKS), 1, on)
        figures.count("of these, with room lost until the next start", status == LEAKS, 1, on)
        assert acknowledged > 0 and missing == 0 and status in (0, LEAKS)
        # Once the machine is back, nothing is wrong with its image; its guest has not written yet.
        console = Console(lab)
        found = checked(lab, writer.IMAGE, "-U")
        figures.count("qemu-img check not clean once the machine is back", found != 0, 1, on)
        assert found == 0
    console.close()
    with figures.healing(lab.host.supervisor):
        assert lab.changes(lab.apply(declared=WRITING)) == {}
    lab.call("vm_stop", "w", "grace=0")
    assert checked(lab) == 0


def tiny_lab(**more: Any) -> dict[str, Any]:
    """Return the declaration of one machine, ``a``, that starts at once and has a small disk."""
    return {
        "networks": {},
        "vms": {"a": tiny(disks=[{"size": "1M"}], nics=[], **more)},
    }


def one_line(comment: str) -> None:
    """Hold an error to what all of them promise: one line says what is wrong, and no traceback."""
    assert len([line for line in comment.splitlines() if NO_ROOM in line]) == 1, comment
    assert "Traceback" not in comment


def files(lab: Lab, directory: str) -> str:
    """Return every file below a directory with its hash, but for what fills it."""
    find = f"find {directory} -xdev -type f ! -name filler -exec sha256sum {{}} +"
    return "\n".join(sorted(lab.host.run(["sh", "-c", find]).stdout.splitlines()))


@pytest.mark.parametrize("disk", [{"size": "1M"}, {"size": "2M", "backing": "/srv/base.qcow2"}])
def test_f17_no_room_for_a_disk(lab: Lab, figures: Figures, disk: dict[str, str]) -> None:
    """Neither a copy of an empty one nor what qemu-img makes is left half; then it goes through."""
    lab.host.run(["qemu-img", "create", "-q", "-f", "qcow2", "/srv/base.qcow2", "1M"])
    declared = tiny_lab()
    declared["vms"]["a"]["disks"] = [disk]
    disks = f"{VMS}/a/disks"
    small(lab, disks, "64k")
    fill(lab, disks)
    state = lab.apply(declared=declared, check=False)["vm_running a"]
    assert state["result"] is False
    one_line(state["comment"])
    assert files(lab, disks) == "" and not qemus(lab)
    small(lab, disks, "1M")
    with figures.healing(lab.host.supervisor):
        changes = lab.apply(declared=declared)["vm_running a"]["changes"]
    assert changes["disks:hda:size"]["old"] is None
    assert lab.changes(lab.apply(declared=declared)) == {}


def test_f17_no_room_for_a_template_or_a_configuration(lab: Lab, figures: Figures) -> None:
    """The old files stay, byte by byte, and the old machine; nothing new is there half."""
    state = "/var/lib/qemulab/lab"
    small(lab, state, "8M")
    lab.apply(declared=tiny_lab())
    changed = tiny_lab()
    changed["vms"]["a"]["stop_grace"] = 1
    changed["vms"]["b"] = tiny(disks=[{"size": "3M"}], nics=[])
    fill(lab, state)
    before = files(lab, state)
    answer = lab.apply(declared=changed, check=False)
    for name in ("vm_running a", "vm_running b"):
        assert answer[name]["result"] is False
        one_line(answer[name]["comment"])
    assert files(lab, state) == before
    assert lab.call("vm_list") == {"a": "running"}
    lab.host.run(["rm", f"{state}/filler"])
    with figures.healing(lab.host.supervisor):
        assert lab.changes(lab.apply(declared=changed)).keys() == {"vm_running a", "vm_running b"}
    assert lab.changes(lab.apply(declared=changed)) == {}
    lab.call("vm_stop", "b")


def test_f17_no_room_for_logs(lab: Lab, figures: Figures) -> None:
    """No machine stands still for what it cannot say: neither QEMU nor who watches it."""
    logs = "/var/log/qemulab"
    small(lab, logs, "64k")
    fill(lab, logs)
    lab.apply(declared=tiny_lab())
    assert lab.call("vm_list") == {"a": "running"}
    lab.host.run(["rm", f"{logs}/filler"])
    with figures.healing(lab.host.supervisor):
        assert lab.changes(lab.apply(declared=tiny_lab())) == {}


IN_THE_WAY = {
    "larger": (
        "qemu-img create -q -f qcow2 $disk 2M",
        "data on a disk would be lost by disks:hda:size 2M -> 1M",
    ),
    "raw": (
        "head -c 1M /dev/urandom > $disk",
        "hda.qcow2 is not a qcow2 image\nmove it away, or convert it",
    ),
    "link-out": (
        "qemu-img create -q -f qcow2 /srv/other.qcow2 1M; ln -s /srv/other.qcow2 $disk",
        "hda.qcow2 is a symbolic link",
    ),
    "other-machines": (
        "mkdir -p $vms/b/disks; qemu-img create -q -f qcow2 $vms/b/disks/hda.qcow2 1M; "
        "ln $vms/b/disks/hda.qcow2 $disk",
        f"{VMS}/a/disks/hda.qcow2 and {VMS}/b/disks/hda.qcow2 are one file",
    ),
}


@pytest.mark.parametrize("what", [pytest.param(what, id=f"F33-{what}") for what in IN_THE_WAY])
def test_what_is_in_a_disks_place_is_left_alone(lab: Lab, figures: Figures, what: str) -> None:
    """Refused, by the dry run in the same words; not a byte of it changes. Without it, it runs."""
    make, why = IN_THE_WAY[what]
    disk = f"{VMS}/a/disks/hda.qcow2"
    lab.host.run(["sh", "-c", f"vms={VMS} disk={disk}; mkdir -p {VMS}/a/disks; {make}"])
    sums = ["sh", "-c", f"sha256sum {disk}; stat -c '%F %i %n' {disk}"]
    before = lab.host.run(sums).stdout
    assert why in refused(lab, "vm_running a", tiny_lab())
    assert lab.host.run(sums).stdout == before
    assert not qemus(lab)
    lab.host.run(["rm", disk])
    with figures.healing(lab.host.supervisor):
        lab.apply(declared=tiny_lab())
    assert lab.changes(lab.apply(declared=tiny_lab())) == {}


def test_f33_a_machines_disk_is_nobodys_backing_image(lab: Lab) -> None:
    """It is written to: what lies over it would change under its reader."""
    declared = tiny_lab()
    declared["vms"]["a"]["disks"] = [{"size": "1M", "backing": f"{VMS}/b/disks/hda.qcow2"}]
    lab.host.run(["sh", "-c", f"mkdir -p {VMS}/b/disks; touch {VMS}/b/disks/hda.qcow2"])
    comment = refused(lab, "declared lab-declared", declared)
    assert "lab:vms:a:disks:0:backing" in comment and "declare a copy of it" in comment


def test_f6_images_that_a_killed_apply_left_are_cleared_away(lab: Lab) -> None:
    """Whether it had its name already or not; the disk that has it keeps every byte."""
    lab.apply(declared=tiny_lab())
    lab.call("vm_stop", "a")
    disks = f"{VMS}/a/disks"
    lab.host.run(["ln", f"{disks}/hda.qcow2", f"{disks}/.hda.qcow2.new"])
    lab.host.run(["cp", f"{disks}/hda.qcow2", f"{disks}/.hdb.qcow2.new"])
    lab.host.run(["truncate", "-s", "100", f"{TEMPLATES}/.blank-2097152.qcow2.new"])
    before = lab.host.run(["sha256sum", f"{disks}/hda.qcow2"]).stdout
    more = tiny_lab()
    more["vms"]["a"]["disks"] = [{"size": "1M"}, {"size": "2M"}]
    lab.apply(declared=more)
    assert lab.host.run(["find", "/var/lib/qemulab", "-name", "*.new"]).stdout == ""
    assert lab.host.run(["sha256sum", f"{disks}/hda.qcow2"]).stdout == before
