"""
Snapshots of a machine: its disks and UEFI variables at one moment, with its memory where it runs.

They lie in the qcow2 images. QEMU itself makes a running machine's, by jobs; ``qemu-img`` makes
those of one that is off.
"""

from __future__ import annotations

import datetime
import json
import re
from typing import Any
from typing import NamedTuple

import _qemulab_host_seam as host
import _qemulab_pillar_spec as spec
import _qemulab_vm_disks as disks
import _qemulab_vm_hardware as hardware
import _qemulab_vm_launch as launch
import _qemulab_vm_lost_images as held
import _qemulab_vm_power as power
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_kinds import Fault
from _qemulab_pillar_kinds import SpecError
from _qemulab_pillar_schema import plain
from _qemulab_plan_changes import RECREATE
from _qemulab_plan_changes import RESTART
from _qemulab_plan_diff import differences
from _qemulab_plan_diff import leaves
from _qemulab_run_site import Site
from _qemulab_vm_qmp import Qmp
from _qemulab_vm_status import find_lost
from _qemulab_vm_status import find_status
from _qemulab_vm_status import proven
from _qemulab_vm_status import refuse

JOB = "qemulab-snapshot"
JOB_TIMEOUT = 600.0
"""Seconds that QEMU gets to write or read a machine's memory."""

TAG = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,62}")
BEFORE_LOAD = "qemulab-before-load"
"""Tag of what a machine that is off was before another snapshot is put back into its images."""

NUMBER = "hardware"
"""What the number of a machine's hardware is called beside its keys, of which none is that."""

NO_SNAPSHOTS = "such an image holds no snapshot: qemu-img convert -O qcow2"


class Image(NamedTuple):
    """
    One image that a machine writes to.

    place
        QEMU's name for it where the machine runs, else its path.

    firmware
        Whether it holds the UEFI variables: never the memory, unless there is nothing else.

    snapshots
        QEMU's ``SnapshotInfo`` of each that it has, by tag.
    """

    place: str
    firmware: bool
    snapshots: dict[str, dict[str, Any]]


def need_tag(tag: Any) -> None:
    """Raise SpecError unless a tag is one: QEMU would take ``1`` for a snapshot's number."""
    if not isinstance(tag, str) or not TAG.fullmatch(tag):
        allowed = "begins with a letter; letters, digits, '.', '_' and '-', 63 at most"
        raise SpecError([Fault("tag", f"{tag!r} is no tag: one {allowed}")])


