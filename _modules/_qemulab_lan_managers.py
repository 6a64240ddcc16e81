"""
Programs of the host that manage its interfaces, and may take a lab's TAP for one of theirs.

One with a profile that fits any interface asks for an address by DHCP on the TAP, and takes off it
what it has not put there. The lab's own server never answers it (``_qemulab_lan_dnsmasq_files``).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import _qemulab_host_seam as host
from _qemulab_run_site import Site

NETWORKD_LINKS = Path("/run/systemd/netif/links")
"""A file for each interface by its number, private to systemd. Source: networkd-link.c"""
NETWORKD_FILE = "/etc/systemd/network/00-qemulab.network"
MANAGER_FILES = "/etc/NetworkManager/conf.d/qemulab-{}.conf"
"""A file for each interface: of two lines with one key in a file, GLib keeps the last alone."""


class Manager(NamedTuple):
    """
    A program that manages a TAP.

    name
        What it is called.

    says
        That it manages the interface, and by which file of its own.

    do
        The command that keeps it off.
    """

    name: str
    says: str
    do: str


def managers(site: Site, interface: str) -> list[Manager]:
    """Return what manages an interface of a lab, where it should be left alone."""
    found = [networkd(site, interface), network_manager(interface)]
    return [each for each in found if each is not None]


def networkd(site: Site, interface: str) -> Manager | None:
    """Return systemd-networkd where it manages an interface; costs a look at one file."""
    links = [link for link in site.interfaces() if link.get("ifname") == interface]
    text = host.read(NETWORKD_LINKS / str(links[0]["ifindex"])) if links else None
    profile = networkd_profile(text or "")
    if not profile:
        return None
    section = rf"[Match]\nName={interface}\n[Link]\nUnmanaged=yes\n"
    do = f"printf '{section}' >> {NETWORKD_FILE} && networkctl reload"
    return Manager("systemd-networkd", f"it manages {interface}, by {profile}", do)


def networkd_profile(text: str) -> str:
    """
    Return the profile by which systemd-networkd manages an interface; empty where it does not.

    text
        Its file of the interface.
    """
    values = dict(line.partition("=")[::2] for line in text.splitlines())
    if values.get("ADMIN_STATE") in ("unmanaged", "linger", None):
        return ""
    return values.get("NETWORK_FILE", "")


def network_manager(interface: str) -> Manager | None:
    """Return NetworkManager where it has taken an interface into its hands."""
    if host.find_binary("nmcli") is None:
        return None
    listed = host.run(["nmcli", "--terse", "--fields", "DEVICE,STATE", "device"], check=False)
    if not network_manager_has(listed.stdout, interface):
        return None
    section = rf"[keyfile]\nunmanaged-devices+=interface-name:{interface}\n"
    do = f"printf '{section}' > {MANAGER_FILES.format(interface)} && nmcli general reload"
    return Manager("NetworkManager", f"it manages {interface}", do)


def network_manager_has(text: str, interface: str) -> bool:
    """
    Return whether NetworkManager has a profile of its own on an interface, or is about to.

    text
        What ``nmcli --terse --fields DEVICE,STATE device`` printed. ``connected (externally)`` is
        what somebody else has set up: it only looks at that. Source: nmcli(1)
    """
    states = dict(line.partition(":")[::2] for line in text.splitlines())
    state = states.get(interface, "")
    return state.startswith(("connecting", "connected")) and "externally" not in state
