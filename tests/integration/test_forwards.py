"""
Ports that are forwarded to a running machine: QEMU is asked which there are, and none is closed
for a new one that QEMU refuses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import harness
import labs
import pytest
from labs import Lab
from labs import tiny

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter"),
]

FILE = "/var/lib/qemulab/lab/vms/a/vm.json"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give one lab for all tests of this file."""
    with harness.namespace_host(tmp_path_factory.mktemp("forwards")) as host:
        yield Lab(host)


def declared(*forwards: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a machine with a port of its screen, and forwards."""
    nics = [{"network": "user", "forwards": list(forwards)}]
    return {"vms": {"a": tiny(nics=nics, **{"display": "vnc", "vnc_port": 5907, **more})}}


def listening(lab: Lab) -> set[str]:
    """Return which TCP ports something of the host listens on."""
    return {each.split(":")[-1] for each in lab.host.sockets() if each.startswith("tcp ")}


def stored(lab: Lab) -> dict[str, Any]:
    """Return what is stored of the machine."""
    found: dict[str, Any] = json.loads(lab.host.path(FILE).read_text(encoding="utf-8"))
    return found


def order(lab: Lab, command: str) -> str:
    """Give the machine's QEMU an order as a person may."""
    with lab.qmp("a") as qmp:
        return str(qmp.execute("human-monitor-command", {"command-line": command}))


def clean(lab: Lab, pillar: dict[str, Any]) -> bool:
    """Return whether neither a dry run nor an apply has anything to do."""
    return not any(lab.changes(lab.apply(declared=pillar, test=test)) for test in (True, False))


def test_a_refused_forward_leaves_the_old_ones(lab: Lab) -> None:
    """
    Of all that come, the second is refused: QEMU itself has that port, for its screen, until the
    restart that it waits for. Put back, there is nothing to do, and it listens.
    """
    before = declared({"host_port": 10022})
    lab.apply(declared=before)
    pid = lab.pids()["a"]
    wanted = declared({"host_port": 10021}, {"host_port": 5907}, vnc_port=5908)
    state = lab.apply(declared=wanted, check=False)["vm_running a"]
    assert state["result"] is False
    assert "QEMU refused hostfwd_add net0 tcp:127.0.0.1:5907-:22" in state["comment"]
    assert {"10022", "5907"} <= listening(lab) and "10021" not in listening(lab)
    assert stored(lab)["started"]["nics"][0]["forwards"][0]["host_port"] == 10022
    assert "unsure" not in stored(lab)
    assert clean(lab, before)
    assert "10022" in listening(lab) and lab.pids()["a"] == pid


def test_a_place_changes_hands(lab: Lab) -> None:
    """The same port of the host leads elsewhere in the guest, then to another NIC's network."""
    lab.apply(declared=declared({"host_port": 10022}, {"host_port": 10023, "guest_port": 23}))
    swapped = declared({"host_port": 10022, "guest_port": 23}, {"host_port": 10023})
    said = lab.apply(declared=swapped, test=True)
    assert lab.changes(lab.apply(declared=swapped)) == lab.changes(said)
    assert "10022       10.0.2.15    23" in order(lab, "info usernet")
    assert clean(lab, swapped)
    # Refused at the end, the two are back.
    wanted = declared({"host_port": 10022}, {"host_port": 5907}, vnc_port=5908)
    assert lab.apply(declared=wanted, check=False)["vm_running a"]["result"] is False
    assert "10022       10.0.2.15    23" in order(lab, "info usernet")
    assert clean(lab, swapped)
    wide = declared({"host_port": 10022, "host_address": "0.0.0.0"})
    lab.apply(declared=wide)
    assert "tcp 0.0.0.0:10022" in lab.host.sockets() and "10023" not in listening(lab)
    assert clean(lab, wide)


def test_a_forward_that_vanished_is_put_back(lab: Lab) -> None:
    """And one that nobody has declared is closed; the dry run shows both."""
    pillar = declared({"host_port": 10022})
    lab.apply(declared=pillar)
    order(lab, "hostfwd_remove net0 tcp:127.0.0.1:10022")
    order(lab, "hostfwd_add net0 tcp:127.0.0.1:10029-:22")
    said = lab.apply(declared=pillar, test=True)
    assert lab.changes(said)["vm_running a"] == {
        "nics:0:forwards": {
            "old": ["127.0.0.1:10029 to 22/tcp"],
            "new": ["127.0.0.1:10022 to 22/tcp"],
            "effect": "live",
        }
    }
    assert lab.changes(lab.apply(declared=pillar)) == lab.changes(said)
    assert "10022" in listening(lab) and "10029" not in listening(lab)
    assert clean(lab, pillar)


def test_an_apply_that_was_killed_is_finished_or_taken_back(lab: Lab) -> None:
    """It has unplugged a cable and put a disc in; whatever the pillar says by then is made true."""
    disc = labs.blank_disc(lab.host.shared / "disc.iso")
    before = declared({"host_port": 10022})
    wanted = declared({"host_port": 10022}, cdrom=str(disc))
    wanted["vms"]["a"]["nics"][0]["connected"] = False
    for pillar, keys in ((before, {"cdrom", "nics:0:connected"}), (wanted, {"cdrom"})):
        lab.apply(declared=before)
        as_before = lab.host.path(FILE).read_text(encoding="utf-8")
        lab.apply(declared=wanted)
        # As it is stored before the first step; this one has come through up to the last.
        doubt = {
            "defined": json.loads(as_before)["defined"],
            "started": stored(lab)["started"],
            "unsure": [json.loads(as_before)["started"]],
        }
        lab.host.path(FILE).write_text(json.dumps(doubt), encoding="utf-8")
        done = lab.apply(declared=pillar)["vm_running a"]["changes"]
        assert keys <= done.keys() and {item["effect"] for item in done.values()} == {"live"}
        assert clean(lab, pillar)
        with lab.qmp("a") as qmp:
            drives = [d for d in qmp.execute("query-block") if d["qdev"].endswith("cdrom")]
        assert ("inserted" in drives[0]) == ("cdrom" in pillar["vms"]["a"])
    assert "unsure" not in stored(lab)


def test_two_machines_that_want_each_others_ports_lose_none(lab: Lab) -> None:
    """Each is told who has it; with one of them in between, it goes."""

    def two(a: int, b: int) -> dict[str, Any]:
        forwards = {"a": [{"host_port": a}], "b": [{"host_port": b}]}
        return {
            "vms": {
                name: tiny(nics=[{"network": "user", "forwards": each}])
                for name, each in forwards.items()
            }
        }

    lab.apply(declared=two(10022, 10023))
    states = lab.apply(declared=two(10023, 10022), check=False)
    for name, other in ("ab", "ba"):
        assert f"already taken by the machine {other}" in states[f"vm_running {name}"]["comment"]
    assert {"10022", "10023"} <= listening(lab)
    assert clean(lab, two(10022, 10023))
    lab.apply(declared=two(10024, 10022), check=False)
    lab.apply(declared=two(10023, 10022), check=False)
    assert clean(lab, two(10023, 10022))
