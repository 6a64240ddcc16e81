"""
A declaration against the host: faults that only show where both are seen together.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Callable
from typing import Any

import _qemulab_host_conflicts as routes
import _qemulab_host_seam as host
import _qemulab_lan_link as link
import _qemulab_lan_resolver as etc
import _qemulab_lan_routing as way
import _qemulab_pillar_spec as spec
import _qemulab_vm_media as media
import _qemulab_vm_ports as vm_ports
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Lab
from _qemulab_pillar_kinds import Notes
from _qemulab_pillar_kinds import SpecError
from _qemulab_run_site import Site


def survey(pillar: Any, find_site: Callable[[str], Site]) -> tuple[Lab | None, Notes]:
    """
    Read a declaration and look at the host with it, noting every fault. Nothing is touched.

    pillar
        What stands under ``lab`` in a pillar.

    find_site
        Returns a lab on this host by its name.
    """
    lab, notes = spec.survey(pillar, lambda name: vm_ports.ports(find_site(name)))
    if lab is not None:
        site = find_site(lab.name)
        check_networks(lab, site, notes)
        check_ways(lab, site, notes)
        check_resolvers(lab, site, notes)
        check_other_labs(lab, site, notes)
        check_media(lab, site, notes)
        check_memory(lab, notes)
        check_sockets(lab, site, notes)
    return lab, notes


def check_networks(lab: Lab, site: Site, notes: Notes) -> None:
    """Note networks that overlap a route of the host, and interfaces that are not ours."""
    if not lab.networks or host.find_binary("ip") is None:
        return
    for name, network in lab.networks.items():
        subnet = ipaddress.IPv4Interface(network.address).network
        known = site.store.network(name)
        own = known.interface if known else network.interface
        path = f"lab:networks:{name}"
        if link.state(site, name, network) == "other":
            notes.fault(f"{path}:interface", link.foreign(site, name, network))
            continue
        route = routes.overlap(subnet, site.routes(), own)
        if route is not None:
            notes.fault(f"{path}:address", f"{subnet} overlaps the host's route {route}")


def check_ways(lab: Lab, site: Site, notes: Notes) -> None:
    """Warn of networks whose packets a rule of the host takes elsewhere."""
    for name, network in lab.networks.items():
        path = f"lab:networks:{name}:address"
        known = site.store.network(name)
        if any(fault.path.startswith(f"lab:networks:{name}:") for fault in notes.faults):
            continue
        is_up = known is not None and link.state(site, name, known) == "up"
        shadowed = way.shadowed(known if known and is_up else network, is_up)
        if shadowed is not None:
            notes.warn(path, "; ".join(shadowed))


def check_resolvers(lab: Lab, site: Site, notes: Notes) -> None:
    """Warn of machines that run and whose user network no longer knows the lab's names."""
    for name in lab.vms if host.is_root() else ():
        # Of a file that is damaged, the machine's own state will tell.
        with contextlib.suppress(HostError, SpecError):
            started = site.store.vm(name)[1]
            problem = etc.astray(site, name, started) if started else ""
            if problem:
                do = f"salt-call qemulab.vm_restart {name}"
                notes.warn(f"lab:vms:{name}", f"{problem}; {do}")


def check_other_labs(lab: Lab, site: Site, notes: Notes) -> None:
    """Note multicast groups that another lab of this host has: their machines would meet."""
    taken = {}
    for other in site.other_labs():
        # What is damaged there is that lab's matter.
        with contextlib.suppress(HostError, SpecError):
            for name, network in site.beside(other).store.all_networks().items():
                taken[network.multicast] = f"the network {name} of the lab {other}"
    for name, network in lab.networks.items():
        if network.multicast in taken:
            problem = f"{network.multicast} is already taken by {taken[network.multicast]}"
            notes.fault(f"lab:networks:{name}:multicast", problem)


def check_media(lab: Lab, site: Site, notes: Notes) -> None:
    """Note ISO and backing images that a machine could not read, or would read in part only."""
    for name, vm in lab.vms.items():
        for key, problem in media.problems(site, name, vm):
            notes.fault(f"lab:vms:{name}:{key}", problem)
        for index, disk in enumerate(vm.disks):
            # It has been made like this before that was refused.
            if site.layout.disk(name, disk.name).exists():
                problem = media.cut_off(disk)
                if problem:
                    notes.warn(f"lab:vms:{name}:disks:{index}:size", problem)


def check_memory(lab: Lab, notes: Notes) -> None:
    """Warn where the machines together want more memory than the host has."""
    wanted = sum(vm.memory for vm in lab.vms.values())
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    if wanted > have:
        notes.warn("lab:vms", f"the machines want {wanted} MB together, the host has {have} MB")


def check_sockets(lab: Lab, site: Site, notes: Notes) -> None:
    """Note machines whose sockets' paths would be longer than the kernel allows."""
    for name in lab.vms:
        path = site.layout.socket_too_long(name)
        if path is not None:
            notes.fault(f"lab:vms:{name}", f"the socket's path {path} is too long; shorten names")
