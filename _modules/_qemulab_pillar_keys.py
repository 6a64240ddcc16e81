"""
Every key of the pillar: its type, unit, default and effect. They stand here and nowhere else.

``docs/pillar.md`` is held against this file by a test. What the pillar does not say has the value
of Yomi's recipe. Pure: neither Salt nor the host is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import _qemulab_pillar_kinds as kinds
from _qemulab_pillar_kinds import choice
from _qemulab_pillar_kinds import integer
from _qemulab_pillar_schema import key
from _qemulab_pillar_schema import list_of
from _qemulab_pillar_schema import mapping_of
from _qemulab_pillar_schema import nested
from _qemulab_pillar_schema import words_or

DEFAULT_LAB = "lab"
DEFAULT_NETWORK = "vmlan"
SHARED_NAME = "guest"
"""The directory beside the labs' own that holds the built-in guest."""
USER_NETWORK = "user"
"""What a NIC names to sit on QEMU's user network instead of one of the lab's."""
RECIPE_GROUP = "230.0.0.1:1234"
OWN_IMAGES = ("cdrom", "uefi-variables")
"""What a machine has beside its disks, by the names that their files and media have."""
GUEST_MEMORY = {"bios": 112, "uefi": 176}
"""MB in which the built-in guest unpacks itself, by firmware. Measured: 96 and 160 do not do."""
IDE_DISKS = 3
"""Disks on the IDE controller of machine type ``pc``: four slots, one of them the CD drive's."""

LINK = "link"
SERVER = "server"
NAMES = "names"
UNIT = "unit"
QMP = "qmp"
START = "start"
DISK = "disk"
NOTHING = "nothing"

TAKERS = {
    LINK: "the network's TAP and route are made anew, and its two processes on them",
    SERVER: "the network's DHCP and DNS server reads it when it starts: it is started anew",
    NAMES: "the network's DHCP and DNS server reads it again while it runs",
    UNIT: "what the supervisor runs is written anew; nothing is restarted for it",
    QMP: "the QEMU that runs is told",
    START: "QEMU reads it when it starts",
    DISK: "a disk's image is made with it, and is never changed to it",
    NOTHING: "it is only looked up when it is needed",
}
"""What takes a changed key up where something runs; beside its effect, which is what that costs."""


@dataclass(frozen=True)
class Forward:
    """A port of the host that leads to a port of the machine."""

    # fmt: off
    host_port: int = key(kinds.PORT, effect="live", takes=QMP,
        doc="port on the host", default_text="required")
    guest_port: int = key(kinds.PORT, 22, effect="live", takes=QMP,
        doc="port in the machine")
    host_address: str = key(kinds.IPV4, "127.0.0.1", effect="live", takes=QMP,
        doc="address on the host; any other than 127.0.0.1 opens the machine to the network")
    protocol: str = key(choice("tcp", "udp"), "tcp", effect="live", takes=QMP,
        doc="transport protocol")
    # fmt: on

    def __str__(self) -> str:
        where = f"{self.host_address}:{self.host_port}"
        return f"{where} to {self.guest_port}/{self.protocol}"


@dataclass(frozen=True)
class Nic:
    """One network interface of a machine."""

    # fmt: off
    network: str = key(kinds.NAME, "", effect="restart", takes=START, made=True,
        default_text="the only network",
        doc="network it sits on; `user` is QEMU's own user network (10.0.2.0/24, with NAT)")
    mac: str = key(kinds.MAC, "", effect="restart", takes=START, made=True,
        default_text="from the names of lab and machine",
        doc="MAC address; quote it")
    address: str = key(kinds.IPV4, "", effect="live", takes=NAMES,
        default_text="from the network's range",
        doc="address in the network that is reserved for it, under the machine's name; not on "
        "network `user`")
    model: str = key(choice("virtio-net-pci", "e1000", "e1000e", "rtl8139"), "virtio-net-pci",
        effect="restart", takes=START, doc="device that the machine sees")
    connected: bool = key(kinds.BOOLEAN, True, effect="live", takes=QMP,
        doc="whether the cable is plugged in")
    forwards: tuple[Forward, ...] | None = key(list_of(nested(Forward)), None,
        effect="live", takes=QMP, of=Forward, made=True,
        default_text="on the first `user` NIC: the first free port from 10022 to the machine's 22",
        doc="ports of the host that lead into the machine; only on network `user`")
    restrict: bool = key(kinds.BOOLEAN, False, effect="restart", takes=START,
        doc="keep the machine from reaching the host and the world; only on network `user`")
    # fmt: on


