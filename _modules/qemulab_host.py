"""
Labs of QEMU machines: the host that is to have one.
"""

from __future__ import annotations

from typing import Any

import _qemulab_check_doctor as check_doctor
import _qemulab_face as face
import _qemulab_pillar_spec as spec
import _qemulab_vm_ports as vm_ports
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


def doctor(pillar: Any = None) -> list[str]:
    """
    Examine this host with a declaration in hand: can it have that lab, and what stands in the way?

    pillar
        What stands under ``lab`` in a pillar. Default: this minion's.

    Returns a line for each check, ``fail``, ``warn`` or ``ok``, what to do first at the top. Looked
    at are packages, supervisor, virtualization, TUN, multicast, memory, disk space, addresses,
    ports with their owners, other DHCP and DNS servers, the firewall, denials of AppArmor and
    SELinux, machines that run and whose Linux has panicked. Nothing is changed. The exit status of
    ``./salt-call`` is 1 where a check fails. Raises CommandExecutionError for a faulty declaration.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.doctor
    """
    with face.errors():
        declared = __pillar__.get("lab") if pillar is None else pillar
        lab = spec.from_pillar(declared, lambda name: vm_ports.ports(_site(name))).lab
        site = _site(lab.name)
        findings = check_doctor.examine(lab, site)
        if any(finding.result == check_doctor.FAIL for finding in findings):
            __context__["retcode"] = 1
        return [str(finding) for finding in findings]
