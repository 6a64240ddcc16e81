"""The number of a machine's hardware: chosen once, and built by for as long as its disks are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import _qemulab_host_probe as probe
import _qemulab_host_seam as host
import _qemulab_vm_command as command
import _qemulab_vm_disks as disks
import _qemulab_vm_hardware as hardware
import _qemulab_vm_launch as launch
import _qemulab_vm_power as power
import _qemulab_vm_snapshots as snapshots
import pytest
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Vm
from _qemulab_run_site import Site

VM = Vm(firmware="bios", boot="disk", accel="tcg", disks=(), nics=())
OTHER = ["-device", "other"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Give a lab on a host that has a QEMU, and whose user we are."""
    monkeypatch.setattr(probe, "binary", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(host, "USER", None)
    return Site("lab", str(tmp_path))


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give a release whose newest hardware is number 2."""
    monkeypatch.setitem(command.HARDWARE, 2, lambda vm, around: OTHER)
    yield


def made(site: Site, name: str) -> list[str]:
    """Make a machine, and return the command line that it is started with."""
    disks.make_images(site, {name: VM})
    site.store.keep_vm(name, VM, None)
    return launch.argv(site, name, VM)


def test_a_machine_keeps_the_hardware_that_it_was_made_with(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the letter, whatever later releases know; what they make has the newest."""
    before = made(site, "old")
    assert site.layout.hardware_file("old").read_text() == "1\n"
    monkeypatch.setitem(command.HARDWARE, 2, lambda vm, around: OTHER)
    assert made(site, "old") == before
    assert launch.argv(site, "old", VM) == before
    new = made(site, "new")
    assert hardware.find(site, "new") == 2
    # How a machine is talked to is nothing that its guest knows: that is every release's own.
    assert new[-len(OTHER) :] == OTHER and "-mon" in new and "-machine" not in new


def test_what_keeps_no_number_has_the_first(site: Site, newer: None) -> None:
    """It was made by 0.1.0: as it was defined there, or as its disks were left."""
    site.store.keep_vm("defined", VM, None)
    site.layout.disks("disks").mkdir(parents=True)
    site.layout.disk("disks", "hda").write_bytes(b"")
    for name in ("defined", "disks"):
        assert hardware.find(site, name) == 1
        disks.make_images(site, {name: VM})
        assert site.layout.hardware_file(name).read_text() == "1\n"
    assert hardware.find(site, "nothing") == 2


def test_hardware_of_a_newer_release_is_refused(site: Site) -> None:
    """Before anything is made or changed, by the dry run too, in a sentence."""
    made(site, "a")
    hardware.keep(site, {"a": 7})
    for act in (
        lambda: power.check_host(site, "a", VM, VM),
        lambda: launch.surroundings(site, "a", VM),
    ):
        with pytest.raises(HostError) as refusal:
            act()
        assert str(refusal.value).startswith("a newer qemulab has made a: its hardware is number 7")
        assert "this release knows none above 1" in str(refusal.value)
    assert hardware.find(site, "a") == 7


def test_the_number_is_kept_before_there_is_a_disk(
    site: Site, newer: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in between, a new machine would have a disk and no number: hardware of 0.1.0."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(disks, "make_templates", lambda *_: None)
    monkeypatch.setattr(disks, "ThreadPoolExecutor", killed)
    with pytest.raises(KeyboardInterrupt):
        disks.make_images(site, {"a": Vm()})
    assert site.layout.hardware_file("a").read_text() == "2\n"


@pytest.mark.parametrize("text", ["", "one\n"])
def test_what_is_no_number_is_told(site: Site, text: str) -> None:
    """Nobody guesses what an installed system has seen."""
    made(site, "a")
    site.layout.hardware_file("a").write_text(text)
    with pytest.raises(HostError, match="hardware is damaged: it holds no number"):
        hardware.find(site, "a")


def test_the_number_stays_with_the_disks(site: Site) -> None:
    """And goes where nothing else of a machine is left."""
    made(site, "a")
    hardware.forget(site, "a")
    assert site.layout.hardware_file("a").exists()
    site.layout.vm_file("a").unlink()
    hardware.forget(site, "a")
    assert not site.layout.hardware_file("a").exists()


def test_memory_belongs_to_hardware_of_one_number(site: Site, newer: None) -> None:
    """A snapshot of 0.1.0 names none: the first."""
    made(site, "a")
    snapshots.remember(site, "a", "tag", VM)
    snapshots.need_same(site, "a", "tag", VM)
    hardware.keep(site, {"a": 1})
    with pytest.raises(HostError, match="a is another machine than in tag: hardware 2 -> 1"):
        snapshots.need_same(site, "a", "tag", VM)
    path = site.layout.snapshots_file("a")
    kept = host.read_json(path)
    assert kept is not None and kept["tag"].pop("hardware") == 2
    host.write_json(path, kept)
    snapshots.need_same(site, "a", "tag", VM)
