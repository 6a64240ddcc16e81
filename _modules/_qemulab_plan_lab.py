"""
The planner, for the lab as a whole: its user and keys, the built-in guest, what is left over.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from _qemulab_plan_changes import CREATE
from _qemulab_plan_changes import DESTROY
from _qemulab_plan_changes import LIVE
from _qemulab_plan_changes import RESTART
from _qemulab_plan_changes import STOP
from _qemulab_plan_changes import Change
from _qemulab_plan_changes import Plan
from _qemulab_plan_changes import fact
from _qemulab_plan_files import file_changes
from _qemulab_plan_status import Status


class LabFacts(NamedTuple):
    """What is of the lab as a whole: system user, SSH key, the keys that were declared."""

    user: bool = False
    ssh_key: bool = False
    known: bool = False
    authorized_keys: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    vms: Mapping[str, bool] = MappingProxyType({})
    """Machines that the lab has, each with whether it runs."""
    logs: bool = False
    remains: bool = False
    """Whether its supervisor is there although nothing says that the lab is."""
    files: Mapping[str, str] = MappingProxyType({})
    """Generated files that somebody else has been at, as in ``file_changes``."""


def plan_lab(facts: LabFacts, user: str, authorized_keys: tuple[str, ...]) -> Plan:
    """Return what a lab needs before its first network: user, SSH key, keys that may log in."""
    found = []
    if not facts.user:
        found.append(fact("user", None, user, CREATE))
    if not facts.ssh_key:
        found.append(fact("ssh_key", None, "generated", CREATE))
    if facts.authorized_keys != authorized_keys:
        effect = LIVE if facts.known else CREATE
        before = list(facts.authorized_keys) or None
        found.append(fact("authorized_keys", before, list(authorized_keys) or None, effect))
    found += file_changes(facts.files)
    return Plan(tuple(found))


def plan_lab_absent(facts: LabFacts, purge: bool) -> Plan:
    """Return what takes the lab itself away, when its machines and networks are gone."""
    found = []
    if facts.known:
        found.append(fact("definition", "present", None, STOP))
    elif facts.remains:
        found.append(fact("supervisor", "present", None, STOP))
    if purge:
        if facts.ssh_key:
            found.append(fact("ssh_key", "generated", None, DESTROY))
        if facts.logs:
            found.append(fact("logs", "present", None, DESTROY))
    return Plan(tuple(found))


def plan_guest(built: bool) -> Plan:
    """Return what makes the built-in guest ready."""
    return Plan(() if built else (fact("guest", None, "built", CREATE),))


def plan_guest_absent(built: bool) -> Plan:
    """Return what removes the built-in guest from this host."""
    return Plan((fact("guest", "built", None, DESTROY),) if built else ())


def plan_prune(facts: LabFacts, vms: Iterable[str], networks: Iterable[str], mode: str) -> Plan:
    """
    Return what happens to what the lab has and the pillar no longer declares.

    facts
        What the lab has.

    vms, networks
        What is declared.

    mode
        ``report`` or ``stop``.
    """
    keep_vms, keep_networks = set(vms), set(networks)
    left_vms = [name for name in facts.vms if name not in keep_vms]
    left_networks = [name for name in facts.networks if name not in keep_networks]
    notes = []
    if left_vms:
        notes.append(f"machines no longer declared: {', '.join(left_vms)}")
    if left_networks:
        notes.append(f"networks no longer declared: {', '.join(left_networks)}")
    found = []
    if mode == "stop":
        found += [_power_off(name) for name in left_vms if facts.vms[name]]
        found += [Change(("networks", name), "present", None, STOP) for name in left_networks]
    return Plan(tuple(found), notes=tuple(notes))


def plan_lab_stopped(runs: Mapping[str, bool]) -> Plan:
    """Return what powers all machines of a lab off; given is whether each runs."""
    return Plan(tuple(_power_off(name) for name, is_on in runs.items() if is_on))


def _power_off(name: str) -> Change:
    return Change(("vms", name), Status.RUNNING.value, Status.STOPPED.value, STOP)


def plan_lab_started(networks: Iterable[str], vms: Mapping[str, Status]) -> Plan:
    """
    Return what starts a lab as it was applied.

    networks
        Those that are not as they should be.

    vms
        How each machine is.
    """
    found = [Change(("networks", name), "down", "up", LIVE) for name in networks]
    for name, status in vms.items():
        # What runs but does not answer, or is not provably ours, is not to be started.
        if status.is_off or status.is_held or status.is_dead:
            effect = RESTART if status.is_dead else LIVE
            found.append(Change(("vms", name), status.value, Status.RUNNING.value, effect))
    left = [f"{name} is {status}" for name, status in vms.items() if status.is_doubtful]
    notes = [f"{', '.join(left)}: left as it is"] if left else []
    if not vms:
        notes.append("the lab has no machine yet: state.apply lab makes them")
    return Plan(tuple(found), notes=tuple(notes))
