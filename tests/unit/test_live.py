"""
Changes of a running machine, against a QEMU that refuses, or an apply that is killed, at any step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _qemulab_pillar_spec as spec
import _qemulab_plan_vm as plan_vm
import _qemulab_vm_forwards as forwards
import _qemulab_vm_live as live
import pytest
from _qemulab_host_seam import HostError
from _qemulab_pillar_keys import Forward
from _qemulab_pillar_keys import Vm
from _qemulab_plan_diff import merged
from _qemulab_plan_status import Status
from _qemulab_plan_vm import VmFacts
from _qemulab_run_site import Site
from _qemulab_vm_qmp import QmpError

USERNET = """\
Hub -1 (net1):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[ESTABLISHED]   21       127.0.0.1 10022       10.0.2.15    22     0     0
  TCP[HOST_FORWARD]   9       127.0.0.1 10022       10.0.2.15    22     0     0
  UDP[HOST_FORWARD]   8               * 10023       10.0.2.15    53     0     0
  UDP[236 sec]       12       10.0.2.15 40000         8.8.8.8    53     0     0
Hub -1 (net2):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
"""
"""What QEMU 7.2 says; the lines of connections are made up by their pattern in libslirp."""


class Killed(BaseException):
    """The apply ends here."""


class Qemu:
    """What of a running QEMU can be changed; the ports of its host that others have."""

    def __init__(self, vm: Vm, taken: tuple[int, ...] = ()) -> None:
        self.taken = taken
        self.cables = [nic.connected for nic in vm.nics]
        self.rules = {
            (index, str(each).replace(" to ", "-")): each
            for index, nic in enumerate(vm.nics)
            for each in nic.forwards or ()
        }
        self.nodes = {"node-cdrom": vm.cdrom} if vm.cdrom else {}
        self.disc = "node-cdrom" if vm.cdrom else ""
        self.left = -1
        """Commands until it fails; negative: never."""
        self.failure: BaseException = QmpError("no")
        self.did = False
        """Whether the command at which it fails has come through."""

    def execute(
        self, command: str, arguments: Any = None, timeout: float = 0, descriptor: int | None = None
    ) -> Any:
        """Do what QEMU does."""
        self.left -= 1
        if self.left == -1 and not self.did:
            raise self.failure
        answer = getattr(self, command.replace("-", "_"), lambda **_: None)(
            **{key.replace("-", "_"): value for key, value in (arguments or {}).items()}
        )
        if self.left == -1:
            raise self.failure
        return answer

    def set_link(self, name: str, up: bool) -> None:
        self.cables[int(name.removeprefix("nic"))] = up

    def human_monitor_command(self, command_line: str) -> str:
        what, netdev, rule = command_line.split()
        protocol, address, port, guest = re.fullmatch(
            r"(\w+):([\d.]+):(\d+)(?:-:(\d+))?", rule
        ).groups()  # type: ignore[union-attr]
        for key, each in self.rules.items():
            there = (each.protocol, str(each.host_port)) == (protocol, port)
            if what == "hostfwd_remove" and there and key[0] == int(netdev[3:]):
                del self.rules[key]
                return f"host forwarding rule for {rule} removed\r\n"
            meets = each.host_address == address or "0.0.0.0" in (each.host_address, address)
            if what == "hostfwd_add" and there and meets:
                return f"Could not set up host forwarding rule '{rule}'\r\n"
        if what == "hostfwd_remove":
            return f"host forwarding rule for {rule} not found\r\n"
        if int(port) in self.taken:
            return f"Could not set up host forwarding rule '{rule}'\r\n"
        forward = Forward(int(port), int(guest), address, protocol)
        self.rules[int(netdev[3:]), rule] = forward
        return ""

    def query_block(self) -> list[dict[str, Any]]:
        inserted = {"inserted": {"node-name": self.disc}} if self.disc else {}
        return [{"qdev": "disk-hda"}, {"qdev": "/machine/peripheral/cdrom", **inserted}]

    def query_named_block_nodes(self, flat: bool) -> list[dict[str, Any]]:
        assert flat
        return [{"node-name": name} for name in ("node-disk-hda", *self.nodes)]

    def add_fd(self, opaque: str) -> dict[str, int]:
        return {"fdset-id": 7}

    def blockdev_add(self, node_name: str, **more: Any) -> None:
        assert node_name not in self.nodes and more["file"]["filename"] == "/dev/fdset/7"
        self.nodes[node_name] = "the new one"

    def blockdev_remove_medium(self, id: str) -> None:  # noqa: A002
        self.disc = ""

    def blockdev_del(self, node_name: str) -> None:
        assert self.disc != node_name
        del self.nodes[node_name]

    def blockdev_insert_medium(self, id: str, node_name: str) -> None:  # noqa: A002
        assert not self.disc
        self.disc = node_name

    def usernet(self) -> str:
        """Return what it says of its forwards."""
        lines = []
        for index in range(len(self.cables)):
            lines.append(f"Hub -1 (net{index}):")
            for (nic, _), each in self.rules.items():
                if nic == index:
                    address = "*" if each.host_address == "0.0.0.0" else each.host_address
                    lines.append(
                        f"  {each.protocol.upper()}[HOST_FORWARD]  9  {address} {each.host_port}"
                        f"  10.0.2.15  {each.guest_port}  0  0"
                    )
        return "\n".join(lines)

    def is_now(self) -> Any:
        """Return all that can be seen of it."""
        said = forwards.parse(self.usernet())
        return self.cables, said, bool(self.disc), len(self.nodes)


def machine(*ports: Forward, cable: bool = True, cdrom: str = "", **more: Any) -> Vm:
    """Return a machine with two NICs on the user network; the first has all forwards."""
    nics = [{"network": "user", "forwards": []}] * 2
    vm = spec.vm_from("a", {"nics": nics, "firmware": "bios", "disks": [], **more}, "lab", {})
    first = dataclasses.replace(vm.nics[0], forwards=ports)
    second = dataclasses.replace(vm.nics[1], connected=cable)
    return dataclasses.replace(vm, nics=(first, second), cdrom=cdrom)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return a lab on a host where every port and every disc is fine."""
    monkeypatch.setattr(live.vm_ports, "check", lambda *_: None)
    monkeypatch.setattr(live.media, "check", lambda *_: None)
    return Site("lab", str(tmp_path))


