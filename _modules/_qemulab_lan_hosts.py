"""
Who is on a network: what its DHCP and DNS server is told of each MAC address.

That comes from two places: the network's reservations, and the NICs of the machines on it. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import NamedTuple

from _qemulab_pillar_keys import USER_NETWORK
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Reservation
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_rules_addresses import is_usable


class Known(NamedTuple):
    """
    What the server knows of one MAC address.

    address, name
        Empty for none: the address then comes from the range, and no name leads to it.

    routed
        Whether it is handed the network's router.
    """

    mac: str
    address: str = ""
    name: str = ""
    routed: bool = True


def has_way_out(vm: Vm) -> bool:
    """Return whether a machine reaches the world by a NIC of its own, on QEMU's user network."""
    return any(nic.network == USER_NETWORK and not nic.restrict for nic in vm.nics)


def known(name: str, network: Network, vms: Mapping[str, Vm]) -> list[Known]:
    """
    Return what the server of a network knows, by reservations and then by machines.

    name, network
        The network.

    vms
        The lab's machines. Of two that have the same MAC address or address, as one that is no
        longer declared has it and its successor, it is the first one's.

    A machine's name goes to one of its NICs: the one with an address, else the first. A declared
    reservation stands before it: both for its MAC address and for its name. An address that the
    network has not (yet, or any more) is none: a name would lead to where nobody is.
    """

    def usable(address: str) -> str:
        return address if address and is_usable(network.address, address) else ""

    found = {
        item.mac: Known(item.mac, usable(item.address), host_name)
        for host_name, item in sorted(network.reservations.items())
    }
    away = set()
    addresses = {item.address for item in found.values()}
    # In the order of their names, so that the same machines always make the same text.
    order = dict.fromkeys(found, "")
    for vm_name, vm in vms.items():
        here = [nic for nic in vm.nics if nic.network == name]
        if has_way_out(vm):
            away |= {nic.mac for nic in here}
        others = [nic for nic in here if nic.mac not in found]
        own = next((nic for nic in others if nic.address), others[0] if others else None)
        taken = vm_name in network.reservations or len(others) < len(here)
        for nic in others:
            called = vm_name if nic is own and not taken else ""
            address = "" if nic.address in addresses else usable(nic.address)
            found.setdefault(nic.mac, Known(nic.mac, address, called))
            order.setdefault(nic.mac, vm_name)
            addresses.add(address)
    router = network.dhcp.router
    return [
        # A machine is not its own way out.
        item._replace(routed=item.mac not in away and item.address != router)
        for item in sorted(found.values(), key=lambda item: order[item.mac])
    ]


def reserved(name: str, vms: Mapping[str, Vm]) -> dict[str, Reservation]:
    """Return what machines reserve on a network by an address of their own, by machine."""
    return {
        vm_name: Reservation(nic.mac, nic.address)
        for vm_name, vm in vms.items()
        for nic in vm.nics
        if nic.network == name and nic.address
    }


def names(name: str, network: Network, vms: Mapping[str, Vm]) -> dict[str, str]:
    """
    Return the names that lead to an address before anybody has leased it.

    A machine whose MAC address is reserved under another name has its own beside that.
    """
    found = {item.name: item.address for item in known(name, network, vms) if item.name}
    addresses = {
        item.mac: item.address
        for item in network.reservations.values()
        if is_usable(network.address, item.address)
    }
    for vm_name, vm in vms.items():
        for nic in vm.nics:
            if nic.network == name and nic.mac in addresses:
                found.setdefault(vm_name, addresses[nic.mac])
    found.update(network.dns.names)
    return {host_name: address for host_name, address in found.items() if address}


def ranges(network: Network) -> list[tuple[str, str]]:
    """Return the range in parts that leave the router's address out: that is in nobody's range."""
    first, last = (ipaddress.IPv4Address(end) for end in network.dhcp.range.split("-"))
    if network.dhcp.router == "none":
        return [(str(first), str(last))]
    router = ipaddress.IPv4Address(network.dhcp.router)
    if not first <= router <= last:
        return [(str(first), str(last))]
    parts = [(first, router - 1), (router + 1, last)]
    return [(str(begin), str(end)) for begin, end in parts if begin <= end]
