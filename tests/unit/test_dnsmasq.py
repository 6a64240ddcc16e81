"""dnsmasq's files to the letter, its leases, and that nothing else gets into a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _qemulab_lan_dnsmasq_files as dnsmasq
import _qemulab_lan_hosts as lan_hosts
import _qemulab_pillar_spec as spec
import pytest
from _qemulab_lan_dnsmasq_files import Files
from _qemulab_lan_dnsmasq_files import Lease
from _qemulab_lan_hosts import Known
from _qemulab_pillar_keys import Network
from _qemulab_pillar_kinds import SpecError
from hypothesis import given
from hypothesis import strategies as st

MAC = "02:11:22:33:44:55"
FILES = Files(Path("/var/lib/qemulab/lab/networks/vmlan"))
CONFIGURATION = """\
keep-in-foreground
log-facility=-
pid-file
interface=vmlan
except-interface=lo
bind-dynamic
no-hosts
addn-hosts=/var/lib/qemulab/lab/networks/vmlan/hosts
domain-needed
bogus-priv
local=//
domain=lab.internal
local=/lab.internal/
expand-hosts
resolv-file=/etc/resolv.conf
dhcp-authoritative
dhcp-no-override
dhcp-ignore-clid
dhcp-ignore-names
dhcp-host=02:11:22:33:44:55,ignore
dhcp-range=10.0.3.100,10.0.3.100,255.255.255.0,1h
dhcp-range=10.0.3.102,10.0.3.200,255.255.255.0,1h
dhcp-option=option:router,10.0.3.101
dhcp-option=tag:unrouted,option:router
dhcp-hostsfile=/var/lib/qemulab/lab/networks/vmlan/reservations
dhcp-leasefile=/var/lib/qemulab/lab/networks/vmlan/dhcp/leases
"""
LEASES = """\
1700000000 00:00:00:11:11:11 10.0.3.101 master 01:00:00:00:11:11:11
0 52:54:00:AA:bb:cc 10.0.3.150 * *
duid 00:01:00:01:2d:5c
1700000000 52:54:00:00:00:09 10.0.3.151 other *
"""
MASTER = Lease(1700000000, "00:00:00:11:11:11", "10.0.3.101", "master", "01:00:00:00:11:11:11")
NOBODY = Lease(0, "52:54:00:aa:bb:cc", "10.0.3.150", "", "")
OTHER = Lease(1700000000, "52:54:00:00:00:09", "10.0.3.151", "other", "")


def network(**keys: Any) -> Network:
    """Return the network ``vmlan`` with some keys declared."""
    return spec.network_from("vmlan", keys, "lab")


# Files


def test_the_configuration_is_the_recipes_and_reads_nothing_of_the_hosts() -> None:
    """To the letter."""
    assert dnsmasq.configuration(network(), FILES, MAC) == CONFIGURATION


@pytest.mark.parametrize(
    ("upstream", "lines"),
    [
        ("host", ["resolv-file=/etc/resolv.conf"]),
        ("none", ["no-resolv"]),
        ([], ["no-resolv"]),
        (["9.9.9.9", "1.1.1.1"], ["no-resolv", "server=9.9.9.9", "server=1.1.1.1"]),
    ],
)
def test_other_names_are_asked_of_whom_was_declared(upstream: Any, lines: list[str]) -> None:
    """The host's resolvers, nobody, or these."""
    assert dnsmasq.upstream(network(dns={"upstream": upstream})) == lines


def test_no_router_is_an_empty_option() -> None:
    """Without the line, dnsmasq would hand out the host."""
    text = dnsmasq.configuration(network(dhcp={"router": "none"}), FILES, MAC)
    assert "dhcp-option=option:router\n" in text


def test_another_network_has_its_own_mask_and_time() -> None:
    """From its prefix."""
    dhcp = {"range": "172.16.1.1-172.16.1.9", "lease_time": "infinite"}
    text = dnsmasq.configuration(network(address="172.16.0.1/16", dhcp=dhcp), FILES, MAC)
    assert "dhcp-range=172.16.1.1,172.16.1.9,255.255.0.0,infinite\n" in text


