"""
What QEMU sees as ``/etc``: the host's, with a resolver configuration of the lab's own in it.

QEMU's user network answers DNS at 10.0.2.3 by ``/etc/resolv.conf``. A mount on that file alone
goes when somebody of the host renames another one over it, as DHCP clients and VPNs do: the kernel
takes off, in all mount namespaces, what is mounted on a name that is gone. So a directory is put
in place of all of it, with links to the host's, which QEMU's mount namespace has elsewhere as well.
Source: rename(2); the kernel's fs/namespace.c, __detach_mounts
"""

from __future__ import annotations

from pathlib import Path

import _qemulab_host_generated as written
import _qemulab_host_seam as host
import _qemulab_host_symlinks as host_links
import _qemulab_lan_dnsmasq_files as dnsmasq
from _qemulab_host_seam import File
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import USER_NETWORK
from _qemulab_pillar_keys import Network
from _qemulab_pillar_keys import Vm
from _qemulab_run_site import Site

ETC = Path("/etc")
RESOLVER = "resolv.conf"


def network_of(vm: Vm) -> str:
    """Return the network whose names a machine's 10.0.2.3 answers, empty where it is on none."""
    return next((nic.network for nic in vm.nics if nic.network != USER_NETWORK), "")


def make(site: Site, name: str, network: Network) -> None:
    """Make what the machines of a network have as ``/etc``, as the host's is now."""
    directory = site.layout.etc(name)
    host.make_directory(directory)
    links = {
        entry: target(entry, host_links.target(ETC / entry), site.layout.host_etc)
        for entry in host.list_directory(ETC, hidden=True)
        if entry != RESOLVER
    }
    host_links.make(directory, links)
    written.write(site.layout.network_written(name), [resolver(site, name, network)])


def resolver(site: Site, name: str, network: Network) -> File:
    """Return the resolver configuration that names a network's DNS server."""
    return File(site.layout.etc(name) / RESOLVER, dnsmasq.resolv_conf(network))


def target(entry: str, link: str, elsewhere: Path) -> str:
    """
    Return what an entry of ``/etc`` is a link to.

    link
        What it is a link to on the host, empty where it is none.

    elsewhere
        Where the host's ``/etc`` is seen. A relative link would lead astray from there.
    """
    return link if link and not link.startswith("/") else str(elsewhere / entry)


def binds(site: Site, vm: Vm) -> list[tuple[str, str]]:
    """Return what is mounted where for a machine: the host's ``/etc`` before it is covered."""
    name = network_of(vm)
    if not name:
        return []
    return [(str(ETC), str(site.layout.host_etc)), (str(site.layout.etc(name)), str(ETC))]


def astray(site: Site, name: str, vm: Vm) -> str:
    """
    Return in words that a running machine's 10.0.2.3 does not answer as its lab does; empty where
    it does, or where it is on no network.

    vm
        What it was started as.
    """
    on, pid = network_of(vm), site.status("vm", name).pid
    network = site.store.network(on) if on else None
    if network is None or not pid:
        return ""
    root = f"/proc/{pid}/root"
    path = f"{root}{ETC}/{RESOLVER}"
    # An older version mounted a file of the lab's over what the host's link leads to.
    link = host_links.target(Path(path))
    if link:
        path = f"{root}{link}" if link.startswith("/") else f"{root}{ETC}/{link}"
    try:
        seen = host.read(path)
    except HostError:
        seen = None  # a link again: the host's own
    if seen == dnsmasq.resolv_conf(network):
        return ""
    return "its 10.0.2.3 answers by the host's /etc/resolv.conf, and knows no name of the lab"
