"""Headers of qcow2 images, held against qemu-img; and what a backing image may not be."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import _qemulab_check_host as check
import _qemulab_host_qcow2 as qcow2
import _qemulab_pillar_spec as spec
import _qemulab_vm_media as media
import pytest
from _qemulab_host_seam import HostError
from _qemulab_pillar_kinds import Notes
from _qemulab_run_site import Site
from hypothesis import given
from hypothesis import strategies as st


def create(path: Path, *options: str, size: str = "2M") -> Path:
    """Have qemu-img make an image."""
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path)]
    subprocess.run([*command, size], check=True)
    return path


def made(tmp_path: Path, kind: str) -> Path:
    """Return an image of a kind, made by qemu-img."""
    path = tmp_path / "base.qcow2"
    if kind == "raw":
        path.write_bytes(bytes(2**20))
    elif kind == "vmdk":
        subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", path, "2M"], check=True)
    elif kind == "overlay":
        create(path, "-F", "qcow2", "-b", str(create(tmp_path / "below.qcow2")))
    elif kind == "data file":
        create(path, "-o", f"data_file={tmp_path}/data.raw")
    elif kind == "encrypted":
        create(path)
        with open(path, "r+b") as image:  # qemu-img measures the CPU to make one, and may fail
            image.seek(32)
            image.write((2).to_bytes(4, "big"))
    else:
        create(path, "-o", f"compat={kind}")
    path.chmod(0o644)
    return path


REFUSED = {
    "raw": "is no qcow2 image: qemu-img convert -O qcow2 makes one of it",
    "vmdk": "is no qcow2 image: qemu-img convert -O qcow2 makes one of it",
    "overlay": "has a backing image of its own: qemu-img convert -O qcow2 makes one image of both",
    "data file": "has its data in another file: qemu-img convert -O qcow2 makes one image of both",
    "encrypted": "is encrypted, and nobody would give QEMU its key",
}


def faults(pillar: Any, root: Path = Path("/nowhere")) -> tuple[list[str], list[str]]:
    """Return the faults and the warnings of the files that a pillar names."""
    notes = Notes()
    check.check_media(spec.from_pillar(pillar).lab, Site("lab", str(root)), notes)
    return [str(each) for each in notes.faults], [str(each) for each in notes.warnings]


def with_disk(**disk: Any) -> dict[str, Any]:
    """Return the declaration of a machine with one disk."""
    return {"networks": {}, "vms": {"a": {"nics": [], "disks": [disk]}}}


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("kind", ["0.10", "1.1"])
def test_a_backing_image_that_stands_alone_is_taken(tmp_path: Path, kind: str) -> None:
    """Of either version of the format, through a link as well."""
    path = made(tmp_path, kind)
    link = tmp_path / "link.qcow2"
    link.symlink_to(path)
    for each in (path, link):
        assert faults(with_disk(backing=str(each))) == ([], [])
    assert qcow2.header(path) == qcow2.Header(2 * 2**20)


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_backing_image_that_a_machine_could_not_read_is_refused(
    tmp_path: Path, kind: str
) -> None:
    """By ``validate`` and so by the dry run, and by whoever applies the machine's state alone."""
    path = made(tmp_path, kind)
    pillar = with_disk(backing=str(path))
    said = f"lab:vms:a:disks:0:backing: {path} {REFUSED[kind]}"
    assert faults(pillar) == ([said], [])
    with pytest.raises(HostError) as refused:
        media.check(Site("lab", str(tmp_path)), "a", spec.from_pillar(pillar).lab.vms["a"])
    assert str(refused.value) == said


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize(("size", "whole"), [("60G", "60G"), ("51201M", "51201M")])
def test_a_disk_that_would_cut_its_backing_image_off_is_refused(
    tmp_path: Path, size: str, whole: str
) -> None:
    """With its declared size and with the default, 50G; one that was made so is told."""
    path = create(tmp_path / "base.qcow2", size=size)
    path.chmod(0o644)
    for disk, declared in (({}, "50G"), ({"size": "1M"}, "1M")):
        pillar = with_disk(backing=str(path), **disk)
        said = f"{declared} would cut off {path}, which has {whole}: declare size: {whole}"
        assert faults(pillar, tmp_path) == ([f"lab:vms:a:disks:0:size: {said}"], [])
    assert faults(with_disk(backing=str(path), size=whole), tmp_path) == ([], [])
    own = Site("lab", str(tmp_path)).layout.disk("a", "hda")
    own.parent.mkdir(parents=True)
    create(own)
    assert faults(with_disk(backing=str(path)), tmp_path) == (
        [],
        [
            f"lab:vms:a:disks:0:size: 50G would cut off {path}, which has {whole}: "
            f"declare size: {whole}"
        ],
    )


@given(data=st.binary(max_size=120))
def test_any_bytes_are_an_image_or_none(data: bytes) -> None:
    """Never an error, however an image is damaged."""
    for text in (data, qcow2.MAGIC + data):
        found = qcow2.parse(text)
        assert (found is not None) == (text[:4] == qcow2.MAGIC and len(text) >= 32)
