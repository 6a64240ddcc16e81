"""What a purge takes, by its name, and what it leaves; directories that our user gets into."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import _qemulab_apply_lab as labs
import _qemulab_host_mounts as mounts
import _qemulab_host_owned as own
import _qemulab_host_seam as host
import pytest
from _qemulab_host_seam import HostError
from _qemulab_run_site import Site
from hypothesis import given
from hypothesis import strategies as st

OURS = (
    "lab/lab.json",
    "lab/.lab.json.ab_3defg",
    "lab/ssh/id_ed25519",
    "lab/ssh/.new.pub",
    "lab/ssh/.known_hosts.abcdefgh",
    "lab/networks/killed/dhcp/leases",
    "lab/networks/killed/etc/resolv.conf",
    "lab/networks/killed/.hosts.abcdefgh",
    "lab/networks/killed/resolv.conf",
    "lab/templates/blank-1048576.qcow2",
    "lab/vms/a/vm.json",
    "lab/vms/a/.launch.abcdefgh",
    "lab/vms/a/disks/hda.qcow2",
    "lab/vms/a/disks/.hdb.qcow2.new",
    "lab/vms/a/disks/.in-use",
)
FOREIGN = (
    ".snapshots/1/info.xml",
    ".Trash-0/files/x",
    "lost+found/#12",
    "guest/vmlinuz",
    "notes.txt",
    "backup/hda.qcow2",
    "lab/todo",
    "lab/.git/config",
    "lab/ssh/config",
    "lab/networks/killed/notes",
    "lab/vms/a/README",
    "lab/vms/a/.old/vm.json",
    "lab/vms/a/disks/lost+found/#1",
    "lab/vms/a/disks/hda.qcow2.bak",
)


def written(state: Path, names: tuple[str, ...]) -> None:
    """Write files below a directory."""
    for name in names:
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_text("{}")


def files(state: Path) -> list[str]:
    """Return every file below a directory."""
    return sorted(str(path.relative_to(state)) for path in state.rglob("*") if path.is_file())


@given(kept=st.sets(st.sampled_from(FOREIGN)))
def test_a_purge_takes_what_is_ours_and_leaves_the_rest(
    tmp_path_factory: pytest.TempPathFactory, kept: set[str]
) -> None:
    """Wherever a foreign file lies, hidden or not; without any, no directory is left either."""
    site = Site("lab", str(tmp_path_factory.mktemp("root")))
    state = site.layout.state
    written(state, (*OURS, *kept))
    own.remove_machine(site.layout, "a")
    labs.remove_files(site, purge=True)
    assert files(state) == sorted(kept)
    assert state.exists() == bool(kept)
    assert site.store.vm_directories() == []


def test_what_is_no_lab_is_counted_as_none(tmp_path: Path) -> None:
    """Of another lab it takes one thing that a lab has; its machines' disks are one."""
    site = Site("lab", str(tmp_path))
    written(site.layout.state, FOREIGN)
    assert site.other_labs() == ()
    written(site.layout.state, ("second/vms/b/disks/hda.qcow2", "third/lab.json"))
    assert site.other_labs() == ("second", "third")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o777])
def test_a_directory_is_open_to_our_user_whatever_the_umask_is(tmp_path: Path, umask: int) -> None:
    """Its parents as well; one that was there keeps its mode."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    before = os.umask(umask)
    try:
        host.make_directory(closed / "a/b/c", mode=0o710)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((closed / each).stat().st_mode) for each in (".", "a", "a/b", "a/b/c")]
    assert modes == [0o700, 0o755, 0o755, 0o710]


@pytest.mark.parametrize("there", ["file", "dangling link"])
def test_a_directory_is_not_made_over_something_else(tmp_path: Path, there: str) -> None:
    """That is told, and stays."""
    path = tmp_path / "x"
    if there == "file":
        path.write_text("kept")
    else:
        path.symlink_to("/nowhere/at/all")
    with pytest.raises(HostError, match="could not be made"):
        host.make_directory(path / "y")
    assert path.is_symlink() or path.read_text() == "kept"


def test_a_mount_point_is_found_in_what_is_to_be_removed() -> None:
    """Every process has /proc in its mounts, and nothing below its own entry there."""
    assert mounts.below(Path("/")) != ""
    assert mounts.below(Path("/proc")) == "/proc"
    assert mounts.below(Path("/proc/self")) == ""
