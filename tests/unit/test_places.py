"""Whether a lab's processes get at its directories: hidden, closed, behind a link."""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path

import _qemulab_run_reach as places
from _qemulab_run_site import Site
from hypothesis import given
from hypothesis import strategies as st

NOBODY = 2**32 - 1
"""The ID of an entry of an ACL that is about nobody by name. Source: linux/posix_acl_xattr.h"""
PART = st.text("abc.-", min_size=1, max_size=5).filter(lambda part: part.strip("."))


@given(parts=st.lists(PART, min_size=1, max_size=3), name=st.sampled_from(places.HIDDEN))
def test_what_lies_below_a_hidden_directory_is_told_and_its_namesake_is_not(
    parts: list[str], name: str
) -> None:
    """By whole parts of the path, there or not."""
    inside = Path(name).joinpath("x", *parts)
    assert places.hidden(inside) == name and places.hidden(Path(name)) == name
    assert places.hidden(Path("/srv").joinpath(*parts)) == ""
    assert places.hidden(Path(f"{name}x").joinpath(*parts)) in ("", "/tmp", "/var/tmp")


def test_a_link_is_followed_wherever_it_stands(tmp_path: Path) -> None:
    """The root's own, or one further down; whether what it leads to is there or not."""
    for link in ("root", "a/b"):
        path = tmp_path / link
        path.parent.mkdir(exist_ok=True)
        path.symlink_to("/home/nobody/there")
        assert places.hidden(path / "var/lib/qemulab") == "/home"


def test_a_directory_that_our_user_does_not_get_through_is_named() -> None:
    """The first one on the way; those that are not there yet do not count."""
    # pytest's own directories are closed themselves.
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)
        disks = Site("lab", directory).layout.disks("a")
        assert places.closed(disks) == ""
        disks.mkdir(parents=True)
        for shut in (root, root / "var/lib", disks.parent):
            shut.chmod(0o700)
            assert places.closed(disks) == str(shut)
            shut.chmod(0o711)
            assert places.closed(disks) == ""


def test_a_list_of_users_is_believed_where_the_mode_does_not_tell() -> None:
    """A directory that is closed but to those whom its ACL names."""
    entries = [(0x01, 7, NOBODY), (0x02, 1, 12345), (0x04, 0, NOBODY), (0x10, 1, NOBODY)]
    entries.append((0x20, 0, NOBODY))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "x"
        assert places.closed(path) == directory
        os.setxattr(directory, "system.posix_acl_access", acl)
        assert places.closed(path) == ""
