"""
Images that are no longer where a running machine's QEMU has opened them: removed, or replaced by
another file. What is on them is lost with that process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import _qemulab_host_process as process
import _qemulab_vm_launch as launch
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Vm
from _qemulab_run_site import Site


class Lost(NamedTuple):
    """
    An image that only a process holds.

    path
        Where it was.

    replaced
        Whether another file is there now.

    held
        Where the process's own can be read as long as it runs; empty where that cannot be told.
    """

    path: str
    replaced: bool
    held: str = ""

    @property
    def says(self) -> str:
        """What has become of it, in words."""
        how = "has been replaced by another file" if self.replaced else "is gone"
        return f"{self.path} {how}, and what was on it is in {self.held or 'QEMU'} alone"


def lost(
    site: Site, name: str, started: Vm | None, pid: int, starting: bool = False
) -> tuple[Lost, ...]:
    """
    Return the images of a running machine that are gone from their places.

    started
        What it was started with; ``None`` where nothing of its files is left: then every image
        that it holds open is looked at.

    pid
        Its process. Where that may not be asked, as by somebody who is not root, a missing file
        is all that is seen.

    starting
        Whether its QEMU is not heard yet. A process that holds none of its images by then has yet
        to open them: it is the script that becomes QEMU. Default ``False``.
    """
    opened = process.open_files(pid)
    # The kernel names files by where links lead to.
    directory = os.path.realpath(site.layout.disks(name))
    own = {path: where for path, where in opened.values() if path.startswith(f"{directory}/")}
    if starting and not own:
        return ()
    paths = list(map(Path, own)) if started is None else launch.images(site, name, started)
    found = []
    for path in sorted(paths):
        try:
            now = os.lstat(path)
        except PermissionError:
            continue  # whether it is there is not for everybody to see
        except OSError:
            now = None
        if now is None or (opened and (now.st_dev, now.st_ino) not in opened):
            found.append(Lost(str(path), now is not None, own.get(f"{directory}/{path.name}", "")))
    return tuple(found)


def need_none(name: str, gone: Sequence[Lost]) -> None:
    """Raise HostError where a machine holds images that are gone from their places."""
    if gone:
        where = gone[0].held or "it"
        hint = (
            f"copy {where} while the machine runs, or give it up (qemulab.vm_restart {name} "
            "lose_data=True): the next start takes what is in its place by then, or a new disk"
        )
        raise HostError(f"{name} runs on what is lost with it: {gone[0].says}", hint=hint)