def change(site: Site, monkeypatch: pytest.MonkeyPatch, qemu: Qemu, declared: Vm) -> set[str]:
    """Apply a declaration to a running machine; return what the plan was."""

    @contextlib.contextmanager
    def proven(*_: Any) -> Iterator[Qemu]:
        yield qemu

    monkeypatch.setattr(live, "proven", proven)
    defined, started = site.store.vm("a")
    assert started is not None
    real = forwards.as_they_are(started, qemu.usernet())
    facts = VmFacts(defined, real, unsure=site.store.vm_unsure("a"), status=Status.RUNNING)
    plan = plan_vm.plan_vm(facts, declared, "running")
    if plan.changes:
        now = merged(real, declared, plan.waiting())
        live.change_live(site, "a", real, now, facts)
        site.store.keep_vm("a", declared, now)
    return {str(change.key) for change in plan.changes}


def test_what_qemu_says_is_read() -> None:
    """Forwards alone, by their NIC; connections are none."""
    assert forwards.parse(USERNET) == {
        "net1": {Forward(10022), Forward(10023, 53, "0.0.0.0", "udp")},
        "net2": set(),
    }
    assert forwards.parse("") == {}
    assert forwards.parse("unknown command: 'info usernet'\r\n") == {}


def test_what_is_real_is_believed_and_keeps_its_order() -> None:
    """What was stored stands for a NIC of which QEMU says nothing."""
    vm = machine(Forward(3), Forward(1), Forward(2))
    assert forwards.as_they_are(vm, "") == vm
    assert forwards.as_they_are(vm, Qemu(vm).usernet()) == vm
    other = machine(Forward(2), Forward(9), Forward(3))
    real = forwards.as_they_are(vm, Qemu(other).usernet())
    assert real.nics[0].forwards == (Forward(3), Forward(2), Forward(9))


