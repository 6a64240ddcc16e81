"""
The declaration: pillar mapping -> frozen dataclasses with every default, or all its faults at once.

The keys themselves stand in ``_qemulab_pillar_keys``; here are the defaults that are worked out
from names, positions and addresses. Pure: neither Salt nor the host is asked.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import uuid
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from typing import NamedTuple
from typing import TypeVar

import _qemulab_pillar_kinds as kinds
import _qemulab_pillar_rules as rules
import _qemulab_pillar_schema as schema
from _qemulab_pillar_keys import DEFAULT_LAB
from _qemulab_pillar_keys import DEFAULT_NETWORK
from _qemulab_pillar_keys import IDE_DISKS
from _qemulab_pillar_keys import RECIPE_GROUP
from _qemulab_pillar_keys import USER_NETWORK
from _qemulab_pillar_keys import Disk
from _qemulab_pillar_keys import Forward
from _qemulab_pillar_keys import Lab
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Nic
from _qemulab_pillar_keys import Reservation
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_kinds import Fault
from _qemulab_pillar_kinds import Notes
from _qemulab_pillar_kinds import SpecError

T = TypeVar("T")


class Ports(NamedTuple):
    """
    What the ports are chosen by of machines that name none.

    stored
        The lab's machines as applied. One that has its port keeps it; one that is not declared
        (any more) keeps its own from others.

    free
        Returns whether a port of the host is free.
    """

    stored: Mapping[str, Vm] = {}
    free: Callable[[int], bool] = lambda _port: True


ALL_FREE = Ports()


def any_ports(_lab: str) -> Ports:
    """Return what ports are chosen by where the host is not asked."""
    return ALL_FREE


FIRST_FORWARD = 10022
NAMESPACE = uuid.UUID("b5a3b1de-6b0c-5d0e-9a43-5d1f0e7c2d11")
"""UUIDv5 namespace of the machines' UUIDs."""


class Declared(NamedTuple):
    """A lab that was read whole, with what is worth a warning."""

    lab: Lab
    warnings: tuple[Fault, ...] = ()


def from_pillar(pillar: Any, ports: Callable[[str], Ports] = any_ports) -> Declared:
    """
    Read the pillar's ``lab`` mapping.

    pillar
        What stands under ``lab`` in the pillar; ``None`` and an empty mapping are an empty lab.

    ports
        Returns, for the lab's name, what the ports are chosen by of machines that name none.
        Default: every port is free.

    Returns the lab with every default filled in. Raises SpecError with all faults at once.
    """
    lab, notes = survey(pillar, ports)
    if notes.faults or lab is None:
        raise SpecError(notes.faults)
    return Declared(lab, tuple(notes.warnings))


def survey(pillar: Any, ports: Callable[[str], Ports] = any_ports) -> tuple[Lab | None, Notes]:
    """
    Read the pillar's ``lab`` mapping as far as it can be read; the arguments are ``from_pillar``'s.

    Returns the lab (``None`` where it is no mapping at all) with all that was found wrong.
    """
    notes = Notes()
    lab = schema.read(Lab, {} if pillar is None else pillar, "lab", notes)
    if lab is not None:
        lab = complete(lab, ports(lab.name))
        rules.check(lab, notes)
    return lab, notes


def says_none(pillar: Any) -> bool:
    """Return whether a declaration says ``vms: {}``: no machine, where ``vms:`` says nothing."""
    return isinstance(pillar, Mapping) and pillar.get("vms") == {}


def complete(lab: Lab, ports: Ports) -> Lab:
    """Return the lab with the defaults that are worked out from names and positions."""
    networks = dict(lab.networks)
    vms = {name: vm for name, vm in lab.vms.items() if vm is not None}
    named = {nic.network for vm in vms.values() for nic in nics_of(vm)}
    if not networks and named & {"", DEFAULT_NETWORK}:
        networks[DEFAULT_NETWORK] = Network()
    networks = {
        name: complete_network(network, name, lab.name)
        for name, network in networks.items()
        if network is not None
    }
    only = next(iter(networks)) if len(networks) == 1 else ""
    vms = {name: complete_vm(vm, name, lab.name, only) for name, vm in vms.items()}
    return replace(lab, networks=networks, vms=with_forwards(vms, ports))


