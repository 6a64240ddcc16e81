"""The host's side of a network: the link's script, the hub's command line, what ip says of it."""

from __future__ import annotations

import re
import shlex
from typing import Any

import _qemulab_lan_by_hub as hub
import _qemulab_lan_link as link
import _qemulab_pillar_spec as spec
import pytest
from _qemulab_pillar_kinds import SpecError
from hypothesis import given
from hypothesis import strategies as st

NET = spec.network_from("vmlan", {}, "lab")
MAC = "02:11:22:33:44:55"
OTHER_MAC = "02:00:00:00:00:00"
OWNERS = {"qemulab", 991}
# `ip -j -d address show` of iproute2 6.1, cut to what counts.
LINK = {
    "ifname": "vmlan",
    "flags": ["BROADCAST", "MULTICAST", "UP", "LOWER_UP"],
    "address": MAC,
    "linkinfo": {"info_kind": "tun", "info_data": {"type": "tap", "user": "qemulab"}},
    "addr_info": [
        {"family": "inet6", "local": "fe80::11:22ff:fe33:4455", "prefixlen": 64},
        {"family": "inet", "local": "10.0.3.1", "prefixlen": 24},
    ],
}


def tap(**data: Any) -> dict[str, Any]:
    """Return what ``ip`` says of the kind of a TAP."""
    return {"info_kind": "tun", "info_data": {"type": "tap", **data}}


def test_the_hub_keeps_its_frames_on_the_host() -> None:
    """The recipe's command line, corrected."""
    assert hub.hub_argv(NET, "/dev/net/tun") == [
        "socat",
        "UDP4-DATAGRAM:230.0.0.1:1234,bind=:1234,reuseaddr,ip-add-membership=230.0.0.1:127.0.0.1,"
        "ip-multicast-if=127.0.0.1,ip-multicast-ttl=0,so-bindtodevice=lo,"
        "setsockopt-int=1:33:4194304",
        "TUN,tun-name=vmlan,tun-type=tap,iff-no-pi,iff-up",
    ]


def test_the_hub_opens_a_device_of_our_own_where_it_must() -> None:
    """Where /dev/net/tun is not for the user that runs it."""
    assert hub.hub_argv(NET, "/run/qemulab/tun")[2] == (
        "TUN,tun-device=/run/qemulab/tun,tun-name=vmlan,tun-type=tap,iff-no-pi,iff-up"
    )


def test_the_link_is_made_and_what_is_there_stays() -> None:
    """A persistent TAP with a fixed MAC address, and the group's route on the loopback."""
    assert link.link_script(NET, MAC, "qemulab", "/dev/net/tun") == (
        "#!/bin/sh\n"
        "# Makes the host's side of the network; what is there already stays.\n"
        "set -e\n"
        "ip link show dev vmlan >/dev/null 2>&1 || "
        "ip tuntap add dev vmlan mode tap user qemulab\n"
        'mode="addrgenmode none"\n'
        "[ -e /proc/sys/net/ipv6 ] || mode=\n"
        "ip -batch - <<END\n"
        f"link set dev vmlan address {MAC} $mode up\n"
        "address replace 10.0.3.1/24 dev vmlan\n"
        "link set dev lo up\n"
        "route replace 230.0.0.1/32 dev lo\n"
        "END\n"
    )


def test_a_device_of_our_own_is_made_first_for_its_user_alone() -> None:
    """Character device 10, 200 is TUN. Source: the kernel's Documentation/networking/tuntap.rst"""
    lines = link.link_script(NET, MAC, "qemulab", "/run/qemulab/tun").splitlines()
    assert lines[3:5] == [
        "[ -e /run/qemulab/tun ] || mknod -m 0600 /run/qemulab/tun c 10 200",
        "chown qemulab /run/qemulab/tun",
    ]


