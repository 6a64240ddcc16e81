"""
Faults of addresses and names that machines have on the lab's networks. Pure.
"""

from __future__ import annotations

import ipaddress

from _qemulab_pillar_keys import USER_NETWORK
from _qemulab_pillar_keys import Lab
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Nic
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_kinds import Notes


def is_usable(on: str, value: str) -> bool:
    """Return whether a machine can have an address; ``on`` is the host's on the same network."""
    host = ipaddress.IPv4Interface(on)
    address = ipaddress.IPv4Address(value)
    ends = (host.network.network_address, host.network.broadcast_address)
    return address in host.network and address not in ends and address != host.ip


def fits(network: Network, value: str, where: str, notes: Notes) -> None:
    """Note an address that no machine of a network can have."""
    if not is_usable(network.address, value):
        subnet = ipaddress.IPv4Interface(network.address).network
        notes.fault(where, f"{value} is not an address of {subnet} that is not the host's own")


def check(lab: Lab, notes: Notes) -> None:
    """Note machines' addresses and names that do not fit their networks, or that others have."""
    # By network and address: who has it, and where that stands.
    taken: dict[tuple[str, str], tuple[str, str]] = {
        (name, item.address): (item.mac, f"lab:networks:{name}:reservations:{host_name}:address")
        for name, network in lab.networks.items()
        for host_name, item in network.reservations.items()
        if item is not None
    }
    for vm_name, vm in lab.vms.items():
        first: dict[str, str] = {}
        for index, nic in enumerate(vm.nics):
            path = f"lab:vms:{vm_name}:nics:{index}:address"
            network = lab.networks.get(nic.network)
            if nic.address and nic.network == USER_NETWORK:
                notes.fault(path, "only a NIC on one of the lab's networks has it")
            elif nic.address and network is not None:
                fits(network, nic.address, path, notes)
                check_free(nic, network, path, taken, notes)
                if nic.network in first:
                    problem = f"{vm_name} has one on {nic.network} already: {first[nic.network]}"
                    notes.fault(path, problem)
                first.setdefault(nic.network, path)
        for name in dict.fromkeys(nic.network for nic in vm.nics):
            if name in lab.networks:
                check_name(vm_name, vm, name, lab.networks[name], notes)


def check_free(
    nic: Nic,
    network: Network,
    path: str,
    taken: dict[tuple[str, str], tuple[str, str]],
    notes: Notes,
) -> None:
    """Note an address that another MAC address has, or another one that this MAC address has."""
    claim = nic.network, nic.address
    mac, where = taken.setdefault(claim, (nic.mac, path))
    if mac != nic.mac:
        notes.fault(path, f"{nic.address} is already taken by {where}")
    for host_name, item in network.reservations.items():
        if item is not None and item.mac == nic.mac and item.address != nic.address:
            problem = f"the reservation {host_name} gives its MAC address {item.address}"
            notes.fault(path, problem)


def check_name(vm_name: str, vm: Vm, name: str, network: Network, notes: Notes) -> None:
    """Note the name of a machine with an address where that name leads to another one."""
    here = [nic for nic in vm.nics if nic.network == name]
    address = next((nic.address for nic in here if nic.address), "")
    if not address:
        return
    item = network.reservations.get(vm_name)
    if item is not None and item.mac not in {nic.mac for nic in here}:
        problem = f"the machine {vm_name} has {address} here, and another MAC address"
        notes.fault(f"lab:networks:{name}:reservations:{vm_name}:mac", problem)
    if network.dns.names.get(vm_name, address) != address:
        path = f"lab:networks:{name}:dns:names:{vm_name}"
        notes.fault(path, f"the machine {vm_name} has {address}")
