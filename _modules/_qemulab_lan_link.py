"""
The link of a network, a TAP of the host: the script that makes it, whether it is ours, how it is,
and whose it is instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import shlex
from collections.abc import Container
from typing import Any

import _qemulab_host_seam as host
import _qemulab_lan_by_hub as hub
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Network
from _qemulab_pillar_kinds import SpecError
from _qemulab_run_site import Site
from _qemulab_run_units import script

IPV6 = "/proc/sys/net/ipv6"
"""What only a kernel has that speaks IPv6. Source: net/ipv6/af_inet6.c, inet6_init"""


def tap_mac(lab: str, name: str) -> str:
    """
    Return the fixed MAC address of a network's TAP: locally administered, from the names.

    A fixed one keeps the guests' ARP caches and the host's link-local address right when the
    interface has to be made again.
    """
    digest = hashlib.sha256(f"{lab}/{name}/tap".encode()).hexdigest()
    return f"02:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}:{digest[6:8]}:{digest[8:10]}"


def link_script(network: Network, mac: str, user: str, tun_device: str) -> str:
    """
    Return the script that makes the TAP, its address and the group's route; runs as root.

    What is already there stays as it is, so that running it again changes nothing: the hub runs
    it each time it starts, and so heals an interface that was removed.

    network
        The network.

    mac
        MAC address of the TAP.

    user
        The user that may attach to the TAP.

    tun_device
        The device that the hub opens; made for that user alone where it is not /dev/net/tun.
    """
    tap = network.interface
    lines = []
    if tun_device != "/dev/net/tun":
        device = shlex.quote(tun_device)
        lines += [
            f"[ -e {device} ] || mknod -m 0600 {device} c 10 200",
            f"chown {user} {device}",
        ]
    lines += [
        f"ip link show dev {tap} >/dev/null 2>&1 || ip tuntap add dev {tap} mode tap user {user}",
        # A kernel without IPv6 (ipv6.disable=1) knows no such setting, and refuses all of it.
        'mode="addrgenmode none"',
        f"[ -e {IPV6} ] || mode=",
        "ip -batch - <<END",
        f"link set dev {tap} address {mac} $mode up",
        f"address replace {network.address} dev {tap}",
        "link set dev lo up",
        # The group's own route: a QEMU typed by hand, without localaddr=, stays on lo as well.
        f"route replace {hub.group_address(network)}/32 dev lo",
        "END",
    ]
    return script("Makes the host's side of the network; what is there already stays.", lines)


def is_our_tap(link: dict[str, Any], mac: str, owners: Container[object]) -> bool:
    """
    Return whether an interface of the host is a TAP of ours.

    link
        What ``ip -j -d address show`` has of it.

    mac, owners
        The MAC address that it was made with, and who may attach to it: the user by name or number,
        as ``ip`` shows it.

    One of both is enough: udev and people change the address, and a user that was removed and made
    anew has another number.
    """
    info = link.get("linkinfo") or {}
    data = info.get("info_data") or {}
    if info.get("info_kind") != "tun" or data.get("type") != "tap":
        return False
    return link.get("address") == mac or data.get("user") in owners


def link_state(
    network: Network, mac: str, owners: Container[object], links: list[dict[str, Any]]
) -> str:
    """
    Return in a few words how the TAP is: ``up`` is right.

    mac, owners
        As for ``is_our_tap``.

    links
        What ``ip -j -d address show`` prints.

    The others are ``absent``, ``down``, ``no address``, ``other MAC`` (somebody has changed it) and
    ``other``, which is an interface of this name that is not our TAP.
    """
    for link in links:
        if link.get("ifname") != network.interface:
            continue
        if not is_our_tap(link, mac, owners):
            return "other"
        if "UP" not in link.get("flags", ()):
            return "down"
        if link.get("address") != mac:
            return "other MAC"
        wanted = ipaddress.IPv4Interface(network.address)
        for address in link.get("addr_info", ()):
            if address.get("family") == "inet" and address.get("local") == str(wanted.ip):
                if address.get("prefixlen") == wanted.network.prefixlen:
                    return "up"
        return "no address"
    return "absent"


def has_group_route(network: Network, routes: list[dict[str, Any]]) -> bool:
    """Return whether ``ip -j route show`` has the group's route on the loopback interface."""
    group = hub.group_address(network)
    return any(r.get("dst") == group and r.get("dev") == "lo" for r in routes)


def state(site: Site, name: str, network: Network) -> str:
    """
    Return in ``link_state``'s words how the TAP of a network is.

    All labs of a host have their TAPs for the same user: one that another network was given is
    ``other``.
    """
    owners: set[object] = set()
    if host.has_user():
        owners = {host.USER, host.user_ids(host.USER)[0]}
    found = link_state(network, tap_mac(site.lab, name), owners, site.interfaces())
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
    if has_group_route(network, site.routes()):
        change(site, ["ip", "route", "delete", group, "dev", "lo"])
