"""
Tell whether the host's firewall keeps a lab's guests from their DHCP and DNS server.

Pure: walks the rules that ``nft -j list ruleset`` printed with the packets that a guest sends. It
sees what is in nftables: rules of nft itself, of firewalld, of iptables-nft and so of ufw.
Rules of iptables-legacy are elsewhere in the kernel and are not seen.

How it decides what it cannot know: a rule with a condition that cannot be evaluated (a mark, a
quota, a match of iptables whose parameters nft does not print) does nothing here, whatever its
verdict. An ``accept`` that might fire is not believed, because a warning too many is read and
dismissed, while a "fine" too many leaves the user with guests without an address; a ``drop`` that
might fire is not reported, because it would be a warning about nearly every firewall.

Source: libnftables-json(5); nft(8), "Chains": a packet passes all base chains of a hook by
priority, an ``accept`` ends one of them, a ``drop`` ends them all.
"""

from __future__ import annotations

import ipaddress
from typing import Any
from typing import NamedTuple

import _qemulab_host_nft as nft


class Blocked(NamedTuple):
    """
    A base chain that drops what a guest needs.

    what
        ``DHCP`` or ``DNS``.

    rule
        Who drops it, in nft's words: ``chain inet filter input policy drop``, or
        ``chain inet filter input rule handle 7 drop``.

    command
        A command for a root shell that lets it in until the firewall is loaded anew.

    lasting
        The same for good in the words of the tool that owns the rules (ufw, firewalld); empty
        where they are nft's or unknown.
    """

    what: str
    rule: str
    command: str
    lasting: str = ""


# What a rule does

#: Statements that neither decide nor hinder.
_HARMLESS = frozenset({"counter", "log", "mangle", "notrack", "last", "comment"})

#: Statements that end the walk through a base chain. What ``queue`` hands to a program is for that
#: program to decide: not reported, as a ``drop`` that might fire is not.
_FINAL = {"accept": "accept", "queue": "accept", "tproxy": "accept", "drop": "drop"}

#: Matches of iptables that ask for the state of the connection.
_STATE = frozenset({"conntrack", "state"})

#: Matches of iptables that ask for whom a packet is.
_CAST = frozenset({"addrtype", "pkttype"})


class Verdict(NamedTuple):
    """What became of a packet: ``accept``, ``drop`` or ``return``, and the rule that did it."""

    name: str
    rule: str = ""


class Rule:
    """
    One rule's statements, applied to one packet from left to right.

    table, packet
        Whose rule, and what it is applied to.

    ``unknown`` collects what could not be evaluated: the names of iptables' matches, ``?`` for the
    rest; ``port`` is set once the rule has named the packet's port.
    """

    def __init__(self, table: nft.Table, packet: nft.Packet) -> None:
        self.table = table
        self.packet = packet
        self.unknown: set[str] = set()
        self.port = False

    def passes(self, statement: dict[str, Any]) -> bool:
        """Take in a statement that is no verdict; return whether the rule goes on after it."""
        kind, value = next(iter(statement.items()))
        answer: nft.Answer = None
        if kind in _HARMLESS:
            answer = True
        elif kind == "match":
            answer = self.table.match(self.packet, value)
            payload = value["left"].get("payload", {}) if isinstance(value["left"], dict) else {}
            if answer and value["op"] == "==" and payload.get("field") == "dport":
                self.port = True
        elif kind in ("limit", "ct count"):
            # The first packets are within a limit, and not over it.
            answer = not (isinstance(value, dict) and value.get("inv"))
        elif kind == "set" and "stmt" not in value:
            answer = True
        elif kind == "xt":
            return self._passes_xt(value)
        if answer is None:
            self.unknown.add("?")
        return answer is not False

    def _passes_xt(self, value: dict[str, Any]) -> bool:
        """Take in a match or target of iptables, of which nft prints the name alone."""
        if value.get("type") == "match" and value.get("name") != "comment":
            self.unknown.add(str(value.get("name")))
        return True

    def fires(self, verdict: str) -> bool:
        """
        Return whether a verdict that the rule has reached is believed.

        Two unknowns are guessed, because rules of iptables would else all be useless: a rule that
        names the server's port and asks for a state opens that port (replies come to other
        ports), and a ``return`` for packets to this host or to all (ufw has three) is taken.
        """
        if not self.unknown:
            return True
        if verdict in ("accept", "jump", "goto"):
            return self.port and self.unknown <= _STATE
        return verdict == "return" and self.unknown <= _CAST


