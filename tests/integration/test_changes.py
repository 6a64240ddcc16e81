"""
What a changed pillar does: the dry run and the apply agree, key by key, for every effect.

Machines here start in no time: firmware of the BIOS kind, an empty disk, no guest.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Iterator
from typing import Any

import harness
import labs
import pytest
from figures import Figures
from labs import Lab
from labs import blank_disc
from labs import tiny

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs("qemu-system-x86_64", "socat", "dnsmasq", "unshare", "nsenter"),
]

Declared = dict[str, Any]


@pytest.fixture(scope="module", params=harness.HOSTS)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give one lab for all tests of this file; each begins by applying what it starts from."""
    with harness.HOSTS[request.param](tmp_path_factory.mktemp("changes")) as host:
        yield Lab(host)


def base() -> Declared:
    """Return one network and one small machine with a disk and two NICs."""
    return {
        "networks": {
            "vmlan": {"reservations": {"a": {"mac": "52:54:00:00:00:01", "address": "10.0.3.11"}}}
        },
        "vms": {
            "a": tiny(
                disks=[{"size": "64M", "bus": "virtio"}],
                nics=[
                    {"network": "vmlan", "mac": "52:54:00:00:00:01"},
                    {"network": "user", "forwards": [{"host_port": 10022}]},
                ],
            )
        },
    }


def agree(lab: Lab, declared: Declared) -> Declared:
    """Apply as a dry run, then for real, then again; return what both of the first said."""
    said = lab.apply(declared=declared, test=True)
    done = lab.apply(declared=declared)
    assert lab.changes(done) == lab.changes(said)
    for name, state in said.items():
        assert state["result"] is (None if state["changes"] else True), name
        assert state.get("pending") == done[name].get("pending")
    assert lab.changes(lab.apply(declared=declared)) == {}
    return done


def effects(done: Declared, state: str) -> dict[str, str]:
    """Return the effect of each key that a state changed."""
    return {key: item["effect"] for key, item in done[state]["changes"].items()}


def with_vm(**more: Any) -> Declared:
    """Return the base with keys of its machine changed."""
    declared = base()
    declared["vms"]["a"] |= more
    return declared


def test_create(lab: Lab) -> None:
    """From nothing; everything is new."""
    done = agree(lab, base())
    assert set(effects(done, "vm_running a").values()) == {"create"}
    assert set(effects(done, "network_present vmlan").values()) == {"create"}
    assert done["reservation_present a"]["changes"] == {
        "mac": {"old": None, "new": "52:54:00:00:00:01", "effect": "create"},
        "address": {"old": None, "new": "10.0.3.11", "effect": "create"},
    }
    assert done["present lab-present"]["changes"]["ssh_key"] == {
        "old": None,
        "new": "generated",
        "effect": "create",
    }


def test_f31_live(lab: Lab) -> None:
    """Ports, a cable, a disk that grows, a disc in the drive: on the running machine."""
    lab.apply(declared=base())
    pid = lab.pids()["a"]
    iso = blank_disc(lab.host.shared / "a disc, with: odd.iso")
    declared = with_vm(disks=[{"size": "96M", "bus": "virtio"}], cdrom=str(iso), stop_grace=7)
    declared["vms"]["a"]["nics"][0]["connected"] = False
    declared["vms"]["a"]["nics"][1]["forwards"] = [{"host_port": 10023}]
    done = agree(lab, declared)
    assert effects(done, "vm_running a") == {
        "cdrom": "live",
        "disks:hda:size": "live",
        "nics:0:connected": "live",
        "nics:1:forwards": "live",
        "stop_grace": "live",
    }
    assert lab.pids()["a"] == pid
    listening = lab.host.sockets()
    assert "tcp 127.0.0.1:10023" in listening and "tcp 127.0.0.1:10022" not in listening
    assert lab.call("vm_info", "a")["disks"]["hda"]["size"] == "96M"
    assert disc_is_in(lab) is True
    # And out again.
    assert set(
        effects(agree(lab, with_vm(disks=[{"size": "96M", "bus": "virtio"}])), "vm_running a")
    ) == {
        "cdrom",
        "nics:0:connected",
        "nics:1:forwards",
        "stop_grace",
    }
    assert disc_is_in(lab) is False
    assert lab.pids()["a"] == pid


def disc_is_in(lab: Lab) -> bool:
    """Return whether there is a disc in the drive of the machine, by QEMU's own word."""
    with lab.qmp("a") as qmp:
        drives = qmp.execute("query-block")
    return [d.get("inserted") is not None for d in drives if d["qdev"].split("/")[-1] == "cdrom"][0]


