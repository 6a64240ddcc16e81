"""
Labs of QEMU machines: a lab as a whole, made ready, off and on, removed.
"""

from __future__ import annotations

from typing import Any

import _qemulab_apply_lab as labs
import _qemulab_face as face
import _qemulab_pillar_kinds as kinds
import _qemulab_pillar_spec as spec
import _qemulab_vm_access as access
from _qemulab_run_site import Site

__opts__: dict[str, Any]
__pillar__: dict[str, Any]
__context__: dict[str, Any]
__grains__: dict[str, Any]

__virtualname__ = "qemulab"


def __virtual__() -> str | tuple[bool, str]:
    return face.virtual(__grains__, __virtualname__)


def _site(lab: str | None) -> Site:
    return face.site(__opts__, __pillar__, __context__, lab)


def _known(lab: str | None) -> Site:
    site = _site(lab)
    face.need_lab(site, lab)
    return site


def lab_ensure(
    authorized_keys: list[str] | None = None, lab: str | None = None, test: bool = False
) -> dict[str, Any]:
    """
    Make what a lab needs before its first network: system user, SSH key, keys that may log in.

    authorized_keys
        Public SSH keys. Default: those of the user behind sudo.

    lab
        Name of the lab. Default: the pillar's.

    test
        Only say what would be done. Default ``False``.

    Returns what every ``*_ensure`` returns: ``changes``, ``pending`` and ``refused`` by key, each
    with old, new and effect; ``notes``; ``machines``.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.lab_ensure test=True
    """
    with face.errors():
        keys = spec.from_pillar({"authorized_keys": authorized_keys or []}).lab.authorized_keys
        return labs.ensure(_site(lab), keys, test)


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
        return labs.ensure_stopped(_known(lab), test)


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
        return labs.ensure_started(_known(lab), test)


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
        stopped, started = labs.restart(_known(lab))
        warnings = {"warnings": started["notes"]} if started["notes"] else {}
        return {"how": stopped["how"], "ssh": started["ssh"], **warnings}


def prune(
    vms: list[str],
    networks: list[str],
    mode: str = "report",
    lab: str | None = None,
    test: bool = False,
) -> dict[str, Any]:
    """
    Deal with what the lab has and the pillar no longer declares. No disk is ever removed.

    vms, networks
        Names that are declared.

    mode
        ``report`` (default) only names what is left; ``stop`` powers the machines off and takes
        the networks down.

    lab
        Name of the lab. Default: the pillar's.

    test
        Only say what would be done. Default ``False``.

    Returns what every ``*_ensure`` returns.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.prune '["master"]' '["vmlan"]'
    """
    with face.errors():
        site = _site(lab)
        face.need_names(vms, "vms")
        face.need_names(networks, "networks")
        face.need(kinds.choice("report", "stop"), mode, "mode")
        return labs.prune(site, vms, networks, mode, test)


def lab_remove(purge: bool = False, lab: str | None = None, test: bool = False) -> dict[str, Any]:
    """
    Take the lab itself away when its machines and networks are gone.

    purge
        Also remove its SSH key and its logs: no file of the lab is left. Default ``False``: what
        survives is the machines' disks and the key. The built-in guest always stays: it belongs to
        the host, and ``guest_remove`` removes it.

    lab
        Name of the lab. Default: the pillar's.

    test
        Only say what would be done. Default ``False``.

    Returns what every ``*_ensure`` returns. Raises CommandExecutionError where a machine or a
    network is left, or runs; with ``purge`` also where disks of a machine are (``vm_remove``).

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.lab_remove test=True
    """
    with face.errors():
        return labs.ensure_absent(_site(lab), purge, test)


def ssh_config(lab: str | None = None) -> str:
    """
    Return a configuration for ssh with every machine of the lab.

    lab
        Name of the lab. Default: the pillar's.

    CLI Example:

    .. code-block:: bash

        salt-call --out=txt qemulab.ssh_config | sed 's/^local: \\{0,1\\}//' > lab.ssh
        ssh -F lab.ssh master
    """
    with face.errors():
        site = _known(lab)
        vms = {name: site.store.vm(name)[0] for name in site.store.vms()}
        return access.ssh_config(site, {name: vm for name, vm in vms.items() if vm})