def test_a_refused_forward_costs_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the old ones nor the ones that were taken before it; put back, nothing is left."""
    old = machine(Forward(10022), Forward(10025))
    new = machine(Forward(10001), Forward(10023), Forward(10025, 23))
    site.store.keep_vm("a", old, old)
    qemu = Qemu(old, taken=(10023,))
    before = qemu.is_now()
    with pytest.raises(HostError, match="10023"):
        change(site, monkeypatch, qemu, new)
    assert qemu.is_now() == before
    assert site.store.vm("a") == (old, old) and site.store.vm_unsure("a") == ()
    assert change(site, monkeypatch, qemu, old) == set()
    qemu.taken = ()
    assert change(site, monkeypatch, qemu, new) == {"nics:0:forwards"}
    assert qemu.is_now() == Qemu(new).is_now()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([Forward(1, 22)], [Forward(1, 23)]),
        ([Forward(1, 22), Forward(2, 23)], [Forward(1, 23), Forward(2, 22)]),
        ([Forward(1, 22)], [Forward(1, 22, "0.0.0.0")]),
        ([Forward(1, 22, "0.0.0.0")], [Forward(1, 22), Forward(1, 22, "127.0.0.2")]),
        ([Forward(1, 22)], [Forward(1, 22, "127.0.0.1", "udp")]),
    ],
)
def test_a_place_that_is_taken_by_an_old_forward(old: list[Forward], new: list[Forward]) -> None:
    """It is closed first, and is back where its successor, or anything else, is refused."""
    qemu = Qemu(machine(*old))
    forwards.change(qemu, machine(*old), machine(*new))  # type: ignore[arg-type]
    assert qemu.is_now() == Qemu(machine(*new)).is_now()
    qemu = Qemu(machine(*old), taken=(99,))
    with pytest.raises(HostError):
        forwards.change(qemu, machine(*old), machine(*new, Forward(99)))  # type: ignore[arg-type]
    assert qemu.is_now() == Qemu(machine(*old)).is_now()


def test_a_port_moves_to_another_nic() -> None:
    """Of the same machine."""
    old = machine(Forward(1))
    nics = tuple(
        dataclasses.replace(nic, forwards=each)
        for nic, each in zip(old.nics, ((), (Forward(1),)), strict=True)
    )
    new = dataclasses.replace(old, nics=nics)
    qemu = Qemu(old)
    forwards.change(qemu, old, new)  # type: ignore[arg-type]
    assert forwards.parse(qemu.usernet()) == {"net0": set(), "net1": {Forward(1)}}


@pytest.mark.parametrize("did", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("failure", [QmpError("no"), Killed()], ids=["refused", "killed"])
@pytest.mark.parametrize("goes_on", [False, True], ids=["put-back", "again"])
def test_whatever_step_it_ends_at(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    did: bool,
    failure: BaseException,
    goes_on: bool,
) -> None:
    """The next apply makes what is declared by then; the one behind it changes nothing."""
    disc = tmp_path / "disc"
    disc.write_bytes(b"")
    old = machine(Forward(1), Forward(2), cdrom=str(disc))
    new = machine(Forward(2, 23), Forward(3), cable=False, cdrom=str(disc) + "-2")
    (tmp_path / "disc-2").write_bytes(b"")
    ended = 0
    while True:
        site.store.keep_vm("a", old, old)
        qemu = Qemu(old)
        qemu.left, qemu.failure, qemu.did = ended, failure, did
        try:
            change(site, monkeypatch, qemu, new)
            break
        except (QmpError, Killed):
            qemu.left = -2
        ended += 1
        declared = new if goes_on else old
        change(site, monkeypatch, qemu, declared)
        assert qemu.is_now() == Qemu(declared).is_now(), ended
        assert change(site, monkeypatch, qemu, declared) == set(), ended
        assert site.store.vm("a")[1] == forwards.as_they_are(declared, qemu.usernet())
        assert site.store.vm_unsure("a") == ()
    assert ended > 12


def test_a_disc_that_is_gone_leaves_the_old_one_in(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And what was done before it is known."""
    old = machine(Forward(1), cdrom="/old")
    new = machine(Forward(2), cable=False, cdrom=str(tmp_path / "gone"))
    site.store.keep_vm("a", old, old)
    qemu = Qemu(old)
    with pytest.raises(FileNotFoundError):
        change(site, monkeypatch, qemu, new)
    assert qemu.nodes == {"node-cdrom": "/old"} and qemu.disc == "node-cdrom"
    defined, started = site.store.vm("a")
    assert defined == old
    assert started == machine(Forward(2), cable=False, cdrom="/old")
    declared = dataclasses.replace(old, cdrom="")
    keys = change(site, monkeypatch, qemu, declared)
    assert keys == {"nics:0:forwards", "nics:1:connected", "cdrom"}
    assert qemu.is_now() == Qemu(declared).is_now()
