"""
The firewall check on rules as nft prints them.

What the kernel makes of such rules is in tests/functional/test_firewall.py.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import _qemulab_host_firewall as firewall
import pytest

ADDRESS = ipaddress.IPv4Interface("192.168.76.1/24")
FAMILY = {"family": "inet", "table": "filter"}


def ruleset(*rules: list[dict[str, Any]], policy: str = "accept", **more: Any) -> dict[str, Any]:
    """Return a table with one base chain of these rules, handles from 10, as nft prints it."""
    chain = {"name": "input", "type": "filter", "hook": "input", "prio": 0, "policy": policy}
    entries: list[dict[str, Any]] = [
        {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"table": {"family": "inet", "name": "filter", "handle": 1, **more}},
        {"chain": {**FAMILY, "handle": 1, **chain}},
    ]
    for handle, expr in enumerate(rules, 10):
        entries.append({"rule": {**FAMILY, "chain": "input", "handle": handle, "expr": expr}})
    return {"nftables": entries}


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str) -> dict[str, Any]:
    return {"meta": {"key": key}}


def payload(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


def xt(name: str, kind: str = "match") -> dict[str, Any]:
    return {"xt": {"type": kind, "name": name}}


DPORT = payload("udp", "dport")
COUNTER = {"counter": {"packets": 0, "bytes": 0}}
ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}


def blocked(given: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Return what is blocked by which rule."""
    return [(each.what, each.rule) for each in firewall.blocks(given, "vmlan", ADDRESS)]


def drops_dhcp(*conditions: dict[str, Any]) -> bool:
    """Return whether a rule of these conditions that drops is said to drop a guest's DHCP."""
    return ("DHCP", "chain inet filter input rule handle 10 drop") in blocked(
        ruleset([*conditions, DROP])
    )


def test_a_host_without_rules() -> None:
    assert blocked(None) == []
    assert blocked({"nftables": []}) == []
    assert blocked(ruleset()) == []


def test_what_is_said_of_a_policy() -> None:
    policy = "chain inet filter input policy drop"
    insert = "insert rule inet filter input iifname"
    assert firewall.blocks(ruleset(policy="drop"), "vmlan", ADDRESS) == [
        firewall.Blocked(
            what="DHCP",
            rule=policy,
            command=f"nft '{insert} \"vmlan\" udp dport 67 accept'",
        ),
        firewall.Blocked(
            what="DNS",
            rule=policy,
            command=f"nft '{insert} \"vmlan\" meta l4proto {{ tcp, udp }} th dport 53 accept'",
        ),
    ]


