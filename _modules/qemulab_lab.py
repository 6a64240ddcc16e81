"""
Labs of QEMU machines: all machines of a lab off, and on again.
"""

import contextlib

import _qemulab_face as face
import _qemulab_host as host
import _qemulab_look as looks
import _qemulab_network as networks
import _qemulab_plan_lab as plan_lab
import _qemulab_power as powers
import _qemulab_schema as schema
import _qemulab_vm as machines
import _qemulab_vm_held as held
from _qemulab_plan_network import plan_network
from _qemulab_plan_vm import plan_vm_stopped

__virtualname__ = "qemulab"


def __virtual__():
    if __grains__["kernel"] != "Linux":
        return False, "qemulab needs Linux"
    return __virtualname__


def _site(lab):
    site = face.site(__opts__, __pillar__, __context__, lab)
    face.need_lab(site, lab)
    return site


def lab_stop(lab=None, test=False):
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
        site = _site(lab)
        how = {}

        def look():
            site.answers.forget()
            runs = {name: looks.runs(site, name) for name in site.store.vms()}
            gone = [image.says for name in runs if runs[name] for image in looks.lost(site, name)]
            return plan_lab.plan_lab_stopped(runs)._replace(notes=tuple(gone))

        def act(plan):
            names = plan.below("vms")
            off = plan_vm_stopped(True)
            machines.press_together(site, names, lambda _name: off)
            for name in names:
                how[name] = __salt__["qemulab.vm_stop"](name, lab=site.lab)["how"]

        return {**face.converge(site, look, act, test), "how": how}


def lab_start(lab=None, test=False):
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
        site = _site(lab)
        defined = {name: schema.compact(site.store.vm(name)[0]) for name in site.store.vms()}
        ssh = {}

        def look():
            site.answers.forget()
            plans = {name: _network_plan(site, name) for name in site.store.networks()}
            vms = {name: looks.look(site, name)[0] for name in defined}
            down = [name for name in plans if plans[name].changes]
            plan = plan_lab.plan_lab_started(down, vms)
            off = [name for name in vms if vms[name].is_off]
            unlike = [f"{name}: {text}" for name in off for text in _unlike(site, name)]
            return plan._replace(notes=(*plan.notes, *unlike))

        def act(plan):
            for name in plan.below("networks"):
                __salt__["qemulab.network_ensure"](name, _network(site, name), lab=site.lab)
            names = plan.below("vms")
            for number, name in enumerate(names):
                others = {other: defined[other] for other in names[number + 1 :]}
                made = __salt__["qemulab.vm_ensure"](
                    name, defined[name], "running", lab=site.lab, together=others
                )
                ssh[name] = made["ssh"] or None

        return {**face.converge(site, look, act, test), "ssh": ssh}


def _unlike(site, name):
    """Return in words what a machine that is off will not find as it was."""
    # Disks are for root to see, and what keeps a machine from starting its own start will tell.
    with contextlib.suppress(host.HostError):
        if host.is_root():
            return powers.unlike_before(site, name, site.store.vm(name)[0])
    return []


def _network(site, name):
    """Return a network as applied, as its state takes it."""
    keys = schema.compact(site.store.network(name))
    keys.pop("reservations", None)
    return keys


def _network_plan(site, name):
    """Return what a network lacks to be as it was applied."""
    defined = site.store.network(name)
    return plan_network(networks.facts(site, name), defined)


def lab_restart(lab=None):
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
        site = _site(lab)
        for name in site.store.vms():
            held.need_none(name, looks.lost(site, name))
    how = lab_stop(lab)["how"]
    started = lab_start(lab)
    warnings = {"warnings": started["notes"]} if started["notes"] else {}
    return {"how": how, "ssh": started["ssh"], **warnings}