def test_the_taps_mac_is_fixed_local_and_its_own() -> None:
    """By the names of lab and network."""
    macs = {link.tap_mac(lab, name) for lab in ("lab", "lab2") for name in ("vmlan", "lan2")}
    assert len(macs) == 4
    assert all(re.fullmatch("02(:[0-9a-f]{2}){5}", mac) for mac in macs)
    assert link.tap_mac("lab", "vmlan") in macs


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ([LINK], "up"),
        ([{"ifname": "lo"}, LINK], "up"),
        ([], "absent"),
        ([{**LINK, "ifname": "vmlan2"}], "absent"),
        ([{**LINK, "flags": ["BROADCAST", "MULTICAST"]}], "down"),
        ([{**LINK, "flags": ["NO-CARRIER", "BROADCAST", "UP"]}], "up"),
        ([{**LINK, "address": OTHER_MAC}], "other MAC"),
        ([{**LINK, "address": OTHER_MAC, "linkinfo": tap(user=991)}], "other MAC"),
        ([{**LINK, "address": OTHER_MAC, "linkinfo": tap(user=992)}], "other"),
        ([{**LINK, "address": OTHER_MAC, "linkinfo": tap()}], "other"),
        ([{**LINK, "linkinfo": tap(user=992)}], "up"),
        ([{**LINK, "linkinfo": tap(type="tun", user="qemulab")}], "other"),
        ([{**LINK, "linkinfo": {"info_kind": "veth"}}], "other"),
        ([{"ifname": "vmlan", "address": MAC}], "other"),
        ([{**LINK, "addr_info": []}], "no address"),
        ([{**LINK, "addr_info": LINK["addr_info"][:1]}], "no address"),  # type: ignore[index]
        (
            [{**LINK, "addr_info": [{"family": "inet", "local": "10.0.3.1", "prefixlen": 16}]}],
            "no address",
        ),
    ],
)
def test_a_link_is_named_by_how_it_is(links: list[dict[str, Any]], expected: str) -> None:
    """One word each; an interface that is not ours is never called up."""
    assert link.link_state(NET, MAC, OWNERS, links) == expected


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ([{"dst": "230.0.0.1", "dev": "lo"}], True),
        ([{"dst": "default", "dev": "eth0"}, {"dst": "230.0.0.1", "dev": "lo"}], True),
        ([{"dst": "230.0.0.1", "dev": "eth0"}], False),
        ([{"dst": "230.0.0.2", "dev": "lo"}], False),
        ([{"type": "blackhole", "dst": "230.0.0.1"}], False),
        ([], False),
    ],
)
def test_the_groups_route_counts_on_the_loopback_only(
    routes: list[dict[str, Any]], expected: bool
) -> None:
    """On any other interface the frames leave the host."""
    assert link.has_group_route(NET, routes) is expected


KEYS = st.fixed_dictionaries(
    {},
    optional={
        "interface": st.sampled_from(["vmlan", "a,b", "lo", "a b", "$(id)"]) | st.text(max_size=16),
        "multicast": st.sampled_from(["239.1.2.3:4567", "230.0.0.1:1234,x"]) | st.text(max_size=24),
        "address": st.sampled_from(["10.9.0.1/16", "10.0.3.1/24;id"]) | st.text(max_size=18),
    },
)


@given(KEYS)
def test_no_text_from_the_pillar_adds_an_option_or_a_word(keys: dict[str, str]) -> None:
    """What is refused never gets here; what is taken is one value in its place."""
    try:
        network = spec.network_from("vmlan", keys, "lab")
    except SpecError:
        return
    expected = hub.hub_argv(NET, "/dev/net/tun")
    found = hub.hub_argv(network, "/dev/net/tun")
    assert [part.count(",") for part in found] == [part.count(",") for part in expected]
    script = link.link_script(network, MAC, "qemulab", "/dev/net/tun")
    standard = link.link_script(NET, MAC, "qemulab", "/dev/net/tun")
    words = [len(shlex.split(line, comments=True)) for line in script.splitlines()]
    assert words == [len(shlex.split(line, comments=True)) for line in standard.splitlines()]
