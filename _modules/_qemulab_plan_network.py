"""
The planner, for networks and their reservations. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Reservation
from _qemulab_pillar_rules_addresses import is_usable
from _qemulab_plan_changes import CREATE
from _qemulab_plan_changes import LIVE
from _qemulab_plan_changes import MOVES
from _qemulab_plan_changes import RESTART
from _qemulab_plan_changes import STOP
from _qemulab_plan_changes import Change
from _qemulab_plan_changes import Plan
from _qemulab_plan_changes import at_rest
from _qemulab_plan_changes import fact
from _qemulab_plan_diff import differences
from _qemulab_plan_diff import leaves
from _qemulab_plan_diff import merged
from _qemulab_plan_files import file_changes
from _qemulab_plan_status import Status


class NetworkFacts(NamedTuple):
    """
    What is of one network.

    defined
        What was last applied; ``None`` where it was never defined.

    link
        The TAP in one word; ``up`` is right.

    route
        Whether the multicast group has its own route on the loopback interface.

    hub, dnsmasq
        Whether each process runs.

    machines
        Running machines that sit on it.

    waiting
        Those of them that have yet to be restarted for an earlier change: they still have the
        network open as it was.

    reservations
        What is reserved on it.

    orphans
        Which of the two processes run without their supervisor.

    units
        Whether the supervisor's definitions of both are there.

    files
        Generated files that somebody else has been at, as in ``file_changes``.
    """

    defined: Network | None = None
    link: str = "absent"
    route: bool = False
    hub: bool = False
    dnsmasq: bool = False
    machines: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    reservations: Mapping[str, Reservation] = MappingProxyType({})
    orphans: tuple[str, ...] = ()
    units: bool = True
    files: Mapping[str, str] = MappingProxyType({})


def plan_network(facts: NetworkFacts, declared: Network) -> Plan:
    """Return what makes a network as declared, and its link and processes as they should be."""
    old = leaves(facts.defined, skip=("reservations",)) if facts.defined else None
    found = differences(old, leaves(declared, skip=("reservations",)))
    if facts.defined and facts.defined.address != declared.address:
        found = [
            c._replace(effect=RESTART) if belongs(c, facts.defined.address) else c for c in found
        ]
    if not facts.machines:
        found = [at_rest(change) for change in found]
    restarts = [change for change in found if change.effect == RESTART]
    concerned = facts.machines if restarts else facts.waiting
    restarts += [
        Change(("machines", name), "on the network as it was", "restarted", RESTART)
        for name in facts.waiting
    ]
    others = [change for change in found if change.effect != RESTART]
    pending: list[Change] = []
    if restarts and declared.on_change != "restart":
        pending, restarts = restarts, []
    effect = CREATE if old is None else LIVE
    if facts.link != "up":
        others.append(fact("link", facts.link, "up", effect))
    if not facts.route:
        others.append(fact("route", "absent", "loopback", effect))
    for what, runs in (("hub", facts.hub), ("dnsmasq", facts.dnsmasq)):
        if not runs:
            now = Status.UNMANAGED if what in facts.orphans else Status.STOPPED
            others.append(fact(what, now.value, Status.RUNNING.value, effect))
    if facts.hub and facts.dnsmasq and not facts.units:
        others.append(fact("units", "absent", "present", effect))
    others += file_changes(facts.files)
    return Plan(tuple(others + restarts), tuple(pending), machines=concerned)


def network_after(old: Network | None, declared: Network, plan: Plan) -> Network:
    """Return a network as it is after a plan; its reservations have states of their own."""
    if old is None:
        return declared
    declared = dataclasses.replace(declared, reservations=old.reservations)
    return merged(old, declared, plan.waiting())


def belongs(change: Change, address: str) -> bool:
    """
    Return whether a change belongs to that of the network's address: the two wait together.

    address
        The host's until now. Ranges and routes are worked out from it, and a further name that
        leads to where nobody can be yet is no use.
    """
    if change.path[:2] == ("dns", "names"):
        return change.new is not None and not is_usable(address, change.new)
    return change.path[0] == "dhcp"


def plan_network_absent(facts: NetworkFacts) -> Plan:
    """Return what takes a network away."""
    found = []
    for what, runs in (("hub", facts.hub), ("dnsmasq", facts.dnsmasq)):
        if runs or what in facts.orphans:
            now = Status.RUNNING if runs else Status.UNMANAGED
            found.append(fact(what, now.value, Status.STOPPED.value, STOP))
    if facts.link not in ("absent", "other"):
        found.append(fact("link", facts.link, "absent", STOP))
    if facts.route:
        found.append(fact("route", "loopback", "absent", STOP))
    if facts.defined is not None:
        found.append(fact("definition", "present", None, STOP))
    return Plan(tuple(found))


def plan_reservation(
    old: Reservation | None,
    new: Reservation | None,
    contradicted: bool = False,
    early: bool = False,
) -> Plan:
    """
    Return what makes a reservation as declared.

    old
        What is reserved under the name; ``None`` for nothing.

    new
        What is declared; ``None`` for nothing.

    contradicted
        Whether a lease stands that the new reservations do not allow.

    early
        Whether its network has not got the address yet that it belongs to: it waits for that.
    """
    found = differences(leaves(old) if old else None, leaves(new) if new else {})
    if early:
        return Plan(pending=tuple(found))
    if not contradicted:
        return Plan(tuple(found))
    found.append(fact("lease", "contradicts", "released", LIVE))
    return Plan(tuple(found), notes=(MOVES,))
