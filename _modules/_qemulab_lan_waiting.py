"""
Addresses that are declared on a network which has not got its own new one yet: they wait with it.

A network waits where machines run on it. Told at once, its reservations would make names lead to
addresses that nobody has.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
from collections.abc import Mapping

import _qemulab_lan_dhcp as lan
from _qemulab_host_seam import HostError
from _qemulab_lan_dnsmasq_files import Lease
from _qemulab_pillar_keys import USER_NETWORK
from _qemulab_pillar_keys import Nic
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_rules_addresses import is_usable
from _qemulab_run_site import Site


def host_address(site: Site, network: str) -> str | None:
    """
    Return the host's address on a network, with its prefix; ``None`` where there is no such.

    In a dry run it is the one that the network's state has said.
    """
    if network in site.run.moves:
        return site.run.moves[network].now
    stored = site.store.network(network)
    return stored.address if stored else None


def leases(site: Site, network: str) -> list[Lease]:
    """Return what is leased on a network, but what it forgets since it gets another address."""
    found, now = lan.leases(site, network), host_address(site, network)
    subnet = ipaddress.IPv4Interface(now).network if now else None
    return [each for each in found if subnet and ipaddress.IPv4Address(each.address) in subnet]


def has_to_wait(site: Site, network: str, name: str, address: str) -> bool:
    """
    Return whether an address has to wait until its network has got its own new one.

    name
        Whose it is, for the error.

    Raises HostError where it is none of the network then either.
    """
    now = host_address(site, network)
    if now is None or is_usable(now, address):
        return False
    move = site.run.moves.get(network)
    if move is not None and is_usable(move.declared, address):
        return True
    subnet = ipaddress.IPv4Interface(now).network
    problem = f"{address} of {name} is no address of the network {network}, {subnet}"
    hint = "declare one of it; a new address of the network is applied first"
    raise HostError(problem, hint=hint)


def as_far_as_possible(site: Site, name: str, declared: Vm) -> Vm:
    """
    Return what can be made of a machine's declaration now: an address that has to wait is as it was
    until now, or none. Raises HostError where one is none of its network.
    """
    nics = list(declared.nics)
    for index, nic in enumerate(nics):
        given = nic.address and nic.network != USER_NETWORK
        if given and has_to_wait(site, nic.network, name, nic.address):
            before = address_before(site, name, index, nic)
            nics[index] = dataclasses.replace(nic, address=before)
    return dataclasses.replace(declared, nics=tuple(nics))


def address_before(site: Site, name: str, index: int, nic: Nic) -> str:
    """Return the address that a NIC has until now on the network that it is declared on."""
    defined, started = site.store.vm(name)
    for vm in (started, defined):
        here = vm.nics[index] if vm is not None and index < len(vm.nics) else None
        if here is not None and here.network == nic.network and here.address:
            return here.address
    return ""


def all_as_far_as_possible(site: Site, vms: Mapping[str, Vm]) -> dict[str, Vm]:
    """Return what can be made of several; one with an error is left out: its own state tells."""
    found = {}
    for name, vm in vms.items():
        with contextlib.suppress(HostError):
            found[name] = as_far_as_possible(site, name, vm)
    return found
