"""
Where everything of a lab lies on disk. Pure: paths are named here, nothing is looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

WRITTEN = "written.json"
"""What keeps how each generated file was written, in the directory of what those are about."""
SOCKET_LIMIT = 107
"""Bytes that the path of a UNIX socket may have. Source: unix(7), sun_path less its final NUL."""


class Layout(NamedTuple):
    """
    The three trees of one lab.

    lab
        Name of the lab.

    root
        Prefix of all three, ``/`` by default (minion option ``qemulab.root``).
    """

    lab: str
    root: Path = Path("/")

    # what is shared by all labs of the host

    @property
    def state(self) -> Path:
        """What survives a reboot."""
        return self.root / "var/lib/qemulab"

    @property
    def runtime(self) -> Path:
        """Sockets and locks: gone at reboot."""
        return self.root / "run/qemulab"

    @property
    def logs(self) -> Path:
        """What the processes said."""
        return self.root / "var/log/qemulab"

    @property
    def guest(self) -> Path:
        """The built-in guest's kernel and image."""
        return self.state / "guest"

    @property
    def host_written(self) -> Path:
        """What generated files of the host's own were when they were written."""
        return self.state / WRITTEN

    # the lab

    @property
    def lab_state(self) -> Path:
        """What survives a reboot, of this lab."""
        return self.state / self.lab

    @property
    def lab_runtime(self) -> Path:
        """Sockets and locks of this lab."""
        return self.runtime / self.lab

    @property
    def lab_logs(self) -> Path:
        """Logs of this lab."""
        return self.logs / self.lab

    @property
    def lab_file(self) -> Path:
        """What the last apply declared of the lab as a whole."""
        return self.lab_state / "lab.json"

    @property
    def ssh_key(self) -> Path:
        """The lab's own private SSH key; the public one beside it ends in ``.pub``."""
        return self.lab_state / "ssh" / "id_ed25519"

    @property
    def authorized_keys(self) -> Path:
        """The public keys that the built-in guest lets in."""
        return self.lab_state / "ssh" / "authorized_keys"

    @property
    def known_hosts(self) -> Path:
        """The host keys of the machines that have one of their own, for ssh."""
        return self.lab_state / "ssh" / "known_hosts"

    @property
    def templates(self) -> Path:
        """Empty disks, and the firmware's UEFI variables in the machines' format, to copy from."""
        return self.lab_state / "templates"

    @property
    def units(self) -> Path:
        """What supervisord needs to know of each unit."""
        return self.lab_state / "units"

    @property
    def lab_written(self) -> Path:
        """What generated files of the lab as a whole were when they were written."""
        return self.lab_state / WRITTEN

    def unit_written(self, kind: str, name: str) -> Path:
        """Where that is kept for a unit's own files: with its machine, or its network."""
        return self.vm_written(name) if kind == "vm" else self.network_written(name)

    @property
    def supervisord_socket(self) -> Path:
        """Where the lab's supervisord listens."""
        return self.lab_runtime / "supervisord.sock"

    def lock(self, kind: str, name: str) -> Path:
        """The lock of one network or machine."""
        return self.lab_runtime / "locks" / f"{kind}-{name}"

    @property
    def host_etc(self) -> Path:
        """Where the machines' QEMUs, and nobody else, see the host's own ``/etc``."""
        return self.lab_runtime / "etc"

    # networks

    @property
    def networks(self) -> Path:
        """The networks' directories."""
        return self.lab_state / "networks"

    def network(self, name: str) -> Path:
        """The directory of one network: definition, scripts, dnsmasq's files."""
        return self.networks / name

    def network_file(self, name: str) -> Path:
        """What was applied of a network."""
        return self.network(name) / "network.json"

    def network_written(self, name: str) -> Path:
        """What a network's generated files were when they were written."""
        return self.network(name) / WRITTEN

    def leases(self, name: str) -> Path:
        """The DHCP server's leases; the directory above belongs to the user ``qemulab``."""
        return self.network(name) / "dhcp" / "leases"

    def etc(self, name: str) -> Path:
        """What the machines of a network have as ``/etc``: links to the host's, but one file."""
        return self.network(name) / "etc"

    # machines

    @property
    def vms(self) -> Path:
        """The machines' directories."""
        return self.lab_state / "vms"

    def vm(self, name: str) -> Path:
        """The directory of one machine: definition and launch script."""
        return self.vms / name

    def vm_file(self, name: str) -> Path:
        """What was applied of a machine, and what it was started with."""
        return self.vm(name) / "vm.json"

    def vm_written(self, name: str) -> Path:
        """What a machine's generated files were when they were written."""
        return self.vm(name) / WRITTEN

    def host_key(self, name: str) -> Path:
        """The private key that a machine's built-in guest is known by; ``.pub``: the public one."""
        return self.vm(name) / "ssh_host_ed25519_key"

    def snapshots_file(self, name: str) -> Path:
        """What a machine was, by the tag of each snapshot that has its memory."""
        return self.vm(name) / "snapshots.json"

    def hardware_file(self, name: str) -> Path:
        """The number of the hardware that a machine was made with."""
        return self.vm(name) / "hardware"

    def launch(self, name: str) -> Path:
        """The script that becomes QEMU."""
        return self.vm(name) / "launch"

    def in_use(self, name: str) -> Path:
        """The file that is there from a machine's start to its end in good order."""
        return self.disks(name) / ".in-use"

    def disks(self, name: str) -> Path:
        """A machine's disks and its UEFI variables; belongs to the user ``qemulab``."""
        return self.vm(name) / "disks"

    def disk(self, name: str, disk: str) -> Path:
        """One disk's image."""
        return self.disks(name) / f"{disk}.qcow2"

    def uefi_variables(self, name: str) -> Path:
        """A machine's own copy of the UEFI variables."""
        return self.disks(name) / "uefi-variables.qcow2"

    def vm_runtime(self, name: str) -> Path:
        """A machine's sockets."""
        return self.lab_runtime / "vms" / name

    def qmp(self, name: str) -> Path:
        """QEMU's control socket: qemulab's own, and each client's for one errand."""
        return self.vm_runtime(name) / "qmp.sock"

    def watch(self, name: str) -> Path:
        """A second one, for a client that stays."""
        return self.vm_runtime(name) / "watch.sock"

    def serial(self, name: str) -> Path:
        """The serial console's socket."""
        return self.vm_runtime(name) / "serial.sock"

    def vnc(self, name: str) -> Path:
        """The screen's socket."""
        return self.vm_runtime(name) / "vnc.sock"

    def media(self, name: str) -> Path:
        """Where files from elsewhere (ISO, backing images) appear to the machine's QEMU."""
        return self.vm_runtime(name) / "media"

    @property
    def consoles(self) -> Path:
        """The serial logs; belongs to the user ``qemulab``."""
        return self.lab_logs / "consoles"

    def console(self, name: str) -> Path:
        """What a machine said on its serial console."""
        return self.consoles / f"{name}.log"

    @property
    def console_cutter(self) -> Path:
        """The script that keeps the serial logs small."""
        return self.lab_state / "cut-consoles"

    def unit_log(self, kind: str, name: str) -> Path:
        """What a process said on its standard output and error (supervisord; systemd: journal)."""
        return self.lab_logs / f"{kind}-{name}.log"

    def socket_too_long(self, name: str) -> Path | None:
        """Return a machine's longest socket path where it is longer than a socket's may be."""
        path = self.serial(name)
        return path if len(str(path).encode()) > SOCKET_LIMIT else None
