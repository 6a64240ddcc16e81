"""
What only a real host shows of a declaration: what another lab has, and what a guest can reach.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import harness
import pytest
from labs import Lab
from labs import tiny

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter", "ssh"),
]


@pytest.fixture(autouse=True)
def ends_whole() -> None:
    """Each test has a host of its own."""


FORWARD = {"network": "user", "forwards": [{"host_port": 10022}]}
FIRST = {"networks": {"vmlan": {}}, "vms": {"a": tiny(nics=[FORWARD])}}
TAKEN = "lab:networks:n:interface: the interface vmlan is that of the network vmlan of the lab lab"
NOT_OURS = "lab:networks:n:interface: the host has an interface {} that is not ours"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give a host that has a lab, and an interface of its own."""
    with harness.namespace_host(tmp_path_factory.mktemp("two")) as host:
        lab = Lab(host)
        lab.apply(declared=FIRST)
        host.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"])
        yield lab


def second(**network: Any) -> dict[str, Any]:
    """Return another lab, whose machine wants the same port."""
    return {
        "name": "two",
        "networks": {"n": {"address": "10.0.4.1/24", **network}},
        "vms": {"b": tiny(nics=[FORWARD])},
    }


@pytest.mark.parametrize(
    ("network", "said"),
    [
        pytest.param({"interface": "vmlan"}, TAKEN, id="B7-of-another-lab"),
        pytest.param({"interface": "eth0"}, NOT_OURS.format("eth0"), id="B7-of-the-host"),
        pytest.param(
            {"multicast": "230.0.0.1:1234"},
            "lab:networks:n:multicast: 230.0.0.1:1234 is already taken by the network vmlan of the "
            "lab lab",
            id="B8-of-another-lab",
        ),
    ],
)
def test_what_another_lab_has_is_refused(first: Lab, network: dict[str, str], said: str) -> None:
    """With its owner, before anything is made."""
    states = first.apply(declared=second(**network), check=False)
    assert first.changes(states) == {}
    assert states["declared lab-declared"]["comment"].splitlines()[0] == said


def test_b6_a_port_of_another_lab_is_refused(first: Lab) -> None:
    """By the machine that wants it; its network is made, and the first lab runs on."""
    states = first.apply(declared=second(), check=False)
    assert states["network_present n"]["result"] is True
    said = "lab:vms:b:nics:0:forwards:0:host_port: port 10022/tcp on 127.0.0.1 is already taken by "
    assert f"{said}the machine a of the lab lab" in states["vm_running b"]["comment"]
    assert first.changes(first.apply(declared=FIRST)) == {}


def on_user(*names: str, **more: Any) -> dict[str, Any]:
    """Return the second lab with machines that name no port."""
    return {**second(), "vms": {name: tiny(nics=[{"network": "user"}]) for name in names}, **more}


def given(states: dict[str, Any], name: str) -> str:
    """Return the port that an apply has given to a machine, or would."""
    (forward,) = states[f"vm_running {name}"]["changes"]["nics:0:forwards"]["new"]
    return str(forward)


def test_ports_that_are_left_out_are_free_ones_and_stay(first: Lab) -> None:
    """Beside another lab's, as the dry run says; of a machine that goes, its port is not taken."""
    said = first.apply(declared=on_user("b", "c"), test=True)
    assert [given(said, name) for name in "bc"] == [
        "127.0.0.1:10023 to 22/tcp",
        "127.0.0.1:10024 to 22/tcp",
    ]
    assert first.changes(first.apply(declared=on_user("b", "c"))) == first.changes(said)
    # One that sorts before it takes nothing away from it.
    declared = on_user("a", "c", prune="stop")
    said = first.apply(declared=declared, test=True)
    assert given(said, "a") == "127.0.0.1:10025 to 22/tcp"
    assert said["pruned lab-pruned"]["changes"].keys() == {"vms:b"}
    made = first.apply(declared=declared)
    assert first.changes(made) == first.changes(said)
    assert first.changes(first.apply(declared=declared)) == {}
    # The same with the port named: it is free by the time that the new machine starts.
    forwards = [{"host_port": 10024}]
    declared["vms"] = {"d": tiny(nics=[{"network": "user", "forwards": forwards}])}
    said = first.apply(declared=declared, test=True)
    assert first.changes(first.apply(declared=declared)) == first.changes(said)
    assert first.changes(first.apply(declared=FIRST)) == {}


def guest(port: int, restrict: bool) -> dict[str, Any]:
    """Return a guest that boots fast, on the user network alone."""
    nic = {"network": "user", "restrict": restrict, "forwards": [{"host_port": port}]}
    return {"memory": 192, "cpus": 1, "firmware": "bios", "disks": [], "nics": [nic]}


def test_a_guest_reaches_the_hosts_loopback_unless_restricted(
    namespace_host: harness.Host,
) -> None:
    """
    By 10.0.2.2; with ``restrict: true`` it reaches nothing, and is still logged in to.

    socat would close half a second after the end of the question (``-t``), by when a busy host may
    not have run ``echo``. What the second machine hears means something once the first is answered.
    """
    host = namespace_host
    lab = Lab(host)
    declared = {
        "networks": {},
        "vms": {"master": guest(10022, False), "worker1": guest(10023, True)},
    }
    listen = "TCP-LISTEN:8099,bind=127.0.0.1,reuseaddr,fork"
    serve = ["socat", "-t", "60", listen, "EXEC:'echo the-hosts-own'"]
    ask = "echo | timeout 5 nc 10.0.2.2 8099"

    def answered() -> bool:
        return lab.ssh("master", ask, check=False) == "the-hosts-own"

    server = host.spawn(serve)
    with contextlib.ExitStack() as stack:
        stack.callback(server.communicate)
        stack.callback(server.kill)
        lab.apply(declared=declared)
        lab.wait_for_login("master", "worker1")
        harness.wait_for(answered, 60, "the host's answer")
        assert lab.ssh("worker1", f"{ask}; echo asked", check=False) == "asked"