def test_what_is_said_of_a_rule() -> None:
    given = ruleset([match(meta("l4proto"), "tcp"), COUNTER, {"reject": {"type": "icmpx"}}])
    assert firewall.blocks(given, "tap0", ADDRESS) == [
        firewall.Blocked(
            what="DNS",
            rule="chain inet filter input rule handle 10 reject",
            command="nft 'insert rule inet filter input iifname \"tap0\" tcp dport 53 accept'",
        ),
    ]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (match(meta("iifname"), "vmlan"), True),
        (match(meta("iifname"), "vm*"), True),
        (match(meta("iifname"), "vm"), False),
        (match(meta("iifname"), {"set": ["lo", "vmlan"]}), True),
        (match(meta("iifname"), {"set": ["lo", "eth0"]}, "!="), True),
        (match(meta("iif"), "lo"), False),
        (match(meta("iif"), 7), False),  # an interface that is gone: unknown
        (match(meta("l4proto"), 17), True),
        (match(meta("l4proto"), "icmp", "!="), True),
        (match(meta("nfproto"), "ipv6"), False),
        (match(meta("protocol"), "ip"), True),
        (match(meta("pkttype"), "broadcast"), True),
        (match(meta("pkttype"), "broadcast", "!="), False),
        (match(meta("mark"), 0), False),
        (match(payload("ip", "protocol"), "udp"), True),
        (match(payload("ip", "ttl"), 1, "!="), False),
        (match(payload("ip6", "saddr"), "::1", "!="), False),
        (match(payload("icmp", "type"), "echo-request", "!="), False),
        (match(payload("ether", "saddr"), "52:54:00:12:34:56"), False),
        (match(DPORT, 67), True),
        (match(DPORT, 53, "!="), True),
        (match(DPORT, {"range": [60, 70]}), True),
        (match(DPORT, {"set": [53, {"range": [67, 68]}]}), True),
        (match(DPORT, {"set": [53, {"elem": {"val": 67, "comment": "x"}}]}), True),
        (match(DPORT, 67, ">"), False),
        (match(DPORT, 67, ">="), True),
        (match(DPORT, 1024, "<"), True),
        (match(payload("tcp", "dport"), 53, "!="), False),
        (match(payload("th", "sport"), 68), True),
        (match(payload("ip", "saddr"), "0.0.0.0"), True),
        (match(payload("ip", "saddr"), {"prefix": {"addr": "192.168.0.0", "len": 16}}), False),
        (match(payload("ip", "daddr"), {"range": ["255.0.0.0", "255.255.255.255"]}), True),
        (match(payload("ip", "daddr"), {"set": ["10.0.0.1", "255.255.255.255"]}), True),
        (match({"ct": {"key": "state"}}, "new", "in"), True),
        (match({"ct": {"key": "state"}}, ["established", "related"], "in"), False),
        (match({"ct": {"key": "state"}}, {"set": ["new", "untracked"]}), True),
        (match({"ct": {"key": "state"}}, "established", "!="), True),
        (match({"ct": {"key": "status"}}, "dnat", "in"), False),
        (match({"ct": {"key": "mark"}}, 1, "!="), False),
        (match({"&": [{"ct": {"key": "state"}}, ["new", "related"]]}, "new"), True),
        (match({"&": [meta("mark"), 255]}, 16), False),
        (match({"fib": {"result": "type", "flags": ["daddr"]}}, "broadcast"), True),
        (match({"fib": {"result": "type", "flags": ["daddr"]}}, "local"), False),
        (match({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, False), False),
        (match({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, True), True),
        (match({"concat": [meta("l4proto"), DPORT]}, {"set": [{"concat": ["udp", 67]}]}), True),
        (match({"concat": [meta("mark"), DPORT]}, {"set": [{"concat": [1, 53]}]}, "!="), True),
        (match({"concat": [meta("mark"), DPORT]}, {"set": [{"concat": [1, 67]}]}), False),
        ({"limit": {"rate": 3, "burst": 5, "per": "minute"}}, True),
        ({"limit": {"rate": 3, "burst": 5, "per": "minute", "inv": True}}, False),
        ({"ct count": {"val": 20, "inv": True}}, False),
        ({"log": {"prefix": "x"}}, True),
        ({"mangle": {"key": meta("mark"), "value": 1}}, True),
        ({"quota": {"val": 1, "val_unit": "bytes"}}, False),
        (xt("comment"), True),
        (xt("conntrack"), False),
        (xt("LOG", "target"), True),
    ],
)
def test_conditions(condition: dict[str, Any], expected: bool) -> None:
    assert drops_dhcp(condition) is expected


def test_every_condition_of_a_rule_counts() -> None:
    assert drops_dhcp(match(DPORT, 67), match(meta("iifname"), "vmlan"))
    assert not drops_dhcp(match(DPORT, 67), match(meta("iifname"), "eth0"))
    assert not drops_dhcp(match(meta("mark"), 1), match(DPORT, 67))


def test_the_first_verdict_counts() -> None:
    assert blocked(ruleset([match(DPORT, 67), ACCEPT], [match(DPORT, 67), DROP])) == []
    assert blocked(ruleset([match(DPORT, 67), DROP], [ACCEPT])) == [
        ("DHCP", "chain inet filter input rule handle 10 drop")
    ]


def test_an_accept_that_might_fire_is_not_believed() -> None:
    rules = ruleset([match(meta("mark"), 1), ACCEPT], policy="drop")
    assert [what for what, _rule in blocked(rules)] == ["DHCP", "DNS"]
    rules = ruleset([xt("conntrack"), ACCEPT], policy="drop")
    assert [what for what, _rule in blocked(rules)] == ["DHCP", "DNS"]


