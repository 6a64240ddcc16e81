"""
Labs of QEMU machines: networks, reservations, leases.
"""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import _qemulab_disks as disks
import _qemulab_face as face
import _qemulab_host_ports as host_ports
import _qemulab_lan_dhcp as lan
import _qemulab_lan_way as way
import _qemulab_look as looks
import _qemulab_network as networks
import _qemulab_probe as probe
import _qemulab_schema as schema
import _qemulab_spec as spec
import _qemulab_vm as machines
import _qemulab_vm_held as held
from _qemulab_kinds import Fault
from _qemulab_kinds import SpecError
from _qemulab_plan_changes import RESTART
from _qemulab_plan_named import naming
from _qemulab_plan_network import plan_network
from _qemulab_plan_network import plan_network_absent
from _qemulab_plan_network import plan_reservation

__virtualname__ = "qemulab"


def __virtual__():
    if __grains__["kernel"] != "Linux":
        return False, "qemulab needs Linux"
    return __virtualname__


def _site(lab=None):
    return face.site(__opts__, __pillar__, __context__, lab)


def network_list(lab=None):
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


def network_info(name, lab=None):
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
        facts = networks.facts(site, name)
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


def _process(site, name, kind, facts):
    """Return how one of a network's processes is."""
    return {
        "running": getattr(facts, kind),
        "unmanaged": kind in facts.orphans,
        "pid": site.status(kind, name).pid,
    }


def network_ensure(
    name, declaration=None, present=True, lab=None, test=False, reservations=None, vms=None
):
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
        Reservations and machines that may be begun with the network where it does not run, as name
        and declaration; each is then reported, and waited for, by a call of its own. Default: none.

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
            return face.converge(
                site,
                lambda: plan_network_absent(networks.facts(site, name)),
                lambda _plan: networks.remove(site, name, networks.facts(site, name)),
                test,
            )
        if isinstance(declaration, Mapping) and "reservations" in declaration:
            problem = "each is a state of its own, qemulab.reservation_present"
            raise SpecError([Fault(f"lab:networks:{name}:reservations", problem)])
        declared = spec.network_from(name, declaration, site.lab)

        def look():
            facts = networks.facts(site, name, declared)
            plan = plan_network(facts, declared)
            # Before anything is changed, or those behind it would be left on the old network.
            for machine in plan.machines if plan.has(RESTART) else ():
                held.need_none(machine, looks.lost(site, machine))
            if test and plan.changes:
                networks.check_start(site, name, declared, facts)
            return plan

        def act(_plan):
            row = _row(site, name, declared, reservations or {}, vms or {})
            with ThreadPoolExecutor(1) as aside:
                # While the network's files are written; one that fails is told where it is needed.
                aside.submit(disks.make_templates, site, row.vms)
                plan = networks.apply(site, name, declared, row)
            if plan.has(RESTART):
                for machine in plan.machines:
                    __salt__["qemulab.vm_restart"](machine, lab=site.lab)

        site.run.early.clear()
        try:
            outcome = face.converge(site, look, act, test, naming(declared, declaration))
            if outcome["changes"] and not test:
                outcome["notes"] += _around(site, name, declared)
        except Exception:
            machines.abandon(site)
            raise
        return outcome


def _around(site, name, network):
    """Return what of the host is in the way of a network that has just been made or changed."""
    found = [
        f"the host's firewall drops {each.what} on {network.interface}: {each.rule}; "
        f"to open it: {each.command}"
        for each in probe.blocked(network)
    ]
    shadowed = way.shadowed(site.store.network(name) or network, is_up=True)
    return found + ["; ".join(shadowed)] if shadowed else found


def _row(site, name, network, reservations, vms):
    """Return what may be begun with a network; nothing where a declaration of it is faulty."""
    try:
        items = {
            host_name: spec.reservation_from(host_name, item, name)
            for host_name, item in reservations.items()
        }
    except SpecError:
        return networks.ALONE
    others = {**site.store.all_networks(), name: network}
    ports = host_ports.ports(site)
    return networks.Row(items, spec.readable_vms(vms, site.lab, others, ports))


def reservation_list(network=None, lab=None):
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


def reservation_ensure(name, network, declaration=None, lab=None, test=False):
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

        if wanted is not None and not test:
            begun = site.run.early.pop(networks.reservation_key(network, name), None)
            if begun is not None:  # made with its network
                return face.outcome(site, begun.plan)

        def look():
            old = site.store.reservations(network).get(name)
            stale = lan.contradicted(site, network, name, wanted)
            return plan_reservation(old, wanted, bool(stale))

        return face.converge(
            site, look, lambda _plan: lan.apply_reservation(site, network, name, wanted), test
        )


def lease_list(network=None, lab=None):
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