class Walk:
    """
    One packet's way through one table.

    table, packet
        Whose chains, and what passes them. What a chain decides about the packet is worked out
        once.
    """

    def __init__(self, table: nft.Table, packet: nft.Packet) -> None:
        self.table = table
        self.packet = packet
        self._decided: dict[str, Verdict] = {}

    def base(self, chain: str) -> Verdict:
        """Return what a base chain does with the packet: ``accept`` or ``drop``."""
        found = self.chain(chain)
        if found.name != "return":
            return found
        policy = self.table.chains[chain].get("policy", "accept")
        return Verdict(policy, f"{self.name(chain)} policy {policy}")

    def name(self, chain: str) -> str:
        """Return a chain in nft's words."""
        return f"chain {self.table.family} {self.table.name} {chain}"

    def chain(self, chain: str) -> Verdict:
        """Return what a chain decides, ``return`` where it is left or ends without a verdict."""
        if chain not in self._decided:
            # The kernel refuses loops; a ruleset from elsewhere must not hang the caller.
            self._decided[chain] = Verdict("return")
            for rule in self.table.rules.get(chain, []):
                found = self._rule(rule, f"{self.name(chain)} rule handle {rule['handle']}")
                if found is not None:
                    self._decided[chain] = found
                    break
        return self._decided[chain]

    def _rule(self, rule: dict[str, Any], name: str) -> Verdict | None:
        """Return what a rule decides, ``None`` where the next one has its turn."""
        state = Rule(self.table, self.packet)
        for statement in rule["expr"]:
            step = self._verdict_of(statement, state)
            if step is None:
                if not state.passes(statement):
                    return None
                continue
            kind, target = step
            if not state.fires(kind):
                return None
            if kind in ("accept", "drop", "return"):
                return Verdict(kind, f"{name} {target or kind}")
            found = self.chain(target) if kind in ("jump", "goto") else None
            if kind == "goto" or (found is not None and found.name != "return"):
                return found
            return None
        return None

    def _verdict_of(self, statement: dict[str, Any], state: Rule) -> tuple[str, str] | None:
        """
        Return the verdict that a statement holds with its target, ``None`` where it is none.

        A verdict map without an element for the packet is ``continue``.
        """
        kind, value = next(iter(statement.items()))
        if kind == "reject":
            return "drop", "reject"
        if kind in _FINAL:
            return _FINAL[kind], kind
        if kind in ("return", "continue"):
            return kind, ""
        if kind in ("jump", "goto"):
            return kind, str(value["target"])
        if kind == "xt" and value.get("type") == "target":
            special = {"REJECT": ("drop", "reject"), "NFQUEUE": ("accept", "queue")}
            return special.get(str(value.get("name")))
        if kind != "vmap":
            return None
        fact = nft.fact_of(self.packet, value["key"])
        if isinstance(fact, nft.Absent):
            return "continue", ""
        # "*" is for what no other element is for, wherever it stands.
        elements = self.table.elements(value["data"]) or []
        elements = sorted(elements, key=lambda each: bool(each[0] == "*"))
        answers = [(nft.equals(fact, element), verdict) for element, verdict in elements]
        found = next((verdict for answer, verdict in answers if answer), None)
        # Elements do not overlap: one that fits leaves no doubt, unless it is "*".
        if any(answer is None for answer, _ in answers):
            if found is None or elements[-1][0] == "*":
                state.unknown.add("?")
        return ("continue", "") if found is None else self._verdict_of(found, state)


