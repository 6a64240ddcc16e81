"""
What becomes of a machine whose images are not what it takes them for: gone while it runs, grown
behind its guest's back, made for another firmware, or over a backing image that does not fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import harness
import pytest
import writer
from faultlab import ON_SUPERVISORD
from faultlab import qemus
from labs import Lab
from labs import blank_disc
from labs import tiny
from writer import Console

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "qemu-img", "unshare", "nsenter"),
]

VMS = "/var/lib/qemulab/lab/vms"
DISK = f"{VMS}/a/disks/hda.qcow2"
VARIABLES = f"{VMS}/a/disks/uefi-variables.qcow2"


@pytest.fixture(scope="module", params=harness.HOSTS)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give a host; each test declares what it needs and takes it away."""
    with harness.HOSTS[request.param](tmp_path_factory.mktemp("images")) as host:
        yield Lab(host)


@pytest.fixture(autouse=True)
def ends_whole(lab: Lab) -> Iterator[None]:
    """Leave nothing to the next test."""
    yield
    if qemus(lab):
        lab.host.salt_call("state.apply", "lab.clean")
    lab.host.run(["rm", "-rf", VMS])


def one(**more: Any) -> dict[str, Any]:
    """Return the declaration of one machine, ``a``, that starts at once and has a small disk."""
    return {"networks": {}, "vms": {"a": tiny(**{"disks": [{"size": "1M"}], "nics": [], **more})}}


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


def test_a_disk_that_is_gone_under_a_running_machine_is_told_and_never_given_up(lab: Lab) -> None:
    """
    Neither an apply nor a restart takes the machine from what it alone still holds; a file that
    somebody puts in the place is not taken for it. Only when told, and a stop tells beforehand.
    """
    lab.apply(declared=one())
    pid = lab.pids()["a"]
    number = lab.host.run(["stat", "-c", "%i", DISK]).stdout
    lab.host.run(["rm", DISK])
    said = refused(lab, "vm_running a", one())
    assert f"{DISK} is gone, and what was on it is in /proc/{pid}/fd/" in said
    assert "lose_data=True" in said
    for words in (("vm_restart", "a"), ("lab_restart",)):
        with pytest.raises(harness.HostFailure, match="is gone, and what was on it"):
            lab.call(*words)
    held = re.search(f"/proc/{pid}/fd/[0-9]+", said)
    assert held is not None
    assert lab.host.run(["stat", "-L", "-c", "%i", held[0]]).stdout == number
    lab.host.run(["cp", held[0], DISK])
    assert "has been replaced by another file" in refused(lab, "vm_running a", one())
    warned = lab.apply("lab.clean", declared=one(), test=True)["vm_absent a"]["warnings"]
    assert any("has been replaced by another file" in each for each in warned)
    assert lab.pids()["a"] == pid
    again = lab.call("vm_restart", "a", "lose_data=True")
    assert again["status"] == "running" and "warnings" not in again
    assert lab.changes(lab.apply(declared=one())) == {}


@ON_SUPERVISORD
def test_a_machine_that_would_not_come_back_is_not_powered_off(lab: Lab) -> None:
    """It has its disc open; its next start would not find it. And a start tells of edited files."""
    disc = blank_disc(lab.host.shared / "disc.iso")
    lab.apply(declared=one(cdrom=str(disc)))
    pid = lab.pids()["a"]
    disc.unlink()
    for words in (("vm_restart", "a"), ("lab_restart",)):
        with pytest.raises(harness.HostFailure, match=f"lab:vms:a:cdrom: {disc}"):
            lab.call(*words)
    assert lab.pids()["a"] == pid
    blank_disc(disc)
    lab.host.run(["sed", "-i", "$ a # mine", f"{VMS}/a/launch"])
    (told,) = lab.call("vm_restart", "a")["warnings"]
    assert told == "files: launch was edited by somebody, and is written anew"
    assert lab.changes(lab.apply(declared=one(cdrom=str(disc)))) == {}


@ON_SUPERVISORD
def test_a_start_onto_a_disk_that_is_made_anew_says_so(lab: Lab) -> None:
    """The dry run of an apply has it among the changes, and ``vm_start`` tells."""
    lab.apply(declared=one())
    lab.call("vm_stop", "a")
    lab.host.run(["rm", DISK])
    said = lab.apply(declared=one(), test=True)["vm_running a"]["changes"]
    assert said["disks:hda:size"] == {"old": None, "new": "1M", "effect": "create"}
    assert lab.call("vm_start", "a")["warnings"] == ["the disk hda is made anew: it had no file"]


