"""
Who gets into the machines, and how a machine is known: the lab's own SSH key, the keys that may log
in, the machines' host keys, the ssh command.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import _qemulab_guest_image as image
import _qemulab_host_generated as written
import _qemulab_host_seam as host
from _qemulab_host_paths import Layout
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import USER_NETWORK
from _qemulab_pillar_keys import Reservation
from _qemulab_pillar_keys import Vm
from _qemulab_pillar_kinds import SSH_KEY
from _qemulab_pillar_kinds import Bad
from _qemulab_pillar_kinds import Notes
from _qemulab_run_site import Site

UNKNOWN = {
    # A machine that is installed anew has a new host key each time, at the same address.
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": "/dev/null",
    "LogLevel": "ERROR",
}
"""How ssh takes a machine whose host key the lab does not know. Source: ssh_config(5)"""

USUAL_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
"""The keys of a user's that ssh tries by itself. Source: ssh_config(5), IdentityFile"""

KEY_FILE_LIMIT = 2**20
"""Bytes that are read of a file with public keys."""


def make_key(layout: Layout) -> None:
    """Make the lab's own SSH key; one that is there stays."""
    if not layout.ssh_key.exists():
        _generate(layout.ssh_key, f"qemulab {layout.lab}")


def _generate(key: Path, comment: str, mode: int = 0o600, group: str | None = None) -> None:
    """Make a pair of keys: the private one, and the public one beside it."""
    # By the program: the Python at the other end of salt-ssh need not have cryptography.
    scratch = key.with_name(".new")
    public = scratch.with_suffix(".pub")
    host.make_directory(scratch.parent)
    for path in (scratch, public):
        host.remove(path)
    host.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(scratch)])
    # The private key comes last: it is what says that both are there.
    host.write(public_key(key), host.read(public) or "")
    host.write_all([host.File(key, host.read(scratch) or "", mode=mode, group=group)])
    for path in (scratch, public):
        host.remove(path)


def public_key(key: Path) -> Path:
    """Return where the public key lies that belongs to a private one."""
    return key.with_name(f"{key.name}.pub")


def make_host_keys(site: Site, vms: Mapping[str, Vm]) -> None:
    """
    Make the keys that machines with the built-in guest are known by; what is there stays.

    vms
        What is about to be started, by name. A key that is there says that the machine, if it runs,
        has been handed it: so it is made at a start and at no other moment, and only for a guest
        that takes it.
    """
    if image.info(site.layout.guest) is None:
        return
    for name, vm in vms.items():
        key = site.layout.host_key(name)
        if vm.boot == "guest" and not key.exists():
            # QEMU reads it, and runs as the user of that group; nobody else does.
            _generate(key, f"{name} {site.lab}", mode=0o640, group=host.USER)
    write_known_hosts(site)


def write_known_hosts(site: Site) -> None:
    """Write the machines' host keys for ssh: by their names, since addresses and ports change."""
    lines = []
    for name in site.store.vm_directories():
        words = (host.read(public_key(site.layout.host_key(name))) or "").split()[:2]
        if words and site.layout.host_key(name).exists():
            lines.append(" ".join([name, *words]) + "\n")
    text = "".join(lines)
    path, record = site.layout.known_hosts, site.layout.lab_written
    if text or os.path.lexists(path) or path in written.changed(record):
        written.write(record, [host.File(path, text)])


def users_directory() -> Path | None:
    """Return where the user behind sudo, or else the user who applies, has SSH keys."""
    name = os.environ.get("SUDO_USER", "")
    try:
        entry = pwd.getpwnam(name) if name else pwd.getpwuid(os.getuid())
    except KeyError:
        return None
    return Path(entry.pw_dir) / ".ssh"


