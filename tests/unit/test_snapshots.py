"""Snapshots: which tags there may be, what of them is whole, and which machine fits them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _qemulab_vm_snapshots as snapshots
import pytest
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Disk
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_kinds import SpecError
from _qemulab_run_site import Site
from _qemulab_vm_snapshots import Image


def shot(tag: str, when: int = 0, memory: int = 0) -> dict[str, Any]:
    """Return what QEMU says of one snapshot."""
    return {"id": "1", "name": tag, "date-sec": when, "vm-state-size": memory}


def image(place: str, *shots: dict[str, Any], firmware: bool = False) -> Image:
    """Return an image with snapshots."""
    return Image(place, firmware, snapshots.by_tag(list(shots)))


BOTH = [
    image("hda", shot("new", 60, memory=5), shot("old", 0)),
    image("hdb", shot("old", 0), shot("new", 60), shot("half", 30)),
]


@pytest.mark.parametrize("tag", ["a", "installed", "Before-2.0_x", "v" * 63])
def test_tags(tag: str) -> None:
    """What a person would write."""
    snapshots.need_tag(tag)


@pytest.mark.parametrize("tag", ["", "1", "1a", "-a", "a b", "a\n", "ä", "a/b", "v" * 64, 1, True])
def test_no_tags(tag: Any) -> None:
    """A number would be another snapshot's, and what begins with a dash an option."""
    with pytest.raises(SpecError, match="begins with a letter"):
        snapshots.need_tag(tag)


def test_what_is_known_of_each() -> None:
    """The oldest first; whole where every image has it; with memory where one has it."""
    assert list(snapshots.summary(BOTH)) == ["old", "half", "new"]
    assert snapshots.summary(BOTH)["new"] == {
        "taken": "1970-01-01T00:01:00+00:00",
        "memory": True,
        "complete": True,
    }
    assert snapshots.summary(BOTH)["half"]["complete"] is False
    assert snapshots.summary(BOTH)["old"]["memory"] is False
    assert snapshots.summary([]) == {}


def test_a_tag_is_new_or_known() -> None:
    """And known is whole, but for who wants to delete it."""
    snapshots.need_new("m", "other", BOTH)
    snapshots.need_known("m", "new", BOTH)
    snapshots.need_known("m", "half", BOTH, whole=False)
    for tag, why in (("new", "has a snapshot new already"), ("half", "an unfinished part of")):
        with pytest.raises(HostError, match=why):
            snapshots.need_new("m", tag, BOTH)
    with pytest.raises(HostError, match="m has no disk"):
        snapshots.need_new("m", "new", [])
    with pytest.raises(HostError, match="m has no snapshot other; it has old, half, new"):
        snapshots.need_known("m", "other", BOTH, whole=False)
    with pytest.raises(HostError, match="half is not whole: hda lacks it"):
        snapshots.need_known("m", "half", BOTH)


def test_memory_lies_in_a_disk() -> None:
    """In the UEFI variables only where there is nothing else."""
    variables = image("uefi-variables", firmware=True)
    assert snapshots.memory_in([variables, *BOTH]) == "hda"
    assert snapshots.memory_in([variables]) == "uefi-variables"


def test_memory_belongs_to_its_machine(tmp_path: Path) -> None:
    """What changes while it runs does not matter; nor does what nobody has kept."""
    site = Site("lab", str(tmp_path))
    before = Vm(memory=64, nics=(), disks=(Disk(name="hda", bus="ide"),))
    snapshots.remember(site, "m", "tag", before)
    grown = Vm(memory=64, nics=(), disks=(Disk(name="hda", bus="ide", size="99G"),))
    snapshots.need_same(site, "m", "tag", grown)
    other = Vm(memory=32, nics=(), disks=before.disks)
    with pytest.raises(HostError, match="another machine than in tag: memory 64 -> 32"):
        snapshots.need_same(site, "m", "tag", other)
    snapshots.remember(site, "m", "tag", None)
    snapshots.need_same(site, "m", "tag", other)
    assert not site.layout.snapshots_file("m").exists()
