"""
Ports of the host that a running QEMU forwards to its guest: which there are, and how they change.

QEMU itself is asked which there are: what was stored of them is what an apply wanted once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable
from collections.abc import Iterable
from typing import NamedTuple

import _qemulab_vm_command as command
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Forward
from _qemulab_pillar_keys import Vm
from _qemulab_vm_qmp import Qmp
from _qemulab_vm_qmp import QmpError

QUESTION = ("human-monitor-command", {"command-line": "info usernet"})
"""What QEMU is asked; there is no question like it for programs."""
NIC = re.compile(r"\S.*\((?P<netdev>\S+)\):")
FORWARD = re.compile(
    r"\s+(?P<protocol>TCP|UDP)\[HOST_FORWARD\]\s+\d+"
    r"\s+(?P<address>\S+)\s+(?P<port>\d+)\s+\S+\s+(?P<guest>\d+)\s"
)
"""Source: QEMU's hmp_info_usernet and libslirp's slirp_connection_info."""
EVERY_ADDRESS = "0.0.0.0"


class Rule(NamedTuple):
    """One forward of a machine's NIC, by the NIC's position."""

    nic: int
    forward: Forward


def parse(said: str) -> dict[str, set[Forward]]:
    """Return what ``info usernet`` says is forwarded, by the name of each NIC's user network."""
    found: dict[str, set[Forward]] = {}
    here: set[Forward] = set()
    for line in said.splitlines():
        head = NIC.fullmatch(line)
        if head:
            here = found.setdefault(head["netdev"], set())
        rule = FORWARD.match(line)
        if rule:
            address = EVERY_ADDRESS if rule["address"] == "*" else rule["address"]
            port, guest = int(rule["port"]), int(rule["guest"])
            here.add(Forward(port, guest, address, rule["protocol"].lower()))
    return found


def as_they_are(vm: Vm, said: str) -> Vm:
    """
    Return a running machine with those forwards that its QEMU really has.

    vm
        What was stored of it.

    said
        QEMU's answer; of a NIC that is not in it, what was stored is believed.
    """
    found = parse(said)
    nics = list(vm.nics)
    for index, nic in enumerate(vm.nics):
        stored = nic.forwards or ()
        real = found.get(f"net{index}", set(stored))
        if real != set(stored):
            kept = [forward for forward in stored if forward in real]
            others = sorted(real - set(stored), key=str)
            nics[index] = dataclasses.replace(nic, forwards=(*kept, *others))
    return dataclasses.replace(vm, nics=tuple(nics))


def change(qmp: Qmp, old: Vm, new: Vm) -> None:
    """
    Open and close forwarded ports of a running machine.

    Those that are new come first, and none is closed unless QEMU has taken them all. Only what has
    the place of a new one is closed before it. Raises HostError where QEMU refuses one; then all
    are as they were.
    """
    gone, come = _rules(old) - _rules(new), _rules(new) - _rules(old)
    in_the_way = {rule for rule in gone if any(_meet(rule, other) for other in come)}
    late = {rule for rule in come if any(_meet(rule, other) for other in gone)}
    with contextlib.ExitStack() as back:
        for rule in _sorted(come - late):
            _open(qmp, rule)
            back.callback(_again, _close, qmp, rule)
        for rule in _sorted(in_the_way):
            _close(qmp, rule)
            back.callback(_again, _open, qmp, rule)
        for rule in _sorted(late):
            _open(qmp, rule)
            back.callback(_again, _close, qmp, rule)
        back.pop_all()
    for rule in _sorted(gone - in_the_way):
        _close(qmp, rule)


def _rules(vm: Vm) -> set[Rule]:
    return {Rule(index, each) for index, nic in enumerate(vm.nics) for each in nic.forwards or ()}


def _sorted(rules: Iterable[Rule]) -> list[Rule]:
    return sorted(rules, key=str)


def _meet(one: Rule, other: Rule) -> bool:
    """Return whether two forwards cannot listen at the same time."""
    a, b = one.forward, other.forward
    if (a.host_port, a.protocol) != (b.host_port, b.protocol):
        return False
    addresses = {a.host_address, b.host_address}
    return len(addresses) == 1 or EVERY_ADDRESS in addresses


def _again(do: Callable[[Qmp, Rule], None], qmp: Qmp, rule: Rule) -> None:
    """Undo a step; what was refused is told, and the next apply asks what there is."""
    with contextlib.suppress(HostError, QmpError):
        do(qmp, rule)


def _open(qmp: Qmp, rule: Rule) -> None:
    words = f"net{rule.nic} {command.forward_rule(rule.forward)}"
    said = _human(qmp, f"hostfwd_add {words}")
    if said:
        raise HostError(f"QEMU refused hostfwd_add {words}", said)


def _close(qmp: Qmp, rule: Rule) -> None:
    words = f"net{rule.nic} {command.forward_rule(rule.forward).rpartition('-')[0]}"
    said = _human(qmp, f"hostfwd_remove {words}")
    if "removed" not in said and "not found" not in said:
        raise HostError(f"QEMU refused hostfwd_remove {words}", said)


def _human(qmp: Qmp, command: str) -> str:
    """Run a command that QEMU offers to humans only, and return what it says."""
    return str(qmp.execute("human-monitor-command", {"command-line": command})).strip()