def test_a_state_beside_the_servers_port_is_believed() -> None:
    opened = [
        [xt("conntrack"), match(DPORT, {"range": [67, 68]}), COUNTER, ACCEPT],
        [match(payload("th", "dport"), 53), xt("state"), COUNTER, ACCEPT],
    ]
    assert blocked(ruleset(*opened, policy="drop")) == []
    # Not for another condition, nor for a rule that drops.
    closed = ruleset([match(DPORT, 67), xt("recent"), ACCEPT], policy="drop")
    assert ("DHCP", "chain inet filter input policy drop") in blocked(closed)
    assert blocked(ruleset([match(DPORT, 67), xt("conntrack"), DROP])) == []


def test_rules_by_address_need_the_labs() -> None:
    lan = {"prefix": {"addr": "192.168.76.0", "len": 24}}
    rules = ruleset([match(payload("ip", "saddr"), lan), DROP])
    assert blocked(rules) == [("DNS", "chain inet filter input rule handle 10 drop")]
    assert firewall.blocks(rules, "vmlan") == []
    half = {"prefix": {"addr": "192.168.76.0", "len": 25}}
    assert blocked(ruleset([match(payload("ip", "saddr"), half), DROP])) == []
    host = ruleset([match(payload("ip", "daddr"), "192.168.76.1"), DROP])
    assert blocked(host) == [("DNS", "chain inet filter input rule handle 10 drop")]


def chains(*rules: tuple[str, int, list[dict[str, Any]]], policy: str) -> dict[str, Any]:
    """Return a ruleset with rules in other chains too: chain, handle, statements."""
    given = ruleset(policy=policy)
    for chain, handle, expr in rules:
        given["nftables"].append(
            {"rule": {**FAMILY, "chain": chain, "handle": handle, "expr": expr}}
        )
    return given


def test_jump_comes_back_and_goto_does_not() -> None:
    side = ("side", 21, [match(DPORT, 53), ACCEPT])
    rest = ("input", 31, [ACCEPT])
    for verdict, expected in (("jump", []), ("goto", ["DHCP", "DNS"])):
        first = ("input", 30, [{verdict: {"target": "side"}}])
        found = blocked(chains(first, side, rest, policy="drop"))
        assert [what for what, _rule in found] == expected


def test_return_leaves_a_chain_and_the_base_chain_for_its_policy() -> None:
    given = chains(
        ("input", 30, [{"jump": {"target": "side"}}]),
        ("side", 21, [{"return": None}]),
        ("side", 22, [ACCEPT]),
        ("input", 31, [match(DPORT, 67), {"return": None}]),
        ("input", 32, [ACCEPT]),
        policy="drop",
    )
    assert blocked(given) == [("DHCP", "chain inet filter input policy drop")]


def test_chains_that_never_end_end() -> None:
    again = [("input", handle, [{"jump": {"target": "input"}}]) for handle in range(20, 60)]
    assert blocked(chains(*again, policy="accept")) == []


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"set": [["lo", ACCEPT], ["vmlan", DROP]]}, ["DHCP", "DNS"]),
        ({"set": [["lo", DROP]]}, []),
        ({"set": [["*", DROP], ["vmlan", ACCEPT]]}, []),
        ({"set": [["*", DROP], ["eth0", ACCEPT]]}, ["DHCP", "DNS"]),
        ({"set": [["vmlan", {"goto": {"target": "side"}}]]}, ["DHCP"]),
        ("@zones", ["DHCP", "DNS"]),
        ("@missing", []),
    ],
)
def test_verdict_maps(data: Any, expected: list[str]) -> None:
    given = chains(
        ("input", 30, [{"vmap": {"key": meta("iifname"), "data": data}}]),
        ("side", 21, [match(DPORT, 67), DROP]),
        policy="accept",
    )
    given["nftables"].append({"map": {**FAMILY, "name": "zones", "elem": [["vm*", DROP]]}})
    assert [what for what, _rule in blocked(given)] == expected


