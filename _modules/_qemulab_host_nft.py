"""
Say whether a packet satisfies a condition of an nftables rule, as ``nft -j`` prints it.

Pure: knows expressions, values, sets and tables; what a rule then does with the packet is for
``_qemulab_host_firewall``. Every answer is one of three: true, false, and ``None`` for what cannot
be known from here.

Source: libnftables-json(5).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any
from typing import NamedTuple


class Packet(NamedTuple):
    """
    A packet that arrives from a guest.

    source, target
        Where it comes from and goes to; ``None`` is unknown. A network stands for any of its
        addresses.

    cast
        ``broadcast`` or ``unicast``.
    """

    interface: str
    protocol: str
    sport: int | None
    dport: int
    source: ipaddress.IPv4Network | None
    target: ipaddress.IPv4Network | None
    cast: str


#: What a comparison says: true, false, or ``None`` where it cannot be known.
Answer = bool | None

Fact = str | int | bool | frozenset[str] | ipaddress.IPv4Network | tuple[Any, ...]


class Absent:
    """What an expression is that reads a header which the packet does not have."""


ABSENT = Absent()

_NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "ipv4": 2, "ip": 0x0800}


def _either(answers: Iterable[Answer]) -> Answer:
    """Return whether one is true; unknown where none is and one might be."""
    result: Answer = False
    for answer in answers:
        if answer:
            return True
        if answer is None:
            result = None
    return result


def _all(answers: Iterable[Answer]) -> Answer:
    """Return whether all are true; unknown where none is false and one might be."""
    inverse = _either(None if answer is None else not answer for answer in answers)
    return None if inverse is None else not inverse


# What an expression reads from the packet


def _meta(packet: Packet, key: str) -> Fact | None:
    """Return a ``meta`` expression's value."""
    known: dict[str, Fact] = {
        "iif": packet.interface,
        "iifname": packet.interface,
        "l4proto": packet.protocol,
        "nfproto": "ipv4",
        "protocol": "ip",
        "pkttype": "broadcast" if packet.cast == "broadcast" else "host",
    }
    return known.get(key)


def _payload(packet: Packet, expression: dict[str, Any]) -> Fact | Absent | None:
    """Return a header field's value; absent where the packet has no such header."""
    header, name = expression.get("protocol"), expression.get("field")
    ports: dict[object, Fact | None] = {"sport": packet.sport, "dport": packet.dport}
    if header == "th":
        return ports.get(name)
    if header in ("udp", "tcp"):
        if header != packet.protocol:
            return ABSENT
        return frozenset({"syn"}) if name == "flags" else ports.get(name)
    if header == "ip":
        fields: dict[object, Fact | None] = {
            "protocol": packet.protocol,
            "version": 4,
            "saddr": packet.source,
            "daddr": packet.target,
        }
        return fields.get(name)
    if header in ("ether", "vlan", None):
        return None
    return ABSENT


def _ct(key: str) -> Fact | None:
    """Return a ``ct`` expression's value for a packet that opens a connection."""
    known: dict[str, Fact] = {
        "state": frozenset({"new"}),
        "status": frozenset(),
        "direction": "original",
    }
    return known.get(key)


def _fib(packet: Packet, expression: dict[str, Any]) -> Fact | None:
    """Return a routing look-up's value: the host itself or all of the network is asked for."""
    flags = expression.get("flags", [])
    if expression.get("result") == "type" and "daddr" in flags:
        return "broadcast" if packet.cast == "broadcast" else "local"
    if expression.get("result") in ("oif", "oifname") and "saddr" in flags:
        # The way back is the interface itself; for 0.0.0.0 the kernel says so too (nft_fib_ipv4).
        return packet.interface
    return None


def fact_of(packet: Packet, expression: Any) -> Fact | Absent | None:
    """
    Return what an expression reads from a packet.

    packet
        The packet.

    expression
        The left side of a match or the key of a map, as printed.

    Returns ``ABSENT`` where the packet has no such header, which no comparison is true of, and
    ``None`` where the value cannot be known from here.
    """
    if not isinstance(expression, dict) or len(expression) != 1:
        return None
    kind, value = next(iter(expression.items()))
    if kind == "concat":
        parts = tuple(fact_of(packet, part) for part in value)
        return ABSENT if any(isinstance(part, Absent) for part in parts) else parts
    if kind == "&" and isinstance(value, list) and len(value) == 2:
        fact, mask = fact_of(packet, value[0]), _flags(value[1])
        if isinstance(fact, frozenset):
            return None if mask is None else fact & mask
        return fact if isinstance(fact, Absent) else None
    if not isinstance(value, dict):
        return None
    if kind == "payload":
        return _payload(packet, value)
    if kind == "fib":
        return _fib(packet, value)
    if kind == "meta":
        return _meta(packet, str(value.get("key")))
    return _ct(str(value.get("key"))) if kind == "ct" else None


# What a fact is compared with


def _flags(right: Any) -> frozenset[str] | None:
    """Return a value of flags as a set: ``"new"``, ``["new", "related"]``, ``{"|": […]}``, 0."""
    if isinstance(right, dict) and set(right) == {"|"}:
        right = right["|"]
    if right == 0:
        return frozenset()
    words = right if isinstance(right, list) else [right]
    return frozenset(words) if all(isinstance(word, str) for word in words) else None