def nics_of(vm: Vm) -> list[Nic]:
    """Return a machine's NICs."""
    # One that could not be read keeps its place, so that the others' paths stay right.
    return [nic or Nic(network=USER_NETWORK, forwards=()) for nic in vm.nics]


def complete_network(network: Network, name: str, lab: str) -> Network:
    """Return a network with its name's and its address' defaults filled in."""
    subnet = ipaddress.IPv4Interface(network.address).network
    dhcp = network.dhcp
    if subnet.prefixlen <= 24:
        first = subnet.network_address
        dhcp = replace(
            dhcp,
            range=dhcp.range or f"{first + 100}-{first + 200}",
            router=dhcp.router or str(first + 101),
        )
    else:
        dhcp = replace(dhcp, router=dhcp.router or "none")
    return replace(
        network,
        interface=network.interface or name,
        multicast=network.multicast or default_group(lab, name),
        dhcp=dhcp,
        dns=replace(network.dns, domain=network.dns.domain or f"{lab}.internal"),
    )


def default_group(lab: str, network: str) -> str:
    """
    Return the multicast group of a network that names none.

    The recipe's own for its own network; any other in 239.192.0.0/14, the organization-local
    scope (RFC 2365), from a digest of the names, so that two labs do not share a segment.
    """
    if (lab, network) == (DEFAULT_LAB, DEFAULT_NETWORK):
        return RECIPE_GROUP
    digest = hashlib.sha256(f"{lab}/{network}".encode()).digest()
    return f"239.{192 + digest[0] % 4}.{digest[1]}.{digest[2] or 1}:1234"


def default_mac(lab: str, vm: str, index: int) -> str:
    """Return the MAC address of a NIC that names none, under QEMU's prefix 52:54:00."""
    digest = hashlib.sha256(f"{lab}/{vm}/{index}".encode()).hexdigest()
    return f"52:54:00:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}"


def complete_vm(vm: Vm, name: str, lab: str, only_network: str) -> Vm:
    """Return a machine with its names', positions' and boot order's defaults filled in."""
    disks = []
    for index, disk in enumerate(disk or Disk(bus="virtio") for disk in vm.disks):
        bus = "ide" if vm.machine == "pc" and index < IDE_DISKS else "scsi"
        letter = chr(ord("a") + index) if index < 26 else f"a{index}"
        disks.append(replace(disk, name=disk.name or f"hd{letter}", bus=disk.bus or bus))
    nics = tuple(
        replace(
            nic,
            network=nic.network or only_network,
            mac=nic.mac or default_mac(lab, name, index),
        )
        for index, nic in enumerate(nics_of(vm))
    )
    boot = vm.boot
    if not boot:
        installed = any(disk.backing for disk in disks)
        boot = "cdrom" if vm.cdrom else "disk" if installed else "guest"
    return replace(vm, disks=tuple(disks), nics=nics, boot=boot)


def ports_of(vm: Vm) -> set[int]:
    """Return the ports of the host that a machine listens on."""
    forwards = {forward for nic in vm.nics for forward in nic.forwards or () if forward is not None}
    return {forward.host_port for forward in forwards} | ({vm.vnc_port} - {0})


def with_forwards(vms: Mapping[str, Vm], ports: Ports) -> dict[str, Vm]:
    """Give every machine whose first user NIC has no forwards a free port for its SSH."""
    taken = {port for vm in vms.values() for port in ports_of(vm)}
    for name, vm in ports.stored.items():
        if name not in vms:
            taken |= ports_of(vm)
    needy = {}
    for name, vm in vms.items():
        index = _first_user_nic(vm)
        if index is not None and vm.nics[index].forwards is None:
            needy[name] = index
    given = {}
    for name in needy:
        kept = _kept_port(ports.stored.get(name))
        if kept and kept not in taken:
            given[name] = kept
            taken.add(kept)
    for name in sorted(needy.keys() - given.keys()):
        candidates = range(FIRST_FORWARD, 65536)
        given[name] = next(port for port in candidates if port not in taken and ports.free(port))
        taken.add(given[name])
    result = {}
    for name, vm in vms.items():
        nics = [replace(nic, forwards=nic.forwards or ()) for nic in vm.nics]
        if name in needy:
            forward = Forward(host_port=given[name])
            nics[needy[name]] = replace(nics[needy[name]], forwards=(forward,))
        result[name] = replace(vm, nics=tuple(nics))
    return result