def by_tag(snapshots: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return QEMU's list of snapshots by their tags."""
    return {snapshot["name"]: snapshot for snapshot in snapshots}


def images_on(qmp: Qmp) -> list[Image]:
    """Return the images that a running machine writes to. Raises HostError where one is raw."""
    found = []
    for drive in qmp.execute("query-block"):
        medium = drive.get("inserted")
        if medium is None or medium["ro"]:
            continue
        if medium["drv"] != "qcow2":
            raise HostError(f"{medium['file']} is {medium['drv']}", hint=NO_SNAPSHOTS)
        firmware = medium["node-name"] == "uefi-variables"
        snapshots = by_tag(medium["image"].get("snapshots", []))
        found.append(Image(medium["node-name"], firmware, snapshots))
    return found


def images_off(site: Site, name: str, vm: Vm) -> list[Image]:
    """Return the images that a machine has which is off. Raises HostError where one is raw."""
    found = []
    for path in launch.images(site, name, vm):
        if disks.image_size(path) is not None:
            command = ["qemu-img", "info", "-f", "qcow2", "--output=json", str(path)]
            shown = json.loads(host.run(command).stdout)
            firmware = path == site.layout.uefi_variables(name)
            found.append(Image(str(path), firmware, by_tag(shown.get("snapshots", []))))
    return found


def running(site: Site, name: str) -> bool:
    """Return whether a machine has a QEMU to ask. Raises HostError where it cannot be asked."""
    status, _ = find_status(site, name)
    if status.is_doubtful:
        refuse(site, name, status)
    return not status.is_off


def survey(site: Site, name: str, vm: Vm) -> list[Image]:
    """Return a machine's writable images, whether it runs or not."""
    if not running(site, name):
        return images_off(site, name, vm)
    with proven(site, name) as qmp:
        return images_on(qmp)


def summary(images: list[Image]) -> dict[str, dict[str, Any]]:
    """Return what is to be known of each snapshot, by tag, the oldest first."""
    found = {}
    tags = {tag: shot["date-sec"] for image in images for tag, shot in image.snapshots.items()}
    for tag, seconds in sorted(tags.items(), key=lambda item: (item[1], item[0])):
        taken = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
        found[tag] = {
            "taken": taken.isoformat(),
            "memory": any(has_memory(image, tag) for image in images),
            "complete": all(tag in image.snapshots for image in images),
        }
    return found


def has_memory(image: Image, tag: str) -> bool:
    """Return whether an image has the machine's memory of a snapshot."""
    return bool(image.snapshots.get(tag, {}).get("vm-state-size"))


def need_new(name: str, tag: str, images: list[Image]) -> None:
    """Raise HostError where a snapshot cannot be made: its tag is taken, or there is no image."""
    if not images:
        raise HostError(f"{name} has no disk that a snapshot could lie in")
    known = summary(images).get(tag)
    if known is not None:
        what = "has" if known["complete"] else "has an unfinished part of"
        hint = f"salt-call qemulab.vm_snapshot_delete {name} {tag}"
        raise HostError(f"{name} {what} a snapshot {tag} already", hint=hint)


def need_known(name: str, tag: str, images: list[Image], whole: bool = True) -> None:
    """Raise HostError where there is no such snapshot, or (with ``whole``) an image lacks it."""
    known = summary(images)
    if tag not in known:
        raise HostError(f"{name} has no snapshot {tag}; it has {', '.join(known) or 'none'}")
    lacking = [image.place for image in images if tag not in image.snapshots]
    if whole and lacking:
        hint = f"salt-call qemulab.vm_snapshot_delete {name} {tag}"
        raise HostError(
            f"the snapshot {tag} is not whole: {', '.join(lacking)} lacks it", hint=hint
        )


# what a machine was when its memory was saved


def remember(site: Site, name: str, tag: str, vm: Vm | None) -> None:
    """Store the definition of a machine whose memory was saved; with ``None``, forget it."""
    path = site.layout.snapshots_file(name)
    known = {key: value for key, value in (host.read_json(path) or {}).items() if key != tag}
    if vm is not None:
        known[tag] = {**plain(vm), NUMBER: hardware.find(site, name)}
    if known:
        host.write_json(path, known)
    else:
        host.remove(path)


def need_same(site: Site, name: str, tag: str, vm: Vm) -> None:
    """
    Raise HostError where a machine is another one than when its memory was saved.

    Memory belongs to its hardware, and QEMU would see only when the disks have been changed.
    """
    then = (host.read_json(site.layout.snapshots_file(name)) or {}).get(tag)
    if then is None:  # made by a person with QEMU's own means
        return
    changes = differences(leaves(spec.stored(Vm, then)), leaves(vm))
    other = [each for each in changes if each.effect in (RESTART, RECREATE)]
    words = [f"{each.key} {each.old} -> {each.new}" for each in other]
    old, new = then.get(NUMBER, hardware.BEFORE), hardware.find(site, name)
    words += [f"{NUMBER} {old} -> {new}"] if old != new else []
    if words:
        said = ", ".join(words)
        hint = "declare it as it was then, or put the disks alone back: memory=False"
        raise HostError(f"{name} is another machine than in {tag}: {said}", hint=hint)


# on a running machine


def job(qmp: Qmp, command: str, arguments: dict[str, Any]) -> None:
    """
    Run one of QEMU's snapshot jobs to its end.

    The command itself always succeeds: what went wrong stands in the job. QEMU does the work in its
    main loop and answers nobody meanwhile. Raises HostError with what the job says.
    """
    for left in qmp.execute("query-jobs", timeout=JOB_TIMEOUT):
        if left["id"] == JOB:  # of a caller that was killed
            qmp.execute("job-dismiss", {"id": JOB})
    qmp.execute(command, {"job-id": JOB, **arguments}, timeout=JOB_TIMEOUT)

    def concluded() -> Any:
        jobs = qmp.execute("query-jobs", timeout=JOB_TIMEOUT)
        return next((j for j in jobs if j["id"] == JOB and j["status"] == "concluded"), None)

    done = host.wait_for(concluded, JOB_TIMEOUT)
    if done is None:
        raise HostError(f"QEMU's {command} takes longer than {JOB_TIMEOUT:g} s")
    qmp.execute("job-dismiss", {"id": JOB})
    if done.get("error"):
        raise HostError(f"QEMU's {command} failed: {done['error']}")


def devices(images: list[Image]) -> list[str]:
    """Return how QEMU is told which images a snapshot covers: all, or it leaves some out."""
    return [image.place for image in images]


def memory_in(images: list[Image]) -> str:
    """Return the image that takes the memory: the first disk; left to itself QEMU may choose the
    UEFI variables."""
    return min(images, key=lambda image: image.firmware).place


def save_on(name: str, tag: str, qmp: Qmp) -> None:
    """Snapshot a running machine, which goes on; where that fails, it goes on as well."""
    images = images_on(qmp)
    need_new(name, tag, images)
    ran = qmp.execute("query-status")["running"]
    arguments = {"tag": tag, "vmstate": memory_in(images), "devices": devices(images)}
    try:
        job(qmp, "snapshot-save", arguments)
    except HostError:
        if ran and not qmp.execute("query-status")["running"]:
            qmp.execute("cont")
        raise


def load_on(site: Site, name: str, tag: str) -> None:
    """
    Put a running machine back to where a snapshot with memory was taken; it runs from there.

    What can be known to fail is refused before QEMU is asked, which changes the disks first and
    reads the memory then. Where it fails all the same, the memory belongs to other disks than those
    that are there now: the machine is powered off, so that nothing of it is written to them.
    """
    defined, started = site.store.vm(name)
    # They would go with the QEMU of a load that fails, and all their snapshots with them.
    held.need_none(name, find_lost(site, name))
    with proven(site, name) as qmp:
        images = images_on(qmp)
        need_known(name, tag, images)
        if started is not None:
            need_same(site, name, tag, started)
        holders = [image.place for image in images if has_memory(image, tag)]
        if not holders:
            hint = f"salt-call qemulab.vm_stop {name}; then load it, and start {name} again"
            raise HostError(f"{tag} was taken while {name} was off, and {name} runs", hint=hint)
        arguments = {"tag": tag, "vmstate": holders[0], "devices": devices(images)}
        try:
            job(qmp, "snapshot-load", arguments)
            if not qmp.execute("query-status")["running"]:
                qmp.execute("cont")
            return
        except HostError as err:
            problem = str(err)
    power.end(site, name, defined)
    hint = f"is {name} declared as it was then? vm_start boots it from the disks of {tag}"
    raise HostError(f"{name} was powered off, its disks are those of {tag}: {problem}", hint=hint)


# on a machine that is off


def qemu_img(flag: str, tag: str, path: str) -> None:
    """Make (``-c``), put back (``-a``) or delete (``-d``) a snapshot of one image."""
    host.run(["qemu-img", "snapshot", flag, tag, path], timeout=JOB_TIMEOUT)


def save_off(tag: str, images: list[Image]) -> None:
    """Snapshot all images of a machine that is off, or none."""
    made: list[Image] = []
    try:
        for image in images:
            qemu_img("-c", tag, image.place)
            made.append(image)
    except HostError:
        for image in made:
            qemu_img("-d", tag, image.place)
        tidy(images)
        raise


def load_off(name: str, tag: str, images: list[Image]) -> None:
    """Put a snapshot back into all images of a machine that is off, or into none."""
    need_known(name, tag, images)
    if tag == BEFORE_LOAD:  # a load was interrupted, and this is its undoing
        apply_off(tag, images)
        return
    delete_off(BEFORE_LOAD, images)
    save_off(BEFORE_LOAD, images)
    undone = [image._replace(snapshots={BEFORE_LOAD: {}}) for image in images]
    try:
        apply_off(tag, images)
    except HostError:
        apply_off(BEFORE_LOAD, images)  # where that fails as well, it is left to be loaded later
        delete_off(BEFORE_LOAD, undone)
        tidy(images)
        raise
    delete_off(BEFORE_LOAD, undone)


def tidy(images: list[Image]) -> None:
    """Give back what a qemu-img that found no room has taken in an image and not used."""
    for image in images:
        command = ["qemu-img", "check", "-q", "-f", "qcow2", "-r", "leaks", image.place]
        host.run(command, check=False, timeout=JOB_TIMEOUT)


def apply_off(tag: str, images: list[Image]) -> None:
    """Put a snapshot back into each image, one after the other."""
    for image in images:
        qemu_img("-a", tag, image.place)


def delete_off(tag: str, images: list[Image]) -> None:
    """Delete a snapshot of a machine that is off from those images that have it."""
    for image in images:
        if tag in image.snapshots:
            qemu_img("-d", tag, image.place)


# on either


def save(site: Site, name: str, tag: str, vm: Vm) -> dict[str, Any]:
    """Make a snapshot and return what ``summary`` says of it."""
    need_tag(tag)
    with site.lock("vm", name):
        if running(site, name):
            with proven(site, name) as qmp:
                save_on(name, tag, qmp)
            remember(site, name, tag, site.store.vm(name)[1] or vm)
        else:
            images = images_off(site, name, vm)
            need_new(name, tag, images)
            save_off(tag, images)
        return summary(survey(site, name, vm))[tag]


def load(site: Site, name: str, tag: str, vm: Vm, memory: bool) -> None:
    """
    Put a machine back to a snapshot; one with memory is started for it where it is off.

    memory
        Whether a snapshot's memory is put back; if not, the machine has to be off, and stays off.
    """
    need_tag(tag)
    with site.lock("vm", name):
        if not running(site, name):
            images = images_off(site, name, vm)
            need_known(name, tag, images)
            if not memory or not summary(images)[tag]["memory"]:
                load_off(name, tag, images)
                return
            need_same(site, name, tag, vm)
            power.start(site, name, vm)
        elif not memory:
            raise HostError(f"{name} runs", hint=f"salt-call qemulab.vm_stop {name}")
        load_on(site, name, tag)


def delete(site: Site, name: str, tag: str, vm: Vm) -> None:
    """Delete a snapshot from all images that have it."""
    need_tag(tag)
    with site.lock("vm", name):
        if not running(site, name):
            images = images_off(site, name, vm)
            need_known(name, tag, images, whole=False)
            delete_off(tag, images)
        else:
            with proven(site, name) as qmp:
                images = images_on(qmp)
                need_known(name, tag, images, whole=False)
                having = [image for image in images if tag in image.snapshots]
                job(qmp, "snapshot-delete", {"tag": tag, "devices": devices(having)})
        remember(site, name, tag, None)
