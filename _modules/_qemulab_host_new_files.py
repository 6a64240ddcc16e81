"""
Files that are made once, under a temporary name, and then get their own. Part of the seam.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import _qemulab_host_seam as host
from _qemulab_host_seam import HostError

UNFINISHED = ".new"
"""How the name of a file ends that has not its own yet."""


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Give a name beside a file's own to make it under; nothing of it is left in the end."""
    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        host.remove(temporary)
        yield temporary
    finally:
        host.remove(temporary)


def remove_unfinished(directory: Path) -> None:
    """Remove what an apply that was killed has left; the lock of who makes files there is held."""
    for file in host.list_directory(directory, hidden=True):
        if file.startswith(".") and file.endswith(UNFINISHED):
            host.remove(directory / file)


def publish(temporary: Path, path: Path) -> None:
    """Give a finished file its name, and our user it; one that is there by then is not replaced."""
    try:
        os.chmod(temporary, 0o600)
        os.chown(temporary, *host.user_ids(host.USER))
        host.sync_file(temporary)
        os.link(temporary, path)
    except FileExistsError as err:
        raise HostError(f"{path} has just been made by somebody else") from err
    except OSError as err:
        raise HostError(f"{path} could not be made: {err.strerror}") from err
    host.sync_directory(path.parent)


def copy(source: Path, path: Path) -> None:
    """Make a file as a copy of another, under a temporary name, then give it its own."""
    with unfinished(path) as temporary:
        try:
            with open(source, "rb") as old, open(temporary, "xb") as new:
                shutil.copyfileobj(old, new)
        except OSError as err:
            raise HostError(f"{path} could not be made: {err.strerror}") from err
        publish(temporary, path)


def rename(temporary: Path, path: Path) -> None:
    """Give a finished file its name; root's it stays, and what had the name is gone."""
    host.sync_file(temporary)
    os.rename(temporary, path)