@dataclass(frozen=True)
class Disk:
    """One disk of a machine."""

    # fmt: off
    name: str = key(kinds.NAME, "", effect="restart", takes=START,
        default_text="hda, hdb, … by position", doc="name of the disk's file")
    size: str = key(kinds.SIZE, "50G", effect="live", takes=QMP, unit="K, M, G, T (powers of 1024)",
        doc="size of the qcow2 image; it only ever grows, on the `ide` bus with a `restart`")
    bus: str = key(choice("ide", "scsi", "virtio"), "", effect="restart", takes=START,
        default_text="`ide` for the first three on machine type `pc`, else `scsi`",
        doc="controller; ide and scsi disks are /dev/sda and on, virtio ones /dev/vda and on")
    backing: str = key(kinds.PATH, "", effect="recreate", takes=DISK, default_text="none",
        doc="qcow2 image that the disk starts as a copy of; it is read, never written")
    # fmt: on


@dataclass(frozen=True)
class Vm:
    """One machine."""

    # fmt: off
    memory: int = key(integer(16, 4 * 1024 * 1024, "MB"), 2048,
        effect="restart", takes=START, unit="MB", doc="memory")
    cpus: int = key(integer(1, 255), 2, effect="restart", takes=START,
        doc="virtual CPUs")
    cpu: str = key(kinds.CPU_MODEL, "", effect="restart", takes=START,
        default_text="`host` under KVM, QEMU's own (`qemu64`) under TCG",
        doc="CPU model; `max` has all that TCG can do, which newer distributions need")
    machine: str = key(choice("pc", "q35"), "pc", effect="restart", takes=START,
        doc="machine type")
    accel: str = key(choice("auto", "kvm", "tcg"), "auto", effect="restart", takes=START,
        doc="accelerator; `auto` takes KVM where it really works")
    firmware: str = key(choice("uefi", "bios"), "uefi", effect="restart", takes=START,
        doc="firmware; `uefi` is OVMF with the machine's own copy of the variables")
    boot: str = key(choice("guest", "cdrom", "disk"), "", effect="restart", takes=START,
        default_text="`cdrom` where one is declared, else `disk` where one has a `backing`, "
        "else `guest`",
        doc="what is booted first; `guest` is the built-in guest")
    cdrom: str = key(kinds.PATH, "", effect="live", takes=QMP, default_text="an empty drive",
        doc="ISO image in the CD drive; it is read where it lies, never copied")
    disks: tuple[Disk, ...] = key(list_of(nested(Disk)), (Disk(),), of=Disk,
        default_text="one of 50G", doc="disks; an empty list for none")
    nics: tuple[Nic, ...] = key(list_of(nested(Nic)), (Nic(), Nic(network=USER_NETWORK)), of=Nic,
        default_text="one on the only network, one on `user`",
        doc="network interfaces; an empty list for none")
    display: str = key(choice("none", "vnc"), "none", effect="restart", takes=START,
        doc="screen; `vnc` gives VGA, keyboard and tablet")
    vnc_port: int = key(integer(5900, 65535), 0, effect="restart", takes=START,
        default_text="none: a UNIX socket", doc="port on 127.0.0.1 for `display: vnc`")
    on_change: str = key(choice("report", "restart"), "report", effect="live", takes=NOTHING,
        doc="what is done about a change that needs a restart")
    autostart: bool = key(kinds.BOOLEAN, False, effect="boot", takes=UNIT,
        doc="start with the host (needs systemd)")
    stop_grace: int = key(integer(0, 3600, "s"), 30, effect="live", takes=UNIT, unit="s",
        doc="how long a machine may take to power off before it is cut off")
    # fmt: on