@ON_SUPERVISORD
@pytest.mark.parametrize(
    ("size", "says"), [("128K", "keeps no change of them"), ("4M", "does not boot with them")]
)
def test_uefi_variables_of_another_firmware_are_told_and_left(
    lab: Lab, size: str, says: str
) -> None:
    """Of a smaller flash and of a larger one: by the dry run, by the doctor, by ``vm_start``."""
    declared = one(firmware="uefi")
    lab.apply("lab.vms", declared=one(firmware="uefi", boot="disk"))
    lab.call("vm_stop", "a")
    assert not any("UEFI" in each for each in warnings(lab, declared))
    lab.host.run(["qemu-img", "create", "-q", "-f", "qcow2", VARIABLES, size])
    before = lab.host.run(["sha256sum", VARIABLES]).stdout
    (told,) = [each for each in warnings(lab, declared) if "UEFI" in each]
    assert says in told and f"move {VARIABLES} away" in told
    assert any(says in each for each in lab.call("doctor", declared=declared))
    assert lab.host.run(["sha256sum", VARIABLES]).stdout == before
    (told,) = lab.call("vm_start", "a")["warnings"]
    assert says in told


def warnings(lab: Lab, declared: Any) -> list[str]:
    """Return what a dry run warns of before anything is started."""
    found: list[str] = lab.apply(declared=declared, test=True)["declared lab-declared"].get(
        "warnings", []
    )
    return found


@ON_SUPERVISORD
def test_a_backing_image_that_does_not_fit_is_refused_by_the_dry_run(lab: Lab) -> None:
    """With the way out; nothing of the machine is made."""
    lab.host.run(["qemu-img", "create", "-q", "-f", "qcow2", "/srv/large.qcow2", "60G"])
    said = refused(lab, "declared lab-declared", one(disks=[{"backing": "/srv/large.qcow2"}]))
    assert "lab:vms:a:disks:0:size: 50G would cut off /srv/large.qcow2" in said
    assert "declare size: 60G" in said
    assert lab.host.run(["test", "-e", VMS], check=False).returncode != 0


@ON_SUPERVISORD
def test_when_a_guest_sees_that_its_disk_has_grown(lab: Lab) -> None:
    """As the effect says: at once on virtio and scsi, on ide with the restart that waits."""
    disks = [{"size": "64M", "bus": bus} for bus in ("ide", "scsi", "virtio")]
    declared = {"networks": {}, "vms": {writer.NAME: {**writer.DECLARED, "disks": disks}}}
    lab.apply(declared=declared)
    console = Console(lab)
    assert sizes(console) == {"ide": 64, "scsi": 64, "virtio": 64}
    for disk in disks:
        disk["size"] = "96M"
    done = lab.apply(declared=declared)["vm_running w"]
    effects = {key: item["effect"] for key, item in done["changes"].items()}
    assert effects == {"disks:hdb:size": "live", "disks:hdc:size": "live"}
    assert done["pending"]["disks:hda:size"] == {"old": "64M", "new": "96M", "effect": "restart"}
    harness.wait_for(lambda: sizes(console)["scsi"] == 96, 5, "the scsi disk")
    assert sizes(console) == {"ide": 64, "scsi": 96, "virtio": 96}
    console.close()
    lab.call("vm_restart", "w")
    console = Console(lab)
    assert sizes(console) == {"ide": 96, "scsi": 96, "virtio": 96}
    console.close()


def sizes(console: Console) -> dict[str, int]:
    """Return the megabytes that a guest sees of each disk, by its bus."""
    # A disk's driver tells its bus; the names of ide and scsi disks depend on who came first.
    console.said = ""
    console.send(
        "for d in /sys/block/sd? /sys/block/vd?; do case $(readlink -f $d) in */ata*) b=ide;; "
        "*/virtio*/host*) b=scsi;; *) b=virtio;; esac; echo size-$b-$(cat $d/size).; done; "
        "echo all-$((40 + 2))"
    )
    harness.wait_for(lambda: console.listen(0.1) and "all-42" in console.said, 20, "the sizes")
    found = re.findall(r"size-(\w+)-(\d+)\.", console.said)
    return {bus: int(sectors) // 2048 for bus, sectors in found}


def test_a_start_that_fails_tells_its_own_reason_and_no_earlier_one(lab: Lab) -> None:
    """Once, although its supervisor has tried more than once."""
    said = {}
    for model in ("first-model", "second-model"):
        state = lab.apply(declared=one(cpu=model), check=False)["vm_running a"]
        assert state["result"] is False
        said[model] = state["comment"]
    assert said["first-model"].count("first-model") == 1
    assert said["second-model"].count("second-model") == 1
    assert "first-model" not in said["second-model"]
