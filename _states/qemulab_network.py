"""
Labs of QEMU machines: networks and reservations.
"""

from __future__ import annotations

from typing import Any

import _qemulab_row as rows
import _qemulab_state as shape

__opts__: dict[str, Any]
__salt__: dict[str, Any]

__virtualname__ = "qemulab"


FOLLOWERS = ("network_present", "reservation_absent", "reservation_present", "vm_running")
"""What may be in a network's row: what the SLS files have behind it."""


def __virtual__() -> str | tuple[bool, str]:
    if "qemulab.network_info" in __salt__:
        return __virtualname__
    return False, "the execution module qemulab is not there"


def network_present(name: str, lab: str | None = None, **declaration: Any) -> dict[str, Any]:
    """
    Ensure that a network is as declared, with its TAP, hub, DHCP and DNS server at work.

    name
        Name of the network.

    lab
        Name of the lab. Default: the pillar's.

    declaration
        Any key that stands under ``lab:networks:NAME`` in the pillar, but ``reservations``, which
        are states of their own.

    Where the network does not run, the reservations and machines whose states follow this one at
    once are started with it; each state then reports its own.

    .. code-block:: yaml

        vmlan:
          qemulab.network_present:
            - address: 10.0.3.1/24
            - multicast: 230.0.0.1:1234
            - dhcp:
                range: 10.0.3.100-10.0.3.200
                router: 10.0.3.101
    """
    declared = shape.declaration(declaration)
    row = rows.following(globals(), FOLLOWERS)
    return shape.conclude(
        shape.Run(__salt__, __opts__, f"network:{name}"),
        name,
        lambda: __salt__["qemulab.network_ensure"](
            name, declared, lab=lab, test=__opts__["test"], **_started_with(name, row)
        ),
        already=f"network {name} is already as declared",
        would=f"network {name} would be made as declared",
        has=f"network {name} has been made as declared",
    )


def _started_with(network: str, row: list[rows.Following]) -> dict[str, Any]:
    """
    Return what of a row may be started with a network, by kind: its own reservations (``None`` for
    one that goes), and machines that would not run without it; and whether no other network is in
    the row, which would restart machines for this one as well.
    """
    found: dict[str, Any] = {"reservations": {}, "vms": {}}
    found["last"] = all(state.function != "network_present" for state in row)
    for state in row:
        if state.function == "network_present":
            break
        if state.function.startswith("reservation_"):
            if state.declaration.pop("network", "vmlan") != network:
                break
            if state.name in found["reservations"]:
                break
            goes = state.function == "reservation_absent"
            found["reservations"][state.name] = None if goes else state.declaration
        elif state.requires_this:
            found["vms"][state.name] = state.declaration
    return found


def network_absent(name: str, lab: str | None = None) -> dict[str, Any]:
    """
    Ensure that a network is not there.

    name
        Name of the network.

    lab
        Name of the lab. Default: the pillar's.

    .. code-block:: yaml

        vmlan:
          qemulab.network_absent: []
    """
    return shape.conclude(
        shape.Run(__salt__, __opts__, f"network:{name}"),
        name,
        lambda: __salt__["qemulab.network_ensure"](
            name, present=False, lab=lab, test=__opts__["test"]
        ),
        already=f"network {name} is already absent",
        would=f"network {name} would be taken down",
        has=f"network {name} has been taken down",
    )


def reservation_present(
    name: str, mac: str, address: str, network: str = "vmlan", lab: str | None = None
) -> dict[str, Any]:
    """
    Ensure that a MAC address always gets the same address and name.

    name
        The host name.

    mac
        MAC address; quote it.

    address
        IPv4 address in the network.

    network
        Name of the network. Default ``vmlan``.

    lab
        Name of the lab. Default: the pillar's.

    .. code-block:: yaml

        master:
          qemulab.reservation_present:
            - network: vmlan
            - mac: '00:00:00:11:11:11'
            - address: 10.0.3.101
    """
    declared = {"mac": mac, "address": address}
    return shape.conclude(
        shape.Run(__salt__, __opts__, f"reservation:{name}"),
        name,
        lambda: __salt__["qemulab.reservation_ensure"](
            name, network, declared, lab=lab, test=__opts__["test"]
        ),
        already=f"{name} is already reserved",
        would=f"{name} would be reserved",
        has=f"{name} has been reserved",
    )


def reservation_absent(name: str, network: str = "vmlan", lab: str | None = None) -> dict[str, Any]:
    """
    Ensure that nothing is reserved under a name; its lease and its name in the DNS go with it.

    name
        The host name.

    network
        Name of the network. Default ``vmlan``.

    lab
        Name of the lab. Default: the pillar's.

    .. code-block:: yaml

        worker3:
          qemulab.reservation_absent:
            - network: vmlan
    """
    return shape.conclude(
        shape.Run(__salt__, __opts__, f"reservation:{name}"),
        name,
        lambda: __salt__["qemulab.reservation_ensure"](
            name, network, lab=lab, test=__opts__["test"]
        ),
        already=f"{name} is not reserved",
        would=f"the reservation of {name} would be removed",
        has=f"the reservation of {name} has been removed",
    )