def test_what_is_known_of_a_mac_address_is_a_line() -> None:
    """One of which nothing is known but that it has a way out has none."""
    known = [
        Known("00:00:00:22:22:22", "10.0.3.102", "worker1"),
        Known("00:00:00:11:11:11", "", "worker2"),
        Known("00:00:00:44:44:44", "10.0.3.103"),
        Known("00:00:00:33:33:33", routed=False),
    ]
    text = dnsmasq.reservations_text(known)
    assert text == (
        "00:00:00:22:22:22,10.0.3.102,worker1.\n"
        "00:00:00:11:11:11,worker2.\n"
        "00:00:00:44:44:44,10.0.3.103\n"
    )
    assert dnsmasq.parse_reservations(text) == {
        "00:00:00:22:22:22": "10.0.3.102",
        "00:00:00:11:11:11": "",
        "00:00:00:44:44:44": "10.0.3.103",
    }
    assert dnsmasq.reservations_text([]) == ""


def test_who_has_a_way_out_is_handed_no_router() -> None:
    """By a tag, in the configuration: as a tag in the file of reservations it ends dnsmasq."""
    known = [Known("52:54:00:00:00:02", routed=False), Known("52:54:00:00:00:01", routed=False)]
    known.append(Known("52:54:00:00:00:03", "10.0.3.50", "a"))
    assert dnsmasq.router(network(), known) == [
        "dhcp-option=option:router,10.0.3.101",
        "dhcp-option=tag:unrouted,option:router",
        "dhcp-mac=set:unrouted,52:54:00:00:00:01",
        "dhcp-mac=set:unrouted,52:54:00:00:00:02",
    ]
    assert "set:" not in dnsmasq.reservations_text(known)


@pytest.mark.parametrize(
    ("dhcp", "parts"),
    [
        ({}, ["10.0.3.100,10.0.3.100", "10.0.3.102,10.0.3.200"]),
        ({"router": "10.0.3.100"}, ["10.0.3.101,10.0.3.200"]),
        ({"router": "10.0.3.200"}, ["10.0.3.100,10.0.3.199"]),
        ({"router": "10.0.3.1"}, ["10.0.3.100,10.0.3.200"]),
        ({"router": "10.0.3.99"}, ["10.0.3.100,10.0.3.200"]),
        ({"router": "none"}, ["10.0.3.100,10.0.3.200"]),
        ({"range": "10.0.3.101-10.0.3.101"}, ["10.0.3.101,static"]),
    ],
)
def test_the_routers_address_is_in_nobodys_range(dhcp: dict[str, str], parts: list[str]) -> None:
    """At either end, in the middle, outside, and as the whole range."""
    lines = [f"dhcp-range={part},255.255.255.0,1h" for part in parts]
    assert dnsmasq.ranges(network(dhcp=dhcp)) == lines


def test_a_domain_is_handed_out_and_asked_of_nobody_else() -> None:
    """By default the lab's; and none at all, also of what an older version has stored."""
    lines = ["domain=x.example", "local=/x.example/", "expand-hosts"]
    assert dnsmasq.domain(network(dns={"domain": "x.example"})) == lines
    assert dnsmasq.domain(network(dns={"domain": "none"})) == []
    assert dnsmasq.domain(Network()) == []


def test_names_are_a_line_each() -> None:
    """Sorted by name, so that the file changes only with them."""
    names = {"www.lab.example": "10.0.3.101", "master": "10.0.3.101", "a": "10.0.3.102"}
    assert dnsmasq.hosts_text(names) == (
        "10.0.3.102 a\n10.0.3.101 master\n10.0.3.101 www.lab.example\n"
    )


def test_machines_ask_the_networks_own_server() -> None:
    """At the host's address."""
    assert dnsmasq.resolv_conf(network()) == "nameserver 10.0.3.1\n"


# Leases


def test_leases_are_read_in_order_and_other_lines_passed_over() -> None:
    """``*`` is none; a MAC address is in lower case."""
    assert dnsmasq.parse_leases(LEASES) == [MASTER, NOBODY, OTHER]
    assert dnsmasq.parse_leases("") == []


def test_a_lease_is_taken_out_of_the_file_and_the_rest_stays() -> None:
    """Byte by byte, lines of another kind too."""
    lines = LEASES.splitlines(keepends=True)
    assert dnsmasq.without_leases(LEASES, [MASTER, OTHER]) == lines[1] + lines[2]
    assert dnsmasq.without_leases(LEASES, [NOBODY]) == lines[0] + lines[2] + lines[3]
    assert dnsmasq.without_leases(LEASES, []) == LEASES


GONE = {OTHER.mac: OTHER.address}