# The ruleset as a whole


def _packets(
    interface: str,
    address: ipaddress.IPv4Interface | None,
) -> list[tuple[str, nft.Packet]]:
    """Return what a guest sends: a request for a lease, and a question by UDP and by TCP."""
    host = None if address is None else ipaddress.IPv4Network(address.ip)
    lan = None if address is None else address.network
    nobody, everybody = (ipaddress.IPv4Network(each) for each in ("0.0.0.0", "255.255.255.255"))
    return [
        ("DHCP", nft.Packet(interface, "udp", 68, 67, nobody, everybody, "broadcast")),
        ("DNS", nft.Packet(interface, "udp", None, 53, lan, host, "unicast")),
        ("DNS", nft.Packet(interface, "tcp", None, 53, lan, host, "unicast")),
    ]


def _lasting(table: nft.Table, interface: str, what: str) -> str:
    """Return what opens a port for good, where ufw or firewalld keeps the rules."""
    if table.name == "firewalld":
        zone = f"firewall-cmd --permanent --zone=trusted --change-interface={interface}"
        return f"{zone} && firewall-cmd --reload"
    if any(chain.startswith("ufw-") for chain in table.chains):
        port = "port 67 proto udp" if what == "DHCP" else "port 53"
        return f"ufw allow in on {interface} to any {port}"
    return ""


def _blocked(
    table: nft.Table,
    chain: str,
    interface: str,
    address: ipaddress.IPv4Interface | None,
) -> list[Blocked]:
    """Return what one base chain drops, DNS by UDP and by TCP as one where one rule does both."""
    found: dict[tuple[str, str], list[nft.Packet]] = {}
    for what, packet in _packets(interface, address):
        verdict = Walk(table, packet).base(chain)
        if verdict.name == "drop":
            found.setdefault((what, verdict.rule), []).append(packet)
    result = []
    for (what, rule), packets in found.items():
        port = f"{packets[0].protocol} dport {packets[0].dport}"
        if len(packets) > 1:
            port = f"meta l4proto {{ tcp, udp }} th dport {packets[0].dport}"
        where = f"{table.family} {table.name} {chain}"
        # One word for the shell, so that nft sees its quotes: a name may be one of its own words.
        command = f"nft 'insert rule {where} iifname \"{interface}\" {port} accept'"
        lasting = _lasting(table, interface, what)
        # A table with an owner takes rules from no other program.
        if "owner" in table.flags and lasting:
            command = lasting
        result.append(Blocked(what, rule, command, lasting))
    return result


def blocks(
    ruleset: dict[str, Any] | None,
    interface: str,
    address: ipaddress.IPv4Interface | None = None,
) -> list[Blocked]:
    """
    Return what of the host's firewall keeps guests from the lab's DHCP and DNS.

    ruleset
        What ``nft -j list ruleset`` printed, parsed; ``None`` where the host has no nft.

    interface
        The lab's interface, where the guests' packets come in.

    address
        The host's address in the lab's network, with the network: rules by address can only be
        judged with it.

    Returns one entry for each base chain and packet, in the order in which packets pass them: all
    must be opened. Chains of hooks before ``input`` (``prerouting``) count too; ``netdev`` and
    ``bridge`` tables do not.
    """
    chains = [
        (chain["prio"], position, table, name)
        for position, table in enumerate(nft.read_tables(ruleset or {}))
        for name, chain in table.chains.items()
        if chain.get("type") == "filter" and chain.get("hook") in ("prerouting", "input")
    ]
    result = []
    for hook in ("prerouting", "input"):
        for _prio, _position, table, name in sorted(chains, key=lambda each: each[:2]):
            if table.chains[name]["hook"] == hook:
                result.extend(_blocked(table, name, interface, address))
    return result
