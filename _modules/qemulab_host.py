"""
Labs of QEMU machines: the host that is to have one.
"""

import _qemulab_doctor as physician
import _qemulab_face as face
import _qemulab_host_ports as host_ports
import _qemulab_spec as spec

__virtualname__ = "qemulab"


def __virtual__():
    if __grains__["kernel"] != "Linux":
        return False, "qemulab needs Linux"
    return __virtualname__


def _site(lab):
    return face.site(__opts__, __pillar__, __context__, lab)


def doctor(pillar=None):
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
        lab = spec.from_pillar(declared, lambda name: host_ports.ports(_site(name))).lab
        site = _site(lab.name)
        findings = physician.examine(lab, site)
        if any(finding.result == physician.FAIL for finding in findings):
            __context__["retcode"] = 1
        return [str(finding) for finding in findings]
