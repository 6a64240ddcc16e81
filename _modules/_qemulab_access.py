"""
Who gets into the machines: the lab's own SSH key, the keys that may log in, the ssh command.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import _qemulab_host as host
from _qemulab_host import HostError
from _qemulab_keys import USER_NETWORK
from _qemulab_keys import Reservation
from _qemulab_keys import Vm
from _qemulab_kinds import SSH_KEY
from _qemulab_kinds import Bad
from _qemulab_kinds import Notes
from _qemulab_layout import Layout
from _qemulab_site import Site

OPTIONS = {
    # A machine that is installed anew has a new host key each time, at the same address.
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": "/dev/null",
    "LogLevel": "ERROR",
}
"""Source: ssh_config(5)"""

KEY_FILE_LIMIT = 2**20
"""Bytes that are read of a file with public keys."""


def make_key(layout: Layout) -> None:
    """Make the lab's own SSH key; one that is there stays."""
    if layout.ssh_key.exists():
        return
    # By the program: the Python at the other end of salt-ssh need not have cryptography.
    scratch = layout.ssh_key.with_name(".new")
    public = scratch.with_suffix(".pub")
    host.make_directory(scratch.parent)
    for path in (scratch, public):
        host.remove(path)
    comment = f"qemulab {layout.lab}"
    host.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(scratch)])
    # The private key comes last: it is what says that both are there.
    host.write(layout.ssh_key.with_suffix(".pub"), host.read(public) or "")
    host.write(layout.ssh_key, host.read(scratch) or "", mode=0o600)
    for path in (scratch, public):
        host.remove(path)


def user_keys() -> list[str]:
    """
    Return the public keys of the user behind sudo, or else of the user who applies.

    Whatever else lies there under such a name is passed over: files in another format, directories,
    pipes, what cannot be read; root itself may not enter a home on another host's disk.
    """
    name = os.environ.get("SUDO_USER", "")
    try:
        entry = pwd.getpwnam(name) if name else pwd.getpwuid(os.getuid())
    except KeyError:
        return []
    directory = Path(entry.pw_dir) / ".ssh"
    found: list[str] = []
    # The home may be below a file, and what the user has called .pub may be anything.
    with contextlib.suppress(OSError, HostError):
        for file in host.list_directory(directory):
            if file.endswith(".pub"):
                found += public_keys(Path(os.path.realpath(directory / file)))
    return found


def public_keys(path: Path) -> list[str]:
    """Return the public keys in a file, none where it cannot be read or has none."""
    found = []
    with contextlib.suppress(OSError, HostError):
        # Not what is a pipe: opening it would wait for whoever writes.
        text = host.read(path, limit=KEY_FILE_LIMIT) if path.is_file() else ""
        for line in (text or "").splitlines():
            with contextlib.suppress(Bad):
                found.append(SSH_KEY.parse(line, "", Notes()))
    return found


def write_authorized_keys(site: Site) -> None:
    """Write the keys that the built-in guest lets in: the lab's own, and those declared."""
    declared = list(site.facts().authorized_keys)
    own = (host.read(site.layout.ssh_key.with_suffix(".pub")) or "").strip()
    keys = [own, *(declared or user_keys())]
    text = "".join(f"{key}\n" for key in dict.fromkeys(keys) if key)
    host.write(site.layout.authorized_keys, text)


def endpoint(vm: Vm, reservations: Mapping[str, Reservation]) -> tuple[str, int] | None:
    """
    Return where a machine's SSH is reached from the host: address and port.

    By a port forwarded to its port 22, else at the address reserved for one of its NICs; ``None``
    where it has neither.
    """
    for nic in vm.nics:
        for forward in nic.forwards or ():
            if forward.guest_port == 22 and forward.protocol == "tcp":
                return forward.host_address, forward.host_port
    by_mac = {item.mac: item.address for item in reservations.values()}
    for nic in vm.nics:
        if nic.network != USER_NETWORK and nic.mac in by_mac:
            return by_mac[nic.mac], 22
    return None


def vm_endpoint(site: Site, vm: Vm) -> tuple[str, int] | None:
    """Return where a machine's SSH is reached, with what the lab has reserved."""
    reservations = {}
    for nic in vm.nics:
        if nic.network != USER_NETWORK:
            reservations.update(site.reservations(nic.network))
    return endpoint(vm, reservations)


def ssh_command(site: Site, vm: Vm) -> str:
    """Return the whole command that logs in to a machine, empty where there is no way in."""
    found = vm_endpoint(site, vm)
    if found is None:
        return ""
    options = " ".join(f"-o {name}={value}" for name, value in OPTIONS.items())
    address, port = found
    # The key is root's: whoever came by sudo needs it again.
    sudo = "sudo " if os.environ.get("SUDO_USER", "root") != "root" else ""
    key = shlex.quote(str(site.layout.ssh_key))
    return f"{sudo}ssh -i {key} -p {port} {options} root@{address}"


def identity(path: Path) -> str:
    """Return a path for ssh's configuration, where ``%`` is a token. Source: ssh_config(5)"""
    text = str(path).replace("%", "%%")
    if not re.search(r"""[\s"'\\#]""", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def ssh_config(site: Site, vms: Mapping[str, Vm]) -> str:
    """Return a configuration for ssh with every machine that can be reached."""
    blocks = []
    for name, vm in sorted(vms.items()):
        found = vm_endpoint(site, vm)
        if found is None:
            continue
        address, port = found
        lines = [f"Host {name}", f"    HostName {address}", f"    Port {port}", "    User root"]
        lines += [f"    IdentityFile {identity(site.layout.ssh_key)}"]
        lines += [f"    {option} {value}" for option, value in OPTIONS.items()]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)