@dataclass(frozen=True)
class Dhcp:
    """What the DHCP server of a network hands out."""

    # fmt: off
    range: str = key(kinds.RANGE, "", effect="live", takes=SERVER,
        default_text="numbers 100 to 200 of the network",
        doc="addresses for machines without a reservation")
    router: str = key(words_or(kinds.IPV4, "none"), "", effect="live", takes=SERVER,
        default_text="number 101 of the network (in the recipe: master)",
        doc="default route handed out; `none` hands out none")
    lease_time: str = key(kinds.LEASE_TIME, "1h", effect="live", takes=SERVER, unit="s, m, h, d, w",
        doc="how long a lease is good for")
    # fmt: on


@dataclass(frozen=True)
class Dns:
    """What the DNS server of a network answers."""

    # fmt: off
    domain: str = key(words_or(kinds.HOSTNAME, "none"), "", effect="live", takes=SERVER, made=True,
        default_text="`LAB.internal`, by the lab's name",
        doc="domain that is handed out, and that every short name resolves in as well; `none` for "
        "none")
    upstream: Any = key(words_or(list_of(kinds.IPV4), "host", "none"), "host",
        effect="live", takes=SERVER,
        doc="who is asked for other names: the host's resolvers, nobody, or these addresses")
    names: dict[str, str] = key(mapping_of(kinds.HOSTNAME, kinds.IPV4), {},
        effect="live", takes=NAMES, default_text="none", doc="further names and their addresses")
    # fmt: on


@dataclass(frozen=True)
class Reservation:
    """An address and a name that one MAC address always gets."""

    # fmt: off
    mac: str = key(kinds.MAC, effect="live", takes=NAMES, default_text="required",
        doc="MAC address; quote it")
    address: str = key(kinds.IPV4, effect="live", takes=NAMES, default_text="required",
        doc="address in the network")
    # fmt: on


@dataclass(frozen=True)
class Network:
    """One network with the host on it."""

    # fmt: off
    address: str = key(kinds.ADDRESS_WITH_PREFIX, "10.0.3.1/24", effect="restart", takes=LINK,
        doc="the host's address on it and the length of its prefix")
    interface: str = key(kinds.INTERFACE, "", effect="live", takes=LINK,
        default_text="the network's name", doc="TAP interface on the host")
    multicast: str = key(kinds.GROUP, "", effect="restart", takes=LINK, made=True,
        default_text=f"{RECIPE_GROUP} for `{DEFAULT_NETWORK}` of the lab `{DEFAULT_LAB}`, "
        "else from the names",
        doc="multicast group and port that joins QEMU's machines; it never leaves the host")
    dhcp: Dhcp = key(nested(Dhcp), Dhcp(), of=Dhcp, default_text="as below",
        doc="the DHCP server")
    dns: Dns = key(nested(Dns), Dns(), of=Dns, default_text="as below",
        doc="the DNS server")
    reservations: dict[str, Reservation] = key(mapping_of(kinds.NAME, nested(Reservation)), {},
        of=Reservation, default_text="none",
        doc="reserved addresses by host name; the name resolves before its machine runs")
    on_change: str = key(choice("report", "restart"), "report", effect="live", takes=NOTHING,
        doc="what is done about a change that its running machines must be restarted for")
    autostart: bool = key(kinds.BOOLEAN, False, effect="boot", takes=UNIT,
        doc="start with the host (needs systemd)")
    # fmt: on


@dataclass(frozen=True)
class Lab:
    """All that one pillar declares on one host."""

    # fmt: off
    name: str = key(kinds.NAME, DEFAULT_LAB,
        doc="name of the lab; several labs live beside each other by their names")
    networks: dict[str, Network] = key(mapping_of(kinds.NAME, nested(Network)), {},
        of=Network, default_text=f"`{DEFAULT_NETWORK}` where a machine needs one",
        doc="networks by name")
    vms: dict[str, Vm] = key(mapping_of(kinds.NAME, nested(Vm)), {},
        of=Vm, default_text="none", doc="machines by name")
    authorized_keys: tuple[str, ...] = key(list_of(kinds.SSH_KEY), (), effect="live",
        default_text="the public keys of the user behind sudo",
        doc="who may log in as root to the built-in guest, beside the lab's own key; a guest that "
        "runs takes them at its next start")
    prune: str = key(choice("report", "stop"), "report", effect="live",
        doc="what is done about what the lab made and the pillar no longer declares")
    # fmt: on
