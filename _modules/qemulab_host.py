"""
Labs of QEMU machines: the host that is to have one.
"""

import os

import _qemulab_doctor as physician
import _qemulab_face as face
import _qemulab_host as host
import _qemulab_host_ports as host_ports
import _qemulab_look as looks
import _qemulab_plan_lab as plan_lab
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


def guest_remove(lab=None, test=False):
    """
    Remove the built-in guest's image, which all labs of this host share.

    A purge leaves it, so that the next lab needs no network. After this one, the next lab that
    boots it builds it again.

    lab
        Name of the lab; the image is the same for all of a host.

    test
        Only say what would be done. Default ``False``.

    Returns what every ``*_ensure`` returns. Raises CommandExecutionError where a machine runs that
    boots it, of whichever lab: its supervisor could not start it again.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.guest_remove
    """
    with face.errors():
        site = _site(lab)
        target = site.layout.guest

        def look():
            built = os.path.lexists(target)
            users = looks.guest_users(site) if built else []
            if users:
                problem = f"the built-in guest is in use by {', '.join(users)}"
                raise host.HostError(problem, hint="stop them first: salt-call qemulab.vm_stop")
            return plan_lab.plan_guest_absent(built)

        def act(_plan):
            host.remove(target)
            host.remove_empty(site.layout.state)

        return face.converge(site, look, act, test)
