"""
Labs of QEMU machines: snapshots of the machines.
"""

from __future__ import annotations

from typing import Any

import _qemulab_apply_converge as converge
import _qemulab_apply_power as powers
import _qemulab_face as face
import _qemulab_vm_snapshots as snapshots
import _qemulab_vm_status as vm_status
from _qemulab_pillar_keys import Vm
from _qemulab_run_site import Site

__opts__: dict[str, Any]
__pillar__: dict[str, Any]
__context__: dict[str, Any]
__grains__: dict[str, Any]

__virtualname__ = "qemulab"


def __virtual__() -> str | tuple[bool, str]:
    return face.virtual(__grains__, __virtualname__)


def _site(lab: str | None = None) -> Site:
    return face.site(__opts__, __pillar__, __context__, lab)


def _defined(site: Site, name: str) -> Vm:
    face.need_name(name, "name")
    return powers.need_defined(site, name)


def vm_snapshot_list(name: str, lab: str | None = None) -> dict[str, dict[str, Any]]:
    """
    Return a machine's snapshots by their tags, the oldest first.

    name
        Name of the machine.

    lab
        Name of the lab. Default: the pillar's.

    Each has ``taken`` (the time, in UTC), ``memory`` (whether the machine ran) and ``complete``:
    ``False`` where one of its disks lacks it, since it was made later or the saving was
    interrupted.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.vm_snapshot_list master
    """
    with face.errors():
        site = _site(lab)
        return snapshots.summary(snapshots.survey(site, name, _defined(site, name)))


def vm_snapshot_save(name: str, tag: str, lab: str | None = None) -> dict[str, Any]:
    """
    Make a snapshot of a machine: disks and UEFI variables, and its memory where it runs.

    name
        Name of the machine.

    tag
        Name of the snapshot: begins with a letter; letters, digits, ``.``, ``_`` and ``-``. One
        that is there already is never replaced.

    lab
        Name of the lab. Default: the pillar's.

    A running machine stands still until its memory is written, then goes on. Returns what
    ``vm_snapshot_list`` says of the snapshot.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.vm_snapshot_save master installed
    """
    with face.errors():
        converge.need_root()
        site = _site(lab)
        return snapshots.save(site, name, tag, _defined(site, name))


def vm_snapshot_load(
    name: str, tag: str, memory: bool = True, lab: str | None = None
) -> dict[str, str]:
    """
    Put a machine back to where it was when a snapshot was made; what came after it is lost.

    name
        Name of the machine.

    tag
        Name of the snapshot.

    memory
        ``True`` (default): the machine runs on from there, and is started for it where it is off;
        it has to be declared as it was then. A snapshot of a machine that was off has no memory:
        it is put back while the machine is off. ``False``: put back the disks only, while the
        machine is off, whatever the snapshot has.

    lab
        Name of the lab. Default: the pillar's.

    Returns the machine's ``status``. What can be foreseen is refused with the machine as it was;
    where QEMU cannot read the memory, the machine is powered off, with the snapshot's disks.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.vm_snapshot_load master installed
    """
    with face.errors():
        converge.need_root()
        site = _site(lab)
        snapshots.load(site, name, tag, _defined(site, name), memory)
        return {"status": vm_status.find_status(site, name)[0].value}


def vm_snapshot_delete(name: str, tag: str, lab: str | None = None) -> bool:
    """
    Delete a snapshot of a machine; how the machine is now is not touched.

    name
        Name of the machine.

    tag
        Name of the snapshot.

    lab
        Name of the lab. Default: the pillar's.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.vm_snapshot_delete master installed
    """
    with face.errors():
        converge.need_root()
        site = _site(lab)
        snapshots.delete(site, name, tag, _defined(site, name))
        return True