def test_f31_restart_waits(lab: Lab, figures: Figures) -> None:
    """Without ``on_change: restart`` it is in no run's changes, and told as pending."""
    lab.apply(declared=with_vm(disks=[{"size": "96M", "bus": "virtio"}]))
    pid = lab.pids()["a"]
    disks = [{"size": "96M", "bus": "virtio"}, {"size": "1M", "name": "data"}]
    declared = with_vm(disks=disks, memory=48)
    done = agree(lab, declared)
    state = done["vm_running a"]
    assert state["result"] is True and state["changes"] == {}
    assert state["pending"]["memory"] == {"old": 32, "new": 48, "effect": "restart"}
    assert state["pending"]["disks"]["new"] == ["hda", "data"]
    assert "memory 32 -> 48" in " ".join(state["warnings"])
    assert lab.pids()["a"] == pid
    # The next power cycle takes it up.
    lab.call("vm_restart", "a")
    assert lab.call("vm_info", "a")["started"]["memory"] == 48
    with figures.healing(lab.host.supervisor):
        assert "pending" not in lab.apply(declared=declared)["vm_running a"]


def test_f31_disk_order_and_cards_wait(lab: Lab) -> None:
    """Which disk comes first, which network a card sits on, one more card: all told, none done."""
    two = [{"size": "96M", "name": "hda", "bus": "virtio"}, {"size": "1M", "name": "data"}]
    lab.apply(declared=with_vm(disks=two))
    lab.call("vm_restart", "a")
    pid = lab.pids()["a"]
    declared = with_vm(disks=two[::-1])
    nics = declared["vms"]["a"]["nics"]
    nics[0]["model"] = "e1000"
    nics.append({"network": "vmlan"})
    state = agree(lab, declared)["vm_running a"]
    assert state["changes"] == {}
    assert state["pending"]["disks"]["new"] == ["data", "hda"]
    assert {"nics:0:model", "nics:2:network"} <= set(state["pending"])
    assert all(item["effect"] == "restart" for item in state["pending"].values())
    assert lab.pids()["a"] == pid
    # And on request once, in good order.
    assert agree(lab, {**declared, "vms": {"a": {**declared["vms"]["a"], "on_change": "restart"}}})
    assert lab.pids()["a"] != pid
    lab.apply(declared=with_vm(disks=[{"size": "96M", "bus": "virtio"}]))


def test_f31_restart_on_request(lab: Lab) -> None:
    """With it, the machine is powered off and on once."""
    lab.apply(declared=with_vm(disks=[{"size": "96M", "bus": "virtio"}]))
    lab.call("vm_restart", "a")
    pid = lab.pids()["a"]
    declared = with_vm(disks=[{"size": "96M", "bus": "virtio"}], memory=40, on_change="restart")
    done = agree(lab, declared)
    assert effects(done, "vm_running a") == {"memory": "restart", "on_change": "live"}
    assert lab.pids()["a"] != pid


def test_f31_recreate_is_refused(lab: Lab) -> None:
    """A disk that would shrink stays as it is, in both runs."""
    lab.apply(declared=with_vm(disks=[{"size": "96M", "bus": "virtio"}]))
    before = lab.host.run(["md5sum", "/var/lib/qemulab/lab/vms/a/disks/hda.qcow2"]).stdout
    for test in (True, False):
        state = lab.apply(
            declared=with_vm(disks=[{"size": "32M", "bus": "virtio"}], memory=99),
            test=test,
            check=False,
        )["vm_running a"]
        assert state["result"] is False and state["changes"] == {}
        assert "disks:hda:size 96M -> 32M" in state["comment"]
    assert lab.host.run(["md5sum", "/var/lib/qemulab/lab/vms/a/disks/hda.qcow2"]).stdout == before


def test_network_live(lab: Lab) -> None:
    """What only the DHCP and DNS server has to know leaves machines and hub alone."""
    lab.apply(declared=with_vm(disks=[{"size": "96M", "bus": "virtio"}]))
    before = lab.pids()
    declared = with_vm(disks=[{"size": "96M", "bus": "virtio"}])
    declared["networks"]["vmlan"] |= {
        "dhcp": {"range": "10.0.3.50-10.0.3.60", "router": "none", "lease_time": "5m"},
        "dns": {"upstream": "none", "names": {"registry.lab": "10.0.3.1"}},
    }
    done = agree(lab, declared)
    assert set(effects(done, "network_present vmlan").values()) == {"live"}
    after = lab.pids()
    assert after["dnsmasq vmlan"] != before["dnsmasq vmlan"]
    assert {**after, "dnsmasq vmlan": 0} == {**before, "dnsmasq vmlan": 0}
    assert dig(lab, "registry.lab") == "10.0.3.1"


