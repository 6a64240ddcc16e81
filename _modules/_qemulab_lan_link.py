"""
The TAP of a network on the host: whether it is ours, how it is, and whose it is instead.
"""

from __future__ import annotations

import contextlib

import _qemulab_host_seam as host
import _qemulab_lan_hub as hub
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Network
from _qemulab_pillar_kinds import SpecError
from _qemulab_run_site import Site


def state(site: Site, name: str, network: Network) -> str:
    """
    Return in ``hub.link_state``'s words how the TAP of a network is.

    All labs of a host have their TAPs for the same user: one that another network was given is
    ``other``.
    """
    owners: set[object] = set()
    if host.has_user():
        owners = {host.USER, host.user_ids(host.USER)[0]}
    found = hub.link_state(network, hub.tap_mac(site.lab, name), owners, site.links())
    if found not in ("absent", "other") and claimant(site, name, network.interface):
        return "other"
    return found


def claimant(site: Site, name: str, interface: str) -> str:
    """
    Return in words which other network of ours an interface was given to; empty where to none.

    site, name
        The network that is to have it. Where it has it already, nobody is asked.
    """
    stored = site.store.network(name)
    if stored is not None and stored.interface == interface:
        return ""
    for lab in (site.lab, *site.other_labs()):
        there = site if lab == site.lab else site.beside(lab)
        # What is damaged there is that lab's matter.
        with contextlib.suppress(HostError, SpecError):
            for other, network in there.store.all_networks().items():
                if network.interface == interface and (lab, other) != (site.lab, name):
                    return f"the network {other} of the lab {lab}"
    return ""


def foreign(site: Site, name: str, network: Network) -> str:
    """Return in words whose the interface of a network is where its state is ``other``."""
    owner = claimant(site, name, network.interface)
    if owner:
        return f"the interface {network.interface} is that of {owner}"
    return f"the host has an interface {network.interface} that is not ours"


def change(site: Site, command: list[str]) -> None:
    """Run what changes the host's interfaces and routes; they are asked for anew afterwards."""
    try:
        host.run(command)
    finally:
        site.answers.forget()


def make(site: Site, name: str) -> None:
    """Run the script that makes the TAP, or mends it; what is right of it stays."""
    change(site, ["/bin/sh", str(site.layout.network(name) / "link")])


def hold(site: Site, name: str, network: Network) -> None:
    """
    Mend a TAP that somebody has changed since it was made.

    udev sets the MAC address of an interface that is new, and may be later than we are.
    """
    if state(site, name, network) != "up":
        make(site, name)


def remove(site: Site, name: str, network: Network) -> None:
    """Remove the TAP, where it is ours, and the group's route."""
    if state(site, name, network) not in ("absent", "other"):
        change(site, ["ip", "link", "delete", "dev", network.interface])
    group = f"{hub.group_address(network)}/32"
    if hub.has_group_route(network, site.routes()):
        change(site, ["ip", "route", "delete", group, "dev", "lo"])
