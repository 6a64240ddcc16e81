"""Images in their places: read by their headers, made under another name, nobody else's."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import _qemulab_host_new_files as once
import _qemulab_vm_disks as disks
import pytest
from _qemulab_host_seam import HostError
from _qemulab_run_site import Site

MIB = 2**20


def header(size: int) -> bytes:
    """Return the beginning of a qcow2 image of a size."""
    return b"QFI\xfb" + struct.pack(">I", 3) + bytes(16) + struct.pack(">Q", size)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a lab below a directory of the test's own, with an image each for two machines."""
    site = Site("lab", str(tmp_path))
    for name in ("a", "b"):
        site.layout.disks(name).mkdir(parents=True)
        site.layout.disk(name, "hda").write_bytes(header(MIB))
    return site


def test_sizes_are_read_from_the_headers(site: Site) -> None:
    """The UEFI variables are no disk; nor is what has no name yet."""
    site.layout.disk("a", "data").write_bytes(header(3 * MIB))
    site.layout.uefi_variables("a").write_bytes(header(MIB))
    (site.layout.disks("a") / ".hdc.qcow2.new").write_bytes(b"")
    assert disks.disk_sizes(site, "a") == {"hda": MIB, "data": 3 * MIB}
    assert disks.disk_sizes(site, "nobody") == {}
    assert disks.image_size(site.layout.disk("a", "hdx")) is None


@pytest.mark.parametrize("text", [b"", b"QFI\xfb", bytes(512), b"QFI\xfa" + bytes(60)])
def test_another_format_is_refused(site: Site, text: bytes) -> None:
    """With what to do; where only its name matters, it is no obstacle."""
    site.layout.disk("a", "hda").write_bytes(text)
    with pytest.raises(HostError, match="hda.qcow2 is not a qcow2 image\nmove it away, or convert"):
        disks.disk_sizes(site, "a")
    assert disks.disk_sizes(site, "a", strict=False) == {"hda": 0}


def test_a_link_is_not_followed(site: Site) -> None:
    """Wherever it leads to, or nowhere."""
    path = site.layout.disk("a", "hda")
    for target in (site.layout.disk("b", "hda"), Path("/nowhere")):
        path.unlink()
        path.symlink_to(target)
        with pytest.raises(HostError, match="is a symbolic link"):
            disks.disk_sizes(site, "a")


def test_one_file_is_not_two_disks(site: Site) -> None:
    """A hard link to another machine's disk is refused; one from a backup is nobody's business."""
    path = site.layout.disk("a", "hda")
    os.link(path, site.layout.root / "backup.qcow2")
    os.link(path, site.layout.disks("a") / ".hda.qcow2.new")  # an apply was killed in between
    assert disks.disk_sizes(site, "a") == {"hda": MIB}
    site.layout.disk("b", "hda").unlink()
    os.link(path, site.layout.disk("b", "hda"))
    for name in ("a", "b"):
        with pytest.raises(HostError, match="are one file"):
            disks.disk_sizes(site, name)


def test_whose_disk_a_path_is(site: Site) -> None:
    """Through links as well."""
    link = site.layout.root / "link"
    link.symlink_to(site.layout.disk("a", "hda"))
    for path in (link, site.layout.disk("b", "hda")):
        assert disks.is_a_machines(site.layout, str(path))
    assert not disks.is_a_machines(site.layout, str(site.layout.root / "base.qcow2"))
    real = site.layout.root / "elsewhere"
    site.layout.state.rename(real)
    site.layout.state.symlink_to(real)
    for path in (link, real / "lab/vms/b/disks/hda.qcow2"):
        assert disks.is_a_machines(site.layout, str(path))


def test_what_is_unfinished_goes(tmp_path: Path) -> None:
    """Whether its maker fails, or left it behind long ago."""
    path = tmp_path / "hda.qcow2"
    with pytest.raises(ZeroDivisionError), once.unfinished(path) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    for name in (".hda.qcow2.new", "mine.new", ".profile"):
        (tmp_path / name).touch()
    once.remove_unfinished(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".profile", "mine.new"]


def test_a_copy_never_replaces_or_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is another user's: nothing it puts in the way is written through."""
    (tmp_path / "template").write_bytes(b"new")
    (tmp_path / "precious").write_bytes(b"old")
    (tmp_path / ".hda.new").symlink_to(tmp_path / "precious")
    monkeypatch.setattr(disks.host, "remove", lambda path: None)
    with pytest.raises(HostError, match="hda could not be made: File exists"):
        once.copy(tmp_path / "template", tmp_path / "hda")
    assert (tmp_path / "precious").read_bytes() == b"old"