def test_a_verdict_map_of_what_the_packet_has_not() -> None:
    by_port = {"vmap": {"key": payload("tcp", "dport"), "data": {"set": [["*", DROP]]}}}
    assert blocked(ruleset([by_port])) == [("DNS", "chain inet filter input rule handle 10 drop")]
    by_mark = {"vmap": {"key": meta("mark"), "data": {"set": [[1, DROP], ["*", DROP]]}}}
    assert blocked(ruleset([by_mark])) == []


def test_a_verdict_map_with_one_element_that_fits_and_one_that_might() -> None:
    key = {"concat": [meta("mark"), DPORT]}
    pairs = [[{"concat": [1, 67]}, ACCEPT], [{"concat": ["*", 67]}, DROP]]
    found = blocked(ruleset([{"vmap": {"key": key, "data": {"set": pairs}}}]))
    assert found == [("DHCP", "chain inet filter input rule handle 10 drop")]


def test_named_sets() -> None:
    given = ruleset([match(DPORT, "@ports"), DROP])
    elements = [22, {"elem": {"val": {"range": [60, 70]}, "timeout": 9}}]
    given["nftables"].append({"set": {**FAMILY, "name": "ports", "elem": elements}})
    assert blocked(given) == [("DHCP", "chain inet filter input rule handle 10 drop")]
    empty = ruleset([match(DPORT, "@ports", "!="), DROP])
    empty["nftables"].append({"set": {**FAMILY, "name": "ports"}})
    assert [what for what, _rule in blocked(empty)] == ["DHCP", "DNS"]


def test_a_table_that_is_switched_off() -> None:
    assert blocked(ruleset(policy="drop", flags=["dormant"])) == []
    assert blocked(ruleset(policy="drop", flags="dormant")) == []


def base(family: str, table: str, hook: str, prio: int, kind: str = "filter") -> dict[str, Any]:
    """Return a base chain that drops everything."""
    named = {"family": family, "table": table, "name": "c", "handle": 1}
    return {"chain": {**named, "type": kind, "hook": hook, "prio": prio, "policy": "drop"}}


def test_which_base_chains_count_and_in_which_order() -> None:
    given = {
        "nftables": [
            base("ip", "late", "input", 10),
            base("inet", "early", "input", -10),
            base("ip", "before", "prerouting", 0),
            base("ip6", "six", "input", 0),
            base("netdev", "device", "ingress", 0),
            base("bridge", "bridge", "input", 0),
            base("ip", "nat", "prerouting", -100, "nat"),
            base("inet", "through", "forward", 0),
        ]
    }
    assert [rule for what, rule in blocked(given) if what == "DHCP"] == [
        "chain ip before c policy drop",
        "chain inet early c policy drop",
        "chain ip late c policy drop",
    ]


def test_what_lasts_where_ufw_or_firewalld_keeps_the_rules() -> None:
    ufw = {"nftables": [base("ip", "filter", "input", 0)]}
    ufw["nftables"].append(
        {"chain": {"family": "ip", "table": "filter", "name": "ufw-user-input", "handle": 2}}
    )
    assert [each.lasting for each in firewall.blocks(ufw, "vmlan", ADDRESS)] == [
        "ufw allow in on vmlan to any port 67 proto udp",
        "ufw allow in on vmlan to any port 53",
    ]
    firewalld = {"nftables": [base("inet", "firewalld", "input", 10)]}
    lasting = (
        "firewall-cmd --permanent --zone=trusted --change-interface=vmlan && firewall-cmd --reload"
    )
    for each in firewall.blocks(firewalld, "vmlan", ADDRESS):
        assert each.lasting == lasting
        assert each.command.startswith("nft 'insert rule inet firewalld c ")


def test_a_table_with_an_owner_is_opened_by_its_owner() -> None:
    table = {"family": "inet", "name": "firewalld", "handle": 1, "flags": ["owner", "persist"]}
    given = {"nftables": [{"table": table}, base("inet", "firewalld", "input", 10)]}
    for each in firewall.blocks(given, "vmlan", ADDRESS):
        assert each.command == each.lasting
