"""Images that a machine's process holds and that are no longer in their places."""

from __future__ import annotations

import os
from pathlib import Path

import _qemulab_pillar_spec as spec
import _qemulab_vm_lost_images as held
import pytest
from _qemulab_run_site import Site

VM = spec.vm_from("a", {"nics": [], "firmware": "bios"}, "lab", {})
"""With one disk, hda, and nothing else."""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a lab with a machine's disk, its state below a link."""
    real = tmp_path / "elsewhere"
    real.mkdir()
    (tmp_path / "var/lib").mkdir(parents=True)
    (tmp_path / "var/lib/qemulab").symlink_to(real)
    site = Site("lab", str(tmp_path))
    site.layout.disks("a").mkdir(parents=True)
    site.layout.disk("a", "hda").write_bytes(b"old")
    return site


def test_an_image_is_lost_once_it_is_gone_or_another(site: Site) -> None:
    """As long as it is where it was opened it is not; it can be read where the process has it."""
    path = site.layout.disk("a", "hda")
    with open(path, "rb"):
        for starting in (False, True):
            assert held.lost(site, "a", VM, os.getpid(), starting) == ()
        path.unlink()
        for replaced in (False, True):
            for started in (VM, None):
                (gone,) = held.lost(site, "a", started, os.getpid(), starting=True)
                assert gone.replaced == replaced
                assert Path(gone.held).read_bytes() == b"old"
            os.makedirs(path.parent, exist_ok=True)
            path.write_bytes(b"new")


def test_what_has_yet_to_open_its_images_has_lost_none(site: Site) -> None:
    """The script that becomes QEMU may check the images first; QEMU itself does hold them."""
    assert held.lost(site, "a", VM, os.getpid(), starting=True) == ()
    (gone,) = held.lost(site, "a", VM, os.getpid())
    assert gone.replaced and gone.held == ""
