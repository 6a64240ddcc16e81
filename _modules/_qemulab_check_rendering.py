"""
What the SLS tree renders its states from: a declaration that this host can have, or nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from functools import partial
from typing import Any

import _qemulab_check_doctor as check_doctor
import _qemulab_check_host as check
import _qemulab_host_probe as probe
import _qemulab_pillar_schema as schema
import _qemulab_pillar_spec as spec
import _qemulab_vm_ports as vm_ports
import _qemulab_vm_status as vm_status
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Lab
from _qemulab_pillar_kinds import SpecError
from _qemulab_run_site import Site
from _qemulab_run_underway import Underway

RENDERING = 10.0
"""Seconds that one answer is good for: all SLS files of a run are rendered from the same one, or
one of them would have states and another none."""

NOTHING: Mapping[str, Any] = {
    "name": None,
    "valid": False,
    "faults": [],
    "networks": {},
    "vms": {},
    "reservations": [],
    "stale_reservations": [],
    "guest": [],
    "authorized_keys": [],
    "prune": "report",
    "missing_packages": [],
    "acts": False,
    "made": {"networks": [], "vms": []},
}
"""What there is of a lab whose name cannot be told."""


def read(declared: Any, site: Site, find_site: Callable[[str], Site]) -> dict[str, Any]:
    """
    Return what is declared of a lab, and what of it exists.

    declared
        What stands under ``lab`` in a pillar.

    site, find_site
        The lab on this host, and what returns another one by its name.

    What is faulty, by itself or on this host, has no networks, machines or packages: no state is
    rendered that would only say that another one failed. Never raises for such a fault.
    """
    # Each SLS of the tree asks for itself.
    ask = partial(_read, declared, site, find_site)
    return site.answers.recent(_question(declared), ask, RENDERING)


def _question(declared: Any) -> str:
    """Return what the answer to ``read`` is kept by."""
    return f"declaration {declared!r}"


def _read(declared: Any, site: Site, find_site: Callable[[str], Site]) -> dict[str, Any]:
    site.run = Underway()  # who has Salt in one process for many runs begins the next one here
    lab, notes = spec.survey(declared, lambda _name: vm_ports.ports(site))
    found = {
        **NOTHING,
        "name": site.lab,
        "made": {"networks": site.store.networks(), "vms": site.store.vm_directories()},
    }
    if lab is None or notes.faults:
        return found
    faults = of_this_host(declared, lab, site, find_site)
    if faults:
        return {**found, "faults": faults}
    return {
        **found,
        **parts(declared, lab, site),
        "valid": True,
        "acts": acts(lab, declared),
        "missing_packages": find_missing_packages(declared) if lab.networks or lab.vms else [],
    }


def find_missing_packages(declared: Any) -> list[str]:
    """Return the packages that a declaration needs and the host has not; a faulty one needs all."""
    lab, _ = spec.survey(declared)
    if lab is None or not lab.vms:
        lab = spec.from_pillar({"vms": {"any": {}}}).lab
    return probe.missing_packages(probe.needed(lab))


def survey(declared: Any, find_site: Callable[[str], Site]) -> tuple[Lab | None, dict[str, Any]]:
    """
    Return a lab as far as it can be read, and what is to be said of its declaration.

    That is ``valid``, ``empty``, and ``faults`` and ``warnings`` as texts.
    """
    lab, notes = check.survey(declared, find_site)
    return lab, {
        "valid": not notes.faults,
        "empty": lab is not None and not acts(lab, declared),
        "faults": [str(fault) for fault in notes.faults],
        "warnings": [str(fault) for fault in notes.warnings],
    }


def need_possible(declared: Any, site: Site, find_site: Callable[[str], Site]) -> dict[str, Any]:
    """
    Return what is to be said of a declaration that this host can have.

    site, find_site
        The lab that is meant, or else the default one; and what returns one by its name.

    Returns ``empty``, ``warnings``, and ``runs``: what runs on although nothing is declared. Raises
    HostError with every fault and with what runs on, or with why this host can have no such lab.
    """
    lab, found = survey(declared, find_site)
    if lab is not None:
        # Whoever renders states from now on looks at the host anew; the states behind need not.
        find_site(lab.name).answers.forget(_question(declared))
    if lab is None or not found["valid"]:
        raise HostError("\n".join(found["faults"] + vm_status.all_that_runs(site)))
    faults, warnings = check_doctor.before_start(lab, find_site(lab.name))
    if faults:
        raise HostError("\n".join(each.text for each in faults))
    return {
        "empty": found["empty"],
        "warnings": found["warnings"] + [each.text for each in warnings],
        "runs": vm_status.all_that_runs(site) if found["empty"] else [],
    }


def acts(lab: Lab, declared: Any) -> bool:
    """Return whether a declaration says what machines there are to be, none included."""
    return bool(lab.networks or lab.vms) or spec.says_none(declared)


def of_this_host(
    declared: Any, lab: Lab, site: Site, find_site: Callable[[str], Site]
) -> list[str]:
    """Return why this host cannot have a lab; the state ``declared`` looks again, and tells it."""
    try:
        _, notes = check.survey(declared, find_site)
        found = check_doctor.in_the_way(check_doctor.that_is_off(lab, site), site)
        return [str(fault) for fault in notes.faults] + [each.text for each in found]
    except (HostError, SpecError, OSError) as err:
        return [str(err)]


def parts(declared: Mapping[str, Any] | None, lab: Lab, site: Site) -> dict[str, Any]:
    """Return what only a declaration without fault has."""
    said = {key: (declared or {}).get(key) or {} for key in ("networks", "vms")}
    networks = {}
    reservations = []
    stale = []
    for name, network in lab.networks.items():
        networks[name] = schema.arguments(network, said["networks"].get(name))
        networks[name].pop("reservations", None)
        reservations += [
            {"name": host_name, "network": name, "mac": item.mac, "address": item.address}
            for host_name, item in network.reservations.items()
        ]
        stale += [
            {"name": host_name, "network": name}
            for host_name in reserved(site, name)
            if host_name not in network.reservations
        ]
    return {
        "networks": networks,
        "vms": {name: schema.arguments(vm, said["vms"].get(name)) for name, vm in lab.vms.items()},
        "reservations": reservations,
        "stale_reservations": stale,
        "guest": [name for name, vm in lab.vms.items() if vm.boot == "guest"],
        "authorized_keys": list(lab.authorized_keys),
        "prune": lab.prune,
    }


def reserved(site: Site, name: str) -> list[str]:
    """Return the names that are reserved; of a damaged file, the network's own state will tell."""
    try:
        return list(site.store.reservations(name))
    except HostError:
        return []