def _address(fact: ipaddress.IPv4Network, right: Any) -> Answer:
    """Return whether an address, or any of a network's, is within a value."""
    try:
        if isinstance(right, dict) and "range" in right:
            low, high = (ipaddress.IPv4Address(end) for end in right["range"])
            found = list(ipaddress.summarize_address_range(low, high))
        elif isinstance(right, dict) and "prefix" in right:
            prefix = right["prefix"]
            text = f"{prefix['addr']}/{prefix['len']}"
            found = [ipaddress.IPv4Network(text, strict=False)]
        else:
            found = [ipaddress.IPv4Network(right)]
    except (ValueError, TypeError, KeyError):
        return None
    if any(fact.subnet_of(each) for each in found):
        return True
    return None if any(fact.overlaps(each) for each in found) else False


def _number(fact: str | int, right: Any) -> Answer:
    """Return whether a number, or a name that stands for one, is a value or within a range."""
    if isinstance(right, dict) and "range" in right:
        low, high = right["range"]
        if not all(isinstance(each, int) for each in (fact, low, high)):
            return None
        return bool(low <= fact <= high)
    if isinstance(right, str) and isinstance(fact, str):
        return fact.startswith(right[:-1]) if right.endswith("*") else fact == right
    if isinstance(right, int) and isinstance(fact, str):
        return _NUMBERS[fact] == right if fact in _NUMBERS else None
    return fact == right if isinstance(right, int) else None


def equals(fact: Fact | None, right: Any) -> Answer:
    """
    Return whether a fact is a value.

    fact
        From ``fact_of``; ``None`` is unknown.

    right
        One element of a set or map, or the right side of a match: a word, a number, an address,
        a ``range``, a ``prefix``, a ``concat``, or one of these wrapped in an ``elem``.
    """
    if isinstance(right, dict) and "elem" in right:
        right = right["elem"].get("val")
    if right == "*":
        return True
    if fact is None:
        return None
    if isinstance(fact, tuple):
        parts = right.get("concat") if isinstance(right, dict) else None
        if not isinstance(parts, list) or len(parts) != len(fact):
            return None
        return _all(equals(each, part) for each, part in zip(fact, parts, strict=True))
    if isinstance(fact, frozenset):
        flags = _flags(right)
        return None if flags is None else fact == flags
    if isinstance(right, bool):  # fib: whether there is a route at all
        return right
    if isinstance(fact, ipaddress.IPv4Network):
        return _address(fact, right)
    return _number(fact, right)


_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda left, right: left < right,
    ">": lambda left, right: left > right,
    "<=": lambda left, right: left <= right,
    ">=": lambda left, right: left >= right,
}


class Table:
    """A table's chains, and its sets and maps by name, as listed."""

    def __init__(self, family: str, name: str) -> None:
        self.family = family
        self.name = name
        self.flags: list[str] = []
        self.chains: dict[str, dict[str, Any]] = {}
        self.rules: dict[str, list[dict[str, Any]]] = {}
        self.sets: dict[str, list[Any]] = {}

    def elements(self, right: Any) -> list[Any] | None:
        """
        Return the elements of a set or map; ``None`` where it is neither.

        right
            ``"@name"`` or ``{"set": […]}``.
        """
        if isinstance(right, str) and right.startswith("@"):
            return self.sets.get(right[1:], [])
        if isinstance(right, dict) and "set" in right:
            found = right["set"]
            return found if isinstance(found, list) else [found]
        return None

    def match(self, packet: Packet, match: dict[str, Any]) -> Answer:
        """
        Return whether a packet satisfies a ``match`` statement.

        packet
            The packet.

        match
            The statement's ``left``, ``op`` and ``right``.
        """
        fact, right, operator = fact_of(packet, match["left"]), match["right"], match["op"]
        if isinstance(fact, Absent):
            return False
        elements = self.elements(right)
        if elements is not None:
            answer = _either(equals(fact, each) for each in elements)
        elif operator == "in" and isinstance(fact, frozenset):
            flags = _flags(right)
            answer = None if flags is None else bool(fact & flags)
        elif operator in _ORDERS:
            both = isinstance(fact, int) and isinstance(right, int)
            return _ORDERS[operator](fact, right) if both else None
        else:
            answer = equals(fact, right)
        if operator == "!=" and answer is not None:
            return not answer
        return answer if operator in ("==", "in", "!=") else None


def read_tables(ruleset: dict[str, Any]) -> list[Table]:
    """
    Return the tables that an IPv4 packet passes, with their chains, rules and sets.

    ruleset
        What ``nft -j list ruleset`` printed, parsed. Tables that are switched off (``dormant``)
        are left out.
    """
    tables: dict[tuple[str, str], Table] = {}
    for entry in ruleset.get("nftables", []):
        kind, value = next(iter(entry.items()))
        if value.get("family") not in ("ip", "inet"):
            continue
        name = value["name"] if kind == "table" else value.get("table", "")
        table = tables.setdefault((value["family"], name), Table(value["family"], name))
        if kind == "table":
            flags = value.get("flags", [])
            table.flags = flags if isinstance(flags, list) else [flags]
        elif kind == "chain":
            table.chains[value["name"]] = value
        elif kind == "rule":
            table.rules.setdefault(value["chain"], []).append(value)
        elif kind in ("set", "map"):
            table.sets[value["name"]] = value.get("elem", [])
    return [table for table in tables.values() if "dormant" not in table.flags]