def dig(lab: Lab, name: str, address: str = "10.0.3.1") -> str:
    """Return what the lab's DNS server answers the host."""
    words = ["dig", "+short", "+time=2", "+tries=1", f"@{address}", "-q", name]
    return lab.host.run(words, check=False).stdout.strip()


def test_name_needs_no_restart(lab: Lab) -> None:
    """A further name is there at once, from the same process; and gone again."""
    lab.apply(declared=with_vm(disks=[{"size": "96M", "bus": "virtio"}]))
    before = lab.pids()
    declared = with_vm(disks=[{"size": "96M", "bus": "virtio"}])
    declared["networks"]["vmlan"]["dns"] = {"names": {"mirror": "10.0.3.77"}}
    agree(lab, declared)
    harness.wait_for(lambda: dig(lab, "mirror") == "10.0.3.77", 5, "the name")
    agree(lab, with_vm(disks=[{"size": "96M", "bus": "virtio"}]))
    harness.wait_for(lambda: dig(lab, "mirror") == "", 5, "the name's end")
    assert lab.pids() == before


def test_f31_network_restart(lab: Lab) -> None:
    """A new group waits and names the machines; with ``on_change: restart`` they are restarted."""
    declared = with_vm(disks=[{"size": "96M", "bus": "virtio"}])
    lab.apply(declared=declared)
    lab.call("vm_restart", "a")  # nothing else may be waiting for the restart that comes
    before = lab.pids()
    declared["networks"]["vmlan"]["multicast"] = "239.1.2.3:2345"
    state = agree(lab, copy.deepcopy(declared))["network_present vmlan"]
    assert state["changes"] == {}
    assert state["pending"] == {
        "multicast": {"old": "230.0.0.1:1234", "new": "239.1.2.3:2345", "effect": "restart"}
    }
    assert "restart of a" in " ".join(state["warnings"])
    assert lab.pids() == before
    declared["networks"]["vmlan"]["on_change"] = "restart"
    done = agree(lab, declared)
    assert effects(done, "network_present vmlan") == {"multicast": "restart", "on_change": "live"}
    after = lab.pids()
    assert after["a"] != before["a"] and after["hub vmlan"] != before["hub vmlan"]
    assert "239.1.2.3 dev lo scope link" in lab.host.routes()
    assert not any("230.0.0.1" in route for route in lab.host.routes())
    command = lab.host.run(["cat", f"/proc/{after['a']}/cmdline"]).stdout
    assert '"mcast":"239.1.2.3:2345"' in command


def test_new_address(lab: Lab) -> None:
    """With no machine running it costs nothing, and everything moves with it."""
    declared = with_vm(disks=[{"size": "96M", "bus": "virtio"}])
    lab.apply(declared=declared)
    lab.call("vm_stop", "a", "grace=0")
    network = declared["networks"]["vmlan"]
    network["address"] = "10.0.9.1/24"
    network["reservations"]["a"]["address"] = "10.0.9.11"
    done = agree(lab, declared)
    assert set(effects(done, "network_present vmlan").values()) == {"live"}
    assert dig(lab, "a", "10.0.9.1") == "10.0.9.11"
    assert any(route.startswith("10.0.9.0/24 dev vmlan") for route in lab.host.routes())
    assert not any(route.startswith("10.0.3.0/24") for route in lab.host.routes())


def test_link_heals(lab: Lab) -> None:
    """What a person broke by hand is told and repaired."""
    declared = with_vm(disks=[{"size": "96M", "bus": "virtio"}])
    lab.apply(declared=declared)
    lab.host.run(["ip", "address", "flush", "dev", "vmlan"])
    lab.host.run(["ip", "route", "delete", "230.0.0.1/32", "dev", "lo"])
    done = agree(lab, declared)
    assert done["network_present vmlan"]["changes"] == {
        "link": {"old": "no address", "new": "up", "effect": "live"},
        "route": {"old": "absent", "new": "loopback", "effect": "live"},
    }


