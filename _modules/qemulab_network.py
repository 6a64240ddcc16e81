"""
Labs of QEMU machines: networks, reservations, leases.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import _qemulab_apply_network as networks
import _qemulab_face as face
import _qemulab_lan_dhcp as lan
import _qemulab_pillar_schema as schema
import _qemulab_pillar_spec as spec
from _qemulab_pillar_kinds import Fault
from _qemulab_pillar_kinds import SpecError
from _qemulab_plan_network import NetworkFacts
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


def network_list(lab: str | None = None) -> list[str]:
    """
    Return the names of the lab's networks.

    lab
        Name of the lab. Default: the pillar's.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.network_list
    """
    with face.errors():
        site = _site(lab)
        face.need_lab(site, lab)
        return site.store.networks()


def network_info(name: str, lab: str | None = None) -> dict[str, Any] | None:
    """
    Return what a network is declared as and how it is, ``None`` where there is none.

    name
        Name of the network.

    lab
        Name of the lab. Default: the pillar's.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.network_info vmlan
    """
    with face.errors():
        site = _site(lab)
        face.need_name(name, "name")
        facts = networks.find_facts(site, name)
        if facts.defined is None:
            return None
        return {
            "name": name,
            "lab": site.lab,
            "definition": schema.plain(facts.defined),
            "link": facts.link,
            "route": facts.route,
            "hub": _process(site, name, "hub", facts),
            "dnsmasq": _process(site, name, "dnsmasq", facts),
            "machines": list(facts.machines),
            "leases": len(lan.leases(site, name)),
        }


def _process(site: Site, name: str, kind: str, facts: NetworkFacts) -> dict[str, Any]:
    """Return how one of a network's processes is."""
    return {
        "running": getattr(facts, kind),
        "unmanaged": kind in facts.orphans,
        "pid": site.status(kind, name).pid,
    }


def network_ensure(
    name: str,
    declaration: Mapping[str, Any] | None = None,
    present: bool = True,
    lab: str | None = None,
    test: bool = False,
    reservations: Mapping[str, Any] | None = None,
    vms: Mapping[str, Any] | None = None,
    last: bool = True,
) -> dict[str, Any]:
    """
    Make a network as declared, or take it away.

    name
        Name of the network.

    declaration
        Its keys, as under ``lab:networks:NAME`` in the pillar, but ``reservations``; default all
        defaults.

    present
        Whether it is to be there. Default ``True``.

    lab
        Name of the lab. Default: the pillar's.

    test
        Only say what would be done. Default ``False``.

    reservations, vms
        Reservations and machines that may be started with the network where it does not run, as
        name and declaration (``None``: a reservation that goes); each is then reported, and waited
        for, by a call of its own. Default: none.

    last
        Whether machines that this network's change needs restarted, or the change of one before it
        in the same run, are restarted now. Default ``True``; ``False`` where a call for another
        network follows, which does that.

    Returns ``changes``, ``pending`` and ``refused`` by key, each with old, new and effect;
    ``notes``; and ``machines`` that have to be restarted for it.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.network_ensure vmlan '{"address": "10.0.3.1/24"}' test=True
    """
    with face.errors():
        site = _site(lab)
        face.need_name(name, "name")
        if not present:
            return networks.ensure_absent(site, name, test)
        if isinstance(declaration, Mapping) and "reservations" in declaration:
            problem = "each is a state of its own, qemulab.reservation_present"
            raise SpecError([Fault(f"lab:networks:{name}:reservations", problem)])
        return networks.ensure(site, name, declaration, test, reservations, vms, last)


def reservation_list(
    network: str | None = None, lab: str | None = None
) -> dict[str, dict[str, Any]]:
    """
    Return what is reserved: by network, and there by name, MAC address and address.

    network
        Name of the network. Default: all of them.

    lab
        Name of the lab. Default: the pillar's.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.reservation_list
    """
    with face.errors():
        site = _site(lab)
        face.need_lab(site, lab)
        return {
            where: {
                name: schema.plain(item) for name, item in lan.all_reservations(site, where).items()
            }
            for where in face.networks_meant(site, network)
        }


def reservation_ensure(
    name: str,
    network: str,
    declaration: Mapping[str, Any] | None = None,
    lab: str | None = None,
    test: bool = False,
) -> dict[str, Any]:
    """
    Make a reservation as declared, or take it away.

    name
        Host name that is reserved.

    network
        Name of the network.

    declaration
        ``mac`` and ``address``; default ``None``: no reservation of this name.

    lab
        Name of the lab. Default: the pillar's.

    test
        Only say what would be done. Default ``False``.

    Returns what ``network_ensure`` returns.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.reservation_ensure master vmlan \\
            '{"mac": "00:00:00:11:11:11", "address": "10.0.3.101"}'
    """
    with face.errors():
        site = _site(lab)
        face.need_name(name, "name")
        face.need_name(network, "network")
        wanted = None
        if declaration is not None:
            wanted = spec.reservation_from(name, declaration, network)
        return networks.ensure_reservation(site, network, name, wanted, test)


def lease_list(network: str | None = None, lab: str | None = None) -> list[dict[str, Any]]:
    """
    Return the addresses that are leased: MAC address, address, name, network, expiry.

    network
        Name of the network. Default: all of them.

    lab
        Name of the lab. Default: the pillar's.

    ``expires_in`` is in seconds, ``None`` for a lease without end.

    CLI Example:

    .. code-block:: bash

        salt-call qemulab.lease_list
    """
    with face.errors():
        site = _site(lab)
        face.need_lab(site, lab)
        return [
            {
                "network": name,
                "mac": lease.mac,
                "address": lease.address,
                "name": lease.name or None,
                "expires_in": max(0, lease.expires - int(time.time())) if lease.expires else None,
            }
            for name in face.networks_meant(site, network)
            for lease in lan.leases(site, name)
        ]
