"""
Labs of QEMU machines: all machines of a lab off, and on again.
"""

from __future__ import annotations

from typing import Any

import _qemulab_apply_lab as labs
import _qemulab_face as face
from _qemulab_run_site import Site

__opts__: dict[str, Any]
__pillar__: dict[str, Any]
__context__: dict[str, Any]
__grains__: dict[str, Any]

__virtualname__ = "qemulab"


def __virtual__() -> str | tuple[bool, str]:
    if __grains__["kernel"] != "Linux":
        return False, "qemulab needs Linux"
    return __virtualname__


def _site(lab: str | None) -> Site:
    site = face.site(__opts__, __pillar__, __context__, lab)
    face.need_lab(site, lab)
    return site


def lab_stop(lab: str | None = None, test: bool = False) -> dict[str, Any]:
    """
    Power all machines of a lab off, together; its networks stay, and so does every disk.

    lab
        Name of the lab. Default: the pillar's.

    test
        Only say what would be done. Default ``False``.

    What the machines are is read from what was applied, whatever the pillar says. Returns what
    every ``*_ensure`` returns; ``how`` has, for each machine, one of ``vm_stop``'s words.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.lab_stop
    """
    with face.errors():
        return labs.ensure_stopped(_site(lab), test)


def lab_start(lab: str | None = None, test: bool = False) -> dict[str, Any]:
    """
    Start all networks and machines of a lab as they were last applied.

    lab
        Name of the lab. Default: the pillar's.

    test
        Only say what would be done. Default ``False``.

    What the machines are is read from what was applied, whatever the pillar says. What is paused
    runs on, and what is dead is powered off and on, as by ``vm_start``. Returns what every
    ``*_ensure`` returns; ``ssh`` has, for each machine, the command that logs in.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.lab_start
    """
    with face.errors():
        return labs.ensure_started(_site(lab), test)


def lab_restart(lab: str | None = None) -> dict[str, Any]:
    """
    Power all machines of a lab off and on, as they were last applied: what is pending takes effect.

    lab
        Name of the lab. Default: the pillar's.

    Machines that are off are started as well. Raises CommandExecutionError, and stops none, where a
    machine alone holds a disk whose file is gone: ``vm_restart`` gives that up.

    Returns ``how`` of ``lab_stop``, and ``ssh`` of ``lab_start``; as ``warnings`` what is not as it
    was, as ``vm_start`` does.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.lab_restart
    """
    with face.errors():
        stopped, started = labs.restart(_site(lab))
        warnings = {"warnings": started["notes"]} if started["notes"] else {}
        return {"how": stopped["how"], "ssh": started["ssh"], **warnings}