@pytest.mark.parametrize(
    ("reserved", "gone", "expected"),
    [
        ({}, None, []),
        ({MASTER.mac: MASTER.address}, None, []),
        # moved: the machine has an address that is no longer its own
        ({MASTER.mac: "10.0.3.110"}, None, [MASTER]),
        # stolen: somebody sits on an address that is reserved for another
        ({"52:54:00:00:00:77": NOBODY.address}, None, [NOBODY]),
        # both swapped
        ({MASTER.mac: OTHER.address, OTHER.mac: MASTER.address}, None, [MASTER, OTHER]),
        # left: what was reserved is no longer
        ({}, GONE, [OTHER]),
        (GONE, GONE, []),
        ({}, {OTHER.mac: "10.0.3.9"}, []),
        # a machine that had a name alone is gone, whatever it had leased
        ({}, {OTHER.mac: ""}, [OTHER]),
    ],
)
def test_leases_that_reservations_do_not_allow_are_found(
    reserved: dict[str, str], gone: dict[str, str] | None, expected: list[Lease]
) -> None:
    """Those that moved, that are stolen and that are left, and no others."""
    assert dnsmasq.contradicting([MASTER, NOBODY, OTHER], reserved, gone) == expected


def test_a_lease_is_released_as_it_was_leased() -> None:
    """With its client identifier where it has one."""
    assert dnsmasq.release_argv("vmlan", NOBODY) == [
        *("dhcp_release", "vmlan", "10.0.3.150", "52:54:00:aa:bb:cc")
    ]
    assert dnsmasq.release_argv("vmlan", MASTER)[4:] == ["01:00:00:00:11:11:11"]


# Whatever stands in the pillar

NASTY = st.sampled_from(
    [
        "g1.lab,10.0.0.1\ndhcp-script=/tmp/x",
        "1h,set:x",
        "infinite\n",
        "10.0.3.5\nserver=6.6.6.6",
        "vmlan\ndhcp-script=/tmp/x",
        "a#b",
        "a b",
        "#",
    ]
) | st.text(max_size=20)
ADDRESS = st.just("10.0.3.50") | NASTY
NAME = st.sampled_from(["a", "b.c"]) | NASTY
NETWORK = st.fixed_dictionaries(
    {},
    optional={
        "interface": NASTY,
        "address": st.just("10.0.3.1/24") | NASTY,
        "dhcp": st.fixed_dictionaries(
            {}, optional={"range": NASTY, "router": ADDRESS, "lease_time": st.just("2d") | NASTY}
        ),
        "dns": st.fixed_dictionaries(
            {},
            optional={
                "domain": st.just("a.example") | NASTY,
                "upstream": st.lists(ADDRESS, max_size=2) | NASTY,
                "names": st.dictionaries(NAME, ADDRESS, max_size=2),
            },
        ),
        "reservations": st.dictionaries(
            NAME,
            st.fixed_dictionaries(
                {"mac": st.just("52:54:00:00:00:01") | NASTY, "address": ADDRESS}
            ),
            max_size=2,
        ),
    },
)


def keys(text: str) -> set[str]:
    """Return the options that a configuration sets."""
    return {line.partition("=")[0] for line in text.splitlines()}


@given(NETWORK)
def test_no_text_from_the_pillar_adds_a_line_or_a_field(declaration: dict[str, Any]) -> None:
    """What is refused never gets here; what is taken is one value in its place."""
    try:
        made = spec.network_from("vmlan", declaration, "lab")
    except SpecError:
        return
    known = lan_hosts.known("vmlan", made, {})
    text = dnsmasq.configuration(made, FILES, MAC, known)
    upstream = {line.partition("=")[0] for line in dnsmasq.upstream(made)}
    assert upstream <= {"resolv-file", "no-resolv", "server"}
    free = {"domain", "local", "expand-hosts", "dhcp-mac"}
    assert keys(text) - upstream - free == keys(CONFIGURATION) - {"resolv-file"} - free
    parts = [dnsmasq.upstream(made), dnsmasq.domain(made), dnsmasq.ranges(made)]
    parts.append(dnsmasq.router(made, known))
    assert len(text.splitlines()) == 18 + sum(len(part) for part in parts)
    assert all(line.count(",") == 3 for line in dnsmasq.ranges(made))
    assert all(line.count(",") == 0 for line in dnsmasq.domain(made))
    reserved = dnsmasq.reservations_text(known)
    assert len(reserved.splitlines()) == len(made.reservations)
    assert all(line.count(",") == 2 for line in reserved.splitlines())
    hosts = dnsmasq.hosts_text(lan_hosts.names("vmlan", made, {}))
    assert len(hosts.splitlines()) == len({*made.reservations, *made.dns.names})
    assert all(len(line.split()) == 2 and "#" not in line for line in hosts.splitlines())