def _first_user_nic(vm: Vm) -> int | None:
    """Return the position of a machine's first NIC on QEMU's user network, ``None`` for none."""
    on_user = (index for index, nic in enumerate(vm.nics) if nic.network == USER_NETWORK)
    return next(on_user, None)


def _kept_port(vm: Vm | None) -> int:
    """Return the port of the host that a machine has for its SSH and nothing else, or 0."""
    index = None if vm is None else _first_user_nic(vm)
    forwards = () if vm is None or index is None else vm.nics[index].forwards or ()
    port = forwards[0].host_port if len(forwards) == 1 else 0
    return port if forwards == (Forward(host_port=port),) else 0


def network_from(name: str, declaration: Any, lab: str) -> Network:
    """
    Read one network's declaration, as a state's arguments give it. Raises SpecError.
    """
    return _single("networks", name, declaration, lab).networks[name]


def reservation_from(name: str, declaration: Any, network: str) -> Reservation:
    """
    Read one reservation's declaration, as a state's arguments give it. Raises SpecError.

    Whether it fits its network and the other reservations is the whole pillar's check: here two
    of them may be on their way to swap addresses.
    """
    notes = Notes()
    path = f"lab:networks:{network}:reservations:{name}"
    found = schema.read(Reservation, declaration, path, notes)
    schema.attempt(kinds.NAME, name, path, notes)
    if notes.faults or found is None:
        raise SpecError(notes.faults)
    return found


def vm_from(
    name: str, declaration: Any, lab: str, networks: Mapping[str, Network], ports: Ports = ALL_FREE
) -> Vm:
    """
    Read one machine's declaration, as a state's arguments give it. Raises SpecError.

    networks
        The networks that the lab has. Another network is no fault yet: in a dry run it may come
        before the machine does.

    ports
        What its port is chosen by where it names none. Default: every port is free.
    """
    return _single("vms", name, declaration, lab, networks, ports).vms[name]


def readable_vms(
    declarations: Mapping[str, Any],
    lab: str,
    networks: Mapping[str, Network],
    ports: Ports = ALL_FREE,
) -> dict[str, Vm]:
    """Return machines' declarations read; a faulty one is left to the call that it is meant for."""
    found: dict[str, Vm] = {}
    for name, declaration in declarations.items():
        known = ports._replace(stored={**ports.stored, **found})
        with contextlib.suppress(SpecError):
            found[name] = vm_from(name, declaration, lab, networks, known)
    return found


def _single(
    noun: str,
    name: str,
    declaration: Any,
    lab: str,
    networks: Mapping[str, Network] | None = None,
    ports: Ports = ALL_FREE,
) -> Lab:
    """Read a lab of one thing, so that one thing is checked just as a whole pillar is."""
    notes = Notes()
    found = schema.read(Lab, {"name": lab, noun: {name: declaration}}, "lab", notes)
    if found is not None:
        if networks:
            found = replace(found, networks=dict(networks))
        found = complete(found, ports)
        named = {nic.network for vm in found.vms.values() for nic in vm.nics if nic.network}
        unknown = named - set(found.networks) - {USER_NETWORK}
        rules.check_vms(found, {**dict.fromkeys(unknown, Network()), **found.networks}, notes)
        if noun == "networks" and name in found.networks:
            rules.check_network(found.networks[name], f"lab:networks:{name}", notes)
    if notes.faults or found is None:
        raise SpecError(notes.faults)
    return found


def stored(cls: type[T], value: Any) -> T:
    """
    Return what an earlier apply stored as a dataclass.

    What another version stored and this one does not know is passed over. Raises SpecError where
    it cannot be read at all.
    """
    notes = Notes()
    found = schema.read(cls, value, "stored", notes, lenient=True)
    if found is None:
        raise SpecError(notes.faults)
    return found


def vm_uuid(lab: str, name: str) -> str:
    """Return the UUID of a machine: the same for the same names on every host."""
    return str(uuid.uuid5(NAMESPACE, f"{lab}/{name}"))
