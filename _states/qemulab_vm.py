"""
Labs of QEMU machines: the machines.
"""

from __future__ import annotations

from typing import Any

import _qemulab_row as rows
import _qemulab_state as shape
from salt.utils.state import gen_tag

__opts__: dict[str, Any]
__running__: dict[str, Any]
__salt__: dict[str, Any]
__states__: dict[str, Any]

__virtualname__ = "qemulab"


def __virtual__() -> str | tuple[bool, str]:
    if "qemulab.vm_info" in __salt__:
        return __virtualname__
    return False, "the execution module qemulab is not there"


def vm_present(name: str, lab: str | None = None, **declaration: Any) -> dict[str, Any]:
    """
    Ensure that a machine is defined and has its disks; it is neither started nor stopped.

    name
        Name of the machine.

    lab
        Name of the lab. Default: the pillar's.

    declaration
        Any key that stands under ``lab:vms:NAME`` in the pillar.

    .. code-block:: yaml

        master:
          qemulab.vm_present:
            - memory: 4096
            - disks:
              - size: 50G
    """
    declared = shape.declaration(declaration)
    return shape.conclude(
        shape.Run(__salt__, __opts__, f"vm:{name}"),
        name,
        lambda: __salt__["qemulab.vm_ensure"](name, declared, lab=lab, test=__opts__["test"]),
        already=f"{name} is already as declared",
        would=f"{name} would be made as declared",
        has=f"{name} has been made as declared",
    )


def vm_running(name: str, lab: str | None = None, **declaration: Any) -> dict[str, Any]:
    """
    Ensure that a machine is as declared and runs.

    name
        Name of the machine.

    lab
        Name of the lab. Default: the pillar's.

    declaration
        Any key that stands under ``lab:vms:NAME`` in the pillar.

    The comment ends with the command that logs in to it. Machines whose states follow one another
    at once, and do not require each other, are started together; each state then waits for its own.

    .. code-block:: yaml

        master:
          qemulab.vm_running:
            - memory: 4096
            - nics:
              - network: vmlan
                mac: '00:00:00:11:11:11'
              - network: user
                forwards:
                  - host_port: 10022
    """
    declared = shape.declaration(declaration)
    row = rows.following(globals(), {"vm_running"})
    together = {each.name: each.declaration for each in row}
    return shape.conclude(
        shape.Run(__salt__, __opts__, f"vm:{name}"),
        name,
        lambda: __salt__["qemulab.vm_ensure"](
            name, declared, "running", lab=lab, test=__opts__["test"], together=together
        ),
        already=f"{name} is already running",
        would=f"{name} would be made to run as declared",
        has=f"{name} has been made to run as declared",
    )


def vm_stopped(name: str, lab: str | None = None) -> dict[str, Any]:
    """
    Ensure that a machine is off.

    name
        Name of the machine.

    lab
        Name of the lab. Default: the pillar's.

    Machines whose states follow one another at once, and do not require each other, hear their
    power buttons together; each state then waits for its own.

    .. code-block:: yaml

        worker2:
          qemulab.vm_stopped: []
    """
    together = [each.name for each in rows.following(globals(), {"vm_stopped"})]
    return shape.conclude(
        shape.Run(__salt__, __opts__, f"vm:{name}"),
        name,
        lambda: __salt__["qemulab.vm_power_off"](
            name, lab=lab, test=__opts__["test"], together=together
        ),
        already=f"{name} is already stopped",
        would=f"{name} would be stopped",
        has=f"{name} has been stopped",
    )


def vm_absent(name: str, purge: bool = False, lab: str | None = None) -> dict[str, Any]:
    """
    Ensure that a machine is not there.

    name
        Name of the machine.

    purge
        Remove its disks as well. Default ``False``: they are kept.

    lab
        Name of the lab. Default: the pillar's.

    Machines are powered off together as by ``vm_stopped``.

    .. code-block:: yaml

        worker2:
          qemulab.vm_absent:
            - purge: True
    """
    row = rows.following(globals(), {"vm_absent"})
    # A machine that is named twice is for the first of the two.
    together = {each.name: each.declaration.get("purge", False) for each in reversed(row)}
    kept = "" if purge else "; its disks are kept"
    return shape.conclude(
        shape.Run(__salt__, __opts__, f"vm:{name}"),
        name,
        lambda: __salt__["qemulab.vm_remove"](
            name, purge=purge, lab=lab, test=__opts__["test"], together=together, known=False
        ),
        already=f"{name} is already absent",
        would=f"{name} would be removed{kept}",
        has=f"{name} has been removed{kept}",
    )


def mod_watch(name: str, sfun: str, lab: str | None = None, **declaration: Any) -> dict[str, Any]:
    """
    Take up that something which a state of qemulab watches has changed.

    name, sfun, lab
        The state's name, its function, and its lab.

    declaration
        The state's other arguments.

    Only ``vm_running`` makes more of it than of a ``require``, and only where what changed is no
    state of qemulab: a machine with ``on_change: restart`` is then restarted, another one warns.
    A network restarts the machines on it by itself, where its change needs that and it may.

    .. code-block:: yaml

        master:
          qemulab.vm_running:
            - cdrom: /srv/iso/installer.iso
            - on_change: restart
            - watch:
              - file: /srv/iso/installer.iso
    """
    watched = declaration.pop("__reqs__", {}).get("watch", ())
    ret: dict[str, Any] = __states__[f"qemulab.{sfun}"](name, lab=lab, **declaration)
    foreign = [low for low in watched if low["state"] != "qemulab"]
    changed = [low for low in foreign if __running__.get(gen_tag(low), {}).get("changes")]
    if sfun != "vm_running" or not changed or ret["result"] is not True:
        return ret
    what = ", ".join(f"{low['state']} {low['name']}" for low in changed)
    if declaration.get("on_change") != "restart":
        how = "qemulab.vm_restart, or on_change: restart"
        shape.warn(ret, [f"{what} changed: {name} waits for a restart ({how})"])
        return ret

    def act() -> dict[str, Any]:
        if not __opts__["test"]:
            __salt__["qemulab.vm_restart"](name, lab=lab)
        changes = {"watch": {"old": None, "new": what, "effect": "restart"}}
        where = __salt__["qemulab.vm_info"](name, lab=lab)["lab"]
        return {"changes": changes, "pending": {}, "refused": {}, "notes": [], "lab": where}

    return shape.conclude(
        shape.Run(__salt__, __opts__, f"vm:{name}"),
        name,
        act,
        already=f"{name} is already running",
        would=f"{name} would be restarted",
        has=f"{name} has been restarted",
    )
