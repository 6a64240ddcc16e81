"""
Labs of QEMU machines: the lab as a whole.
"""

from __future__ import annotations

from typing import Any

import _qemulab_state as shape

__opts__: dict[str, Any]
__salt__: dict[str, Any]

__virtualname__ = "qemulab"


def __virtual__() -> str | tuple[bool, str]:
    if "qemulab.validate" in __salt__:
        return __virtualname__
    return False, "the execution module qemulab is not there"


def declared(name: str, pillar: Any = None, faults: list[str] | None = None) -> dict[str, Any]:
    """
    Ensure that a declaration is without fault. Nothing is ever changed.

    name
        For the state's own use.

    pillar
        What stands under ``lab`` in a pillar. Default: this minion's. An empty one does nothing,
        says so, and names what runs on.

    faults
        What the host had against it when the states were rendered: no other one was. Default: none.

    Every other state requires it: a faulty declaration stops them all, and all its faults are
    told at once.

    .. code-block:: yaml

        lab-declared:
          qemulab.declared: []
    """
    found: dict[str, Any] = {}

    def act() -> dict[str, Any]:
        found.update(__salt__["qemulab.lab_check"](pillar))
        return {"changes": {}, "pending": {}, "refused": {}, "notes": found["warnings"]}

    good = "the declaration is without fault"
    run = shape.Run(__salt__, __opts__, "lab")
    ret = shape.conclude(run, name, act, already=good, would=good, has=good)
    if faults and ret["result"] is True:
        # The other states are not there; a run that leaves them out must not end in success.
        gone = "this was in the way when the states were rendered, and is no more: apply again"
        return {**ret, "result": False, "comment": "\n".join([*faults, gone])}
    if found.get("empty"):
        nothing = "the pillar declares no network and no machine: nothing is done"
        ret["comment"] = ret["comment"].replace(good, "\n".join([nothing, *found["runs"]]), 1)
    return ret


def present(
    name: str, authorized_keys: list[str] | None = None, lab: str | None = None
) -> dict[str, Any]:
    """
    Ensure that a lab has what it needs before its first network: system user and SSH key.

    name
        For the state's own use.

    authorized_keys
        Public SSH keys that the built-in guest lets in, beside the lab's own. Default: those of
        the user behind sudo.

    lab
        Name of the lab. Default: the pillar's.

    .. code-block:: yaml

        lab-present:
          qemulab.present:
            - authorized_keys:
              - ssh-ed25519 AAAA... me@laptop
    """
    return shape.conclude(
        shape.Run(__salt__, __opts__, "lab"),
        name,
        lambda: __salt__["qemulab.lab_ensure"](authorized_keys, lab=lab, test=__opts__["test"]),
        already="the lab is already present",
        would="the lab would be made",
        has="the lab has been made",
    )


def guest_present(name: str, lab: str | None = None) -> dict[str, Any]:
    """
    Ensure that the built-in guest's image is built.

    name
        For the state's own use.

    lab
        Name of the lab; the image is the same for all of a host.

    .. code-block:: yaml

        lab-guest:
          qemulab.guest_present: []
    """
    return shape.conclude(
        shape.Run(__salt__, __opts__, "guest"),
        name,
        lambda: __salt__["qemulab.guest_ensure"](lab=lab, test=__opts__["test"]),
        already="the built-in guest is already built",
        would="the built-in guest would be built",
        has="the built-in guest has been built",
    )


def guest_absent(name: str, lab: str | None = None) -> dict[str, Any]:
    """
    Ensure that the built-in guest's image is not there. A lab that boots it builds it again, for
    which it needs the packages' server.

    name
        For the state's own use.

    lab
        Name of the lab; the image is the same for all of a host.

    .. code-block:: yaml

        no-guest:
          qemulab.guest_absent: []
    """
    return shape.conclude(
        shape.Run(__salt__, __opts__, "guest"),
        name,
        lambda: __salt__["qemulab.guest_remove"](lab=lab, test=__opts__["test"]),
        already="the built-in guest is already absent",
        would="the built-in guest would be removed",
        has="the built-in guest has been removed",
    )


def pruned(
    name: str,
    vms: list[str] | None = None,
    networks: list[str] | None = None,
    mode: str = "report",
    lab: str | None = None,
) -> dict[str, Any]:
    """
    Ensure that nothing is left of what the lab made and the pillar no longer declares.

    name
        For the state's own use.

    vms, networks
        The names that are declared.

    mode
        ``report`` (default) only names what is left over; ``stop`` powers machines off and takes
        networks down. No disk is ever removed.

    lab
        Name of the lab. Default: the pillar's.

    .. code-block:: yaml

        lab-pruned:
          qemulab.pruned:
            - vms: [master, worker1]
            - networks: [vmlan]
            - mode: stop
    """
    return shape.conclude(
        shape.Run(__salt__, __opts__, "lab"),
        name,
        lambda: __salt__["qemulab.prune"](
            vms or [], networks or [], mode=mode, lab=lab, test=__opts__["test"]
        ),
        already="nothing that runs is left over",
        would="what is left over would be stopped",
        has="what was left over has been stopped",
    )


def stopped(name: str, lab: str | None = None) -> dict[str, Any]:
    """
    Ensure that all machines of a lab are off; its networks stay, and so does every disk.

    name
        For the state's own use.

    lab
        Name of the lab. Default: the pillar's.

    .. code-block:: yaml

        lab-stopped:
          qemulab.stopped: []
    """
    return shape.conclude(
        shape.Run(__salt__, __opts__, "lab"),
        name,
        lambda: {**__salt__["qemulab.lab_stop"](lab=lab, test=__opts__["test"]), "how": None},
        already="no machine of the lab runs",
        would="the lab's machines would be powered off; their disks are kept",
        has="the lab's machines have been powered off; their disks are kept",
    )


def started(name: str, lab: str | None = None) -> dict[str, Any]:
    """
    Ensure that all networks and machines of a lab run as they were last applied.

    name
        For the state's own use.

    lab
        Name of the lab. Default: the pillar's.

    .. code-block:: yaml

        lab-started:
          qemulab.started: []
    """
    return shape.conclude(
        shape.Run(__salt__, __opts__, "lab"),
        name,
        lambda: {**__salt__["qemulab.lab_start"](lab=lab, test=__opts__["test"]), "ssh": None},
        already="all machines of the lab run already",
        would="the lab would be started as it was last applied",
        has="the lab has been started as it was last applied",
    )


def absent(name: str, purge: bool = False, lab: str | None = None) -> dict[str, Any]:
    """
    Ensure that nothing of the lab itself is left, when its machines and networks are gone.

    name
        For the state's own use.

    purge
        Remove its SSH key and its logs as well. Default ``False``. The built-in guest stays:
        ``guest_absent`` removes it.

    lab
        Name of the lab. Default: the pillar's.

    .. code-block:: yaml

        lab-absent:
          qemulab.absent:
            - purge: True
    """
    kept = "" if purge else "; disks and the SSH key are kept"
    return shape.conclude(
        shape.Run(__salt__, __opts__, "lab"),
        name,
        lambda: __salt__["qemulab.lab_remove"](purge=purge, lab=lab, test=__opts__["test"]),
        already="the lab is already absent",
        would=f"the lab would be removed{kept}",
        has=f"the lab has been removed{kept}",
    )
