"""
What only shows where several values of a declaration are seen together: overlaps, duplicates.

Pure: neither Salt nor the host is asked; ``_qemulab_check_host`` does that.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import _qemulab_pillar_rules_addresses as addresses
from _qemulab_pillar_keys import GUEST_MEMORY
from _qemulab_pillar_keys import IDE_DISKS
from _qemulab_pillar_keys import OWN_IMAGES
from _qemulab_pillar_keys import SHARED_NAME
from _qemulab_pillar_keys import USER_NETWORK
from _qemulab_pillar_keys import Lab
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_kinds import INTERFACE
from _qemulab_pillar_kinds import Notes
from _qemulab_pillar_schema import attempt


def check(lab: Lab, notes: Notes) -> None:
    """Note every fault that only shows where several values are seen together."""
    if lab.name == SHARED_NAME:
        notes.fault("lab:name", f"{SHARED_NAME} is where the host keeps what all labs share")
    for name, network in lab.networks.items():
        check_network(network, f"lab:networks:{name}", notes)
    check_networks_together(lab.networks, notes)
    check_vms(lab, lab.networks, notes)
    addresses.check(lab, notes)
    check_reserved(lab, notes)


def check_reserved(lab: Lab, notes: Notes) -> None:
    """Warn of reservations that no machine of the lab would ever ask for, where it has any."""
    for name, network in lab.networks.items() if lab.vms else ():
        macs = {nic.mac for vm in lab.vms.values() for nic in vm.nics if nic.network == name}
        for host_name, item in network.reservations.items():
            if item is not None and item.mac not in macs:
                problem = f"no NIC on network {name} has {item.mac}"
                notes.warn(f"lab:networks:{name}:reservations:{host_name}:mac", problem)


def check_vms(lab: Lab, networks: Mapping[str, Network], notes: Notes) -> None:
    """Note every fault of the machines, each by itself and all together."""
    for name, vm in lab.vms.items():
        check_vm(vm, networks, f"lab:vms:{name}", notes)
    check_unique(
        [
            (f"lab:vms:{name}:nics:{index}:mac", nic.mac)
            for name, vm in lab.vms.items()
            for index, nic in enumerate(vm.nics)
        ],
        notes,
    )
    check_ports(lab, notes)


def check_unique(claims: list[tuple[str, str]], notes: Notes) -> None:
    """Note each value that two places claim, at the second place, naming the first."""
    seen: dict[str, str] = {}
    for path, value in claims:
        if value in seen:
            notes.fault(path, f"{value} is already taken by {seen[value]}")
        else:
            seen[value] = path


def check_ports(lab: Lab, notes: Notes) -> None:
    """Note ports of the host that two places claim; 0.0.0.0 claims one at every address."""
    seen: list[tuple[str, str, str]] = []
    for path, address, port in port_claims(lab):
        for other_path, other_address, other_port in seen:
            everywhere = "0.0.0.0" in (address, other_address)
            if port == other_port and (address == other_address or everywhere):
                notes.fault(path, f"{address}:{port} is already taken by {other_path}")
                break
        else:
            seen.append((path, address, port))


def port_claims(lab: Lab) -> list[tuple[str, str, str]]:
    """Return every port that the lab would listen on: path in the pillar, address, port."""
    claims = []
    for name, vm in lab.vms.items():
        for index, nic in enumerate(vm.nics):
            for number, forward in enumerate(nic.forwards or ()):
                if forward is not None:
                    path = f"lab:vms:{name}:nics:{index}:forwards:{number}:host_port"
                    port = f"{forward.host_port}/{forward.protocol}"
                    claims.append((path, forward.host_address, port))
        if vm.vnc_port:
            claims.append((f"lab:vms:{name}:vnc_port", "127.0.0.1", f"{vm.vnc_port}/tcp"))
    return claims


def check_network(network: Network, path: str, notes: Notes) -> None:
    """Note addresses that do not fit the network, and values that are taken twice in it."""
    host = ipaddress.IPv4Interface(network.address)
    attempt(INTERFACE, network.interface, f"{path}:interface", notes)  # it may be the name's

    if not network.dhcp.range:
        problem = f"is missing: {host.network} is too small for the default, 100 to 200"
        notes.fault(f"{path}:dhcp:range", problem)
    else:
        first, last = network.dhcp.range.split("-")
        addresses.fits(network, first, f"{path}:dhcp:range", notes)
        if last != first:
            addresses.fits(network, last, f"{path}:dhcp:range", notes)
        if ipaddress.IPv4Address(first) <= host.ip <= ipaddress.IPv4Address(last):
            notes.fault(f"{path}:dhcp:range", f"has the host's own address {host.ip} in it")
    if network.dhcp.router not in ("none", str(host.ip)):
        addresses.fits(network, network.dhcp.router, f"{path}:dhcp:router", notes)
    kept = {name: item for name, item in network.reservations.items() if item is not None}
    for name, item in kept.items():
        addresses.fits(network, item.address, f"{path}:reservations:{name}:address", notes)
        if network.dns.names.get(name, item.address) != item.address:
            notes.fault(f"{path}:dns:names:{name}", f"the reservation {name} has {item.address}")
    for what in ("mac", "address"):
        claims = [
            (f"{path}:reservations:{name}:{what}", getattr(item, what))
            for name, item in kept.items()
        ]
        check_unique(claims, notes)


def check_networks_together(networks: Mapping[str, Network], notes: Notes) -> None:
    """Note networks that overlap or share an interface or a multicast group."""
    if USER_NETWORK in networks:
        notes.fault(f"lab:networks:{USER_NETWORK}", "this name means QEMU's own user network")
    for what in ("interface", "multicast"):
        claims = [(f"lab:networks:{name}:{what}", getattr(n, what)) for name, n in networks.items()]
        check_unique(claims, notes)
    seen: list[tuple[str, ipaddress.IPv4Network]] = []
    for name, network in networks.items():
        subnet = ipaddress.IPv4Interface(network.address).network
        for other, taken in seen:
            if subnet.overlaps(taken):
                problem = f"{subnet} overlaps {taken} of the network {other}"
                notes.fault(f"lab:networks:{name}:address", problem)
        seen.append((name, subnet))


def check_vm(vm: Vm, networks: Mapping[str, Network], path: str, notes: Notes) -> None:
    """Note NICs on no network, slots that are not there and keys that contradict each other."""
    for index, nic in enumerate(vm.nics):
        here = f"{path}:nics:{index}"
        on_user = nic.network == USER_NETWORK
        if not nic.network:
            problem = f"is missing: the lab has {', '.join(networks) or 'no network'}"
            notes.fault(f"{here}:network", problem)
        elif not on_user and nic.network not in networks:
            known = ", ".join([*networks, USER_NETWORK])
            notes.fault(f"{here}:network", f"there is no network {nic.network}; known are {known}")
        if not on_user and (nic.forwards or nic.restrict):
            word = "forwards" if nic.forwards else "restrict"
            notes.fault(f"{here}:{word}", f"only a NIC on network {USER_NETWORK} has it")
        for number, forward in enumerate(nic.forwards or ()):
            if forward is not None and not forward.host_address.startswith("127."):
                problem = f"{forward.host_address} opens the machine to the network"
                notes.warn(f"{here}:forwards:{number}:host_address", problem)
    check_unique([(f"{path}:disks:{i}:name", d.name) for i, d in enumerate(vm.disks)], notes)
    for index, disk in enumerate(vm.disks):
        if disk.name in OWN_IMAGES:
            notes.fault(f"{path}:disks:{index}:name", f"{disk.name} means the machine's own")
    ide = [index for index, disk in enumerate(vm.disks) if disk.bus == "ide"]
    limit = IDE_DISKS if vm.machine == "pc" else 0
    for index in ide[limit:]:
        problem = f"machine type {vm.machine} has room for {limit} ide disks; take scsi or virtio"
        notes.fault(f"{path}:disks:{index}:bus", problem)
    needed = GUEST_MEMORY[vm.firmware] if vm.boot == "guest" else 0
    if vm.memory < needed:
        problem = f"the built-in guest boots with {needed} MB or more through {vm.firmware}"
        notes.warn(f"{path}:memory", problem)
    if vm.boot == "cdrom" and not vm.cdrom:
        notes.fault(f"{path}:boot", "there is no cdrom to boot from")
    if vm.boot == "disk" and not vm.disks:
        notes.fault(f"{path}:boot", "there is no disk to boot from")
    if vm.vnc_port and vm.display != "vnc":
        notes.fault(f"{path}:vnc_port", "needs display: vnc")