def test_f32_prune_reports_and_stops(lab: Lab, figures: Figures) -> None:
    """Never without being asked, never a disk, never on an empty or faulty pillar."""
    declared = with_vm(disks=[{"size": "96M", "bus": "virtio"}])
    declared["vms"]["b"] = tiny(disks=[{"size": "1M"}], nics=[])
    lab.apply(declared=declared)
    del declared["vms"]["b"]
    state = agree(lab, declared)["pruned lab-pruned"]
    assert state["changes"] == {}
    assert "machines no longer declared: b" in state["warnings"]
    for faulty in ({}, None, {"vms": {"b": {"memory": "much"}}, "prune": "stop"}):
        states = lab.apply(declared=faulty or {"name": "lab", "prune": "stop"}, check=False)
        comment = states["declared lab-declared"]["comment"]
        assert "this runs on in the lab lab: machines a, b; networks vmlan" in comment
    assert lab.call("vm_list")["b"] == "running"
    declared["prune"] = "stop"
    state = agree(lab, declared)["pruned lab-pruned"]
    assert state["changes"] == {"vms:b": {"old": "running", "new": "stopped", "effect": "stop"}}
    assert lab.call("vm_info", "b")["disks"]["hda"]["size"] == "1M"
    with figures.healing(lab.host.supervisor):
        assert lab.changes(lab.apply(declared=declared)) == {}
    # An explicit empty mapping is a declaration: there is to be no machine.
    declared["vms"] = {}
    said = lab.changes(lab.apply(declared=declared, test=True))
    assert said["pruned lab-pruned"].keys() == {"vms:a"}
    assert lab.changes(lab.apply(declared=declared)) == said
    assert set(lab.call("vm_list").values()) == {"stopped"}


def test_f32_a_disk_that_is_no_longer_declared_stays(lab: Lab) -> None:
    """The machine loses it at its next start; its file is nobody's to remove."""
    lab.apply(
        declared=with_vm(disks=[{"size": "96M", "bus": "virtio"}, {"size": "1M", "name": "data"}])
    )
    path = "/var/lib/qemulab/lab/vms/a/disks/data.qcow2"
    before = lab.host.run(["md5sum", path]).stdout
    declared = with_vm(disks=[{"size": "96M", "bus": "virtio"}], on_change="restart")
    agree(lab, declared)
    assert lab.host.run(["md5sum", path]).stdout == before


def test_f5_a_lab_survives_its_apply(lab: Lab, figures: Figures) -> None:
    """The processes are not the caller's: they outlive its whole group, session and unit."""
    declared = with_vm(disks=[{"size": "96M", "bus": "virtio"}])
    lab.apply(declared=declared)
    pillar = lab.pillar(declared)
    call = shlex.join([f"{harness.REPO}/salt-call", "state.apply", "lab"])
    command = f"QEMULAB_PILLAR={pillar} exec {call}"
    begin = {"setsid": ["setsid", "--wait"]}
    if lab.host.supervisor == "systemd":
        unit = ["systemd-run", "--quiet", "--wait"]
        modes = ("process", "mixed", "control-group")
        begin = {mode: [*unit, f"--property=KillMode={mode}"] for mode in modes}
    for mode, words in begin.items():
        lab.call("vm_stop", "a", "grace=0")
        lab.host.run([*words, "sh", "-c", command])
        assert lab.call("vm_info", "a")["running"], mode
    before = lab.pids()
    with figures.healing(lab.host.supervisor):
        assert lab.changes(lab.apply(declared=declared)) == {}
    assert lab.pids() == before


def test_stopped_present_and_absent(lab: Lab) -> None:
    """The states that a user writes himself, in a dry run and for real."""
    sls = lab.host.shared / "tree" / "own.sls"
    sls.parent.mkdir(exist_ok=True)
    lines = [
        "b:",
        "  qemulab.vm_present:",
        "    - memory: 24",
        "    - boot: disk",
        "    - firmware: bios",
        "    - nics: []",
        "    - disks: [{size: 1M}]",
        "    - require:",
        "      - qemulab: a",
        "a:",
        "  qemulab.vm_stopped: []",
        "worker9:",
        "  qemulab.reservation_absent:",
        "    - network: vmlan",
    ]
    lab.apply(declared=with_vm(disks=[{"size": "96M", "bus": "virtio"}]))
    sls.write_text("\n".join(lines) + "\n", encoding="utf-8")
    own = ["state.apply", "own", f"--file-root={sls.parent}"]
    lab.host.salt_call("qemulab.vm_remove", "b", "purge=True")
    said = labs.flat(lab.host.salt_call(*own, "test=True"))
    done = labs.flat(lab.host.salt_call(*own))
    assert lab.changes(done) == lab.changes(said)
    assert done["vm_stopped a"]["changes"] == {
        "running": {"old": True, "new": False, "effect": "stop"}
    }
    assert done["vm_present b"]["changes"]["disks:hda:size"]["new"] == "1M"
    assert lab.call("vm_list") == {"a": "stopped", "b": "stopped"}
    assert lab.changes(labs.flat(lab.host.salt_call(*own))) == {}