def user_keys() -> list[str]:
    """
    Return the public keys of the user behind sudo, or else of the user who applies.

    Whatever else lies there under such a name is passed over: files in another format, directories,
    pipes, what cannot be read; root itself may not enter a home on another host's disk.
    """
    directory = users_directory()
    found: list[str] = []
    # The home may be below a file, and what the user has called .pub may be anything.
    with contextlib.suppress(OSError, HostError):
        for file in host.list_directory(directory) if directory else ():
            if directory and file.endswith(".pub"):
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
    declared = list(site.store.authorized_keys() or ())
    own = (host.read(site.layout.ssh_key.with_suffix(".pub")) or "").strip()
    keys = [own, *(declared or user_keys())]
    text = "".join(f"{key}\n" for key in dict.fromkeys(keys) if key)
    written.write(site.layout.lab_written, [host.File(site.layout.authorized_keys, text)])


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
            reservations.update(site.store.reservations(nic.network))
    return endpoint(vm, reservations)


def options(site: Site, name: str, vm: Vm) -> dict[str, str]:
    """
    Return how ssh is to take a machine's host key: the one that the lab has made, or any.

    vm
        Its declaration; what it runs as counts where that is another.
    """
    _, started = site.store.vm(name)
    known = host.read(site.layout.known_hosts) or ""
    if (started or vm).boot != "guest" or not re.search(rf"^{re.escape(name)} ", known, re.M):
        return UNKNOWN
    return {
        "HostKeyAlias": name,
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": config_path(site.layout.known_hosts),
        "LogLevel": "ERROR",
    }


def ssh_command(site: Site, name: str, vm: Vm) -> str:
    """Return the whole command that logs in to a machine, empty where there is no way in."""
    found = vm_endpoint(site, vm)
    if found is None:
        return ""
    words = [
        f"-o {shlex.quote(f'{key}={value}')}" for key, value in options(site, name, vm).items()
    ]
    address, port = found
    # The key is root's: whoever came by sudo needs it again.
    sudo = "sudo " if os.environ.get("SUDO_USER", "root") != "root" else ""
    key = shlex.quote(str(site.layout.ssh_key))
    return f"{sudo}ssh -i {key} -p {port} {' '.join(words)} root@{address}"


def config_path(path: Path | str) -> str:
    """Return a path for ssh's configuration, where ``%`` is a token. Source: ssh_config(5)"""
    text = str(path).replace("%", "%%")
    if not re.search(r"""[\s"'\\#]""", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def readable(path: Path) -> str:
    """
    Return the question whether a file can be read as an argument of ``Match exec``.

    ssh reads that one by other rules than paths, newer versions by others again: what they differ
    on is left to the shell, as any one character.
    """
    pattern = re.sub(r"""["'\\]""", "'?'", str(path).replace("%", "%%"))
    return f"\"test -r '{pattern}'\""


def private_keys() -> list[str]:
    """
    Return the private keys that ssh has to be told of so that a user's own keys are tried.

    There are none where ssh finds them all by itself; else those that it finds come first, since it
    looks for them no more.
    """
    directory = users_directory()
    files: list[str] = []
    with contextlib.suppress(OSError, HostError):
        files = host.list_directory(directory) if directory else []
    found = [name for name in files if f"{name}.pub" in files and name.isprintable()]
    others = sorted(set(found) - set(USUAL_KEYS))
    return [f"~/.ssh/{name}" for name in (*USUAL_KEYS, *others)] if others else []


def ssh_config(site: Site, vms: Mapping[str, Vm]) -> str:
    """
    Return a configuration for ssh with every machine that can be reached.

    Whoever can read the lab's key logs in by that, others by their own: ssh tries the usual ones
    (or the agent's) where no key is named.
    """
    blocks = []
    names = []
    for name, vm in sorted(vms.items()):
        found = vm_endpoint(site, vm)
        if found is None:
            continue
        address, port = found
        names.append(name)
        lines = [f"Host {name}", f"    HostName {address}", f"    Port {port}", "    User root"]
        lines += [f"    {key} {value}" for key, value in options(site, name, vm).items()]
        lines += [f"    IdentityFile {config_path(key)}" for key in private_keys()]
        blocks.append("\n".join(lines) + "\n")
    if names:
        key = site.layout.ssh_key
        match = f"Match originalhost {','.join(names)} exec {readable(key)}"
        # First: whoever has it need not offer others.
        blocks.insert(0, f"{match}\n    IdentityFile {config_path(key)}\n")
    return "\n".join(blocks)
