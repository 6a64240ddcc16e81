"""
Links of the host's file system: a part of the seam.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from _qemulab_host_seam import HostError


def target(path: Path) -> str:
    """Return what a link says, empty where it is none."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def make(directory: Path, links: Mapping[str, str]) -> None:
    """
    Make a directory of ours hold links by name, and no others; files in it stay as they are.

    links
        What each is a link to.

    Raises HostError where the kernel refuses. Another apply may be at the same links.
    """
    try:
        for name in os.listdir(directory):
            path = directory / name
            if path.is_symlink() and links.get(name) != target(path):
                path.unlink(missing_ok=True)
        for name in links.keys() - set(os.listdir(directory)):
            with contextlib.suppress(FileExistsError):
                os.symlink(links[name], directory / name)
    except OSError as err:
        raise HostError(f"{directory} could not be written: {err.strerror}") from err
